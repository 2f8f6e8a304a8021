//! Leases as callers see them: exact to the unit, quick, and closed.

use std::time::{Duration, Instant};

use futures::future::join_all;
use http::Method;
use mcp_node::Node;
use runtime::nats;
use schemas::{KeyStatus, Record};
use serde_json::json;
use stack::Part;

use crate::{
    rig::{
        Caller, Rig, SECRET, World, call, http_upstream, message, open_door, reason, until,
        with_server,
    },
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_quota_is_exact_under_load_and_what_is_free_costs_nothing() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let key = rig.ledger().key(SECRET, Some(50)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    for id in 0..20 {
        assert_eq!(caller.called(id, "tool_error", json!({})).await.0, 200, "free");
    }
    let first = caller.call(0, "success", json!({})).await;
    let left: u64 = first.headers()["x-tollbook-remaining"].to_str().unwrap().parse().unwrap();
    assert_eq!(left, 49);
    assert!(first.headers()["ratelimit"].to_str().unwrap().starts_with(r#""tool_calls";r=49;t="#));
    let calls = (1..=120).map(|id| {
        let caller = caller.clone();
        async move { caller.call(id, "success", json!({})).await }
    });
    let statuses: Vec<u16> =
        join_all(calls).await.iter().map(|response| response.status().as_u16()).collect();
    let served = statuses.iter().filter(|status| **status == 200).count();
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!((served, refused), (49, 71), "{statuses:?}");

    let begun = Instant::now();
    let response = caller.call(999, "success", json!({})).await;
    assert!(begun.elapsed() < Duration::from_millis(500), "remembered, not asked again");
    assert_eq!(response.status(), 429);
    let after: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((900..=1_000).contains(&after), "until the period ends: {after}");
    let error = crate::rig::message(response.body())["error"].clone();
    assert_eq!((&error["code"], &error["data"]["limit"]), (&json!(42_901), &json!(50)));

    let world = rig.stop().await;
    assert_eq!((world.ledger.consumed(&key), world.ledger.outstanding(&key)), (50, 0));
    let refused: u64 = world
        .ledger
        .records()
        .iter()
        .map(|placed| match &placed.record {
            Record::Refused { calls, .. } => calls.0,
            _ => 0,
        })
        .sum();
    assert_eq!(refused, 72, "every refusal is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_share_a_quota_to_the_last_unit() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let nats = nats::connect(&rig.world.server.url(), "second").await.unwrap();
    let mut settings = rig.world.spool();
    settings.spool_dir = rig.world.folder.path().join("second");
    let second = Node::start(&settings, &nats).await.unwrap();
    let (address, _upstream, closing) = open_door(&second, http_upstream(&server.url())).await;
    let key = rig.ledger().key(SECRET, Some(40)).await;
    until("both know the key", || {
        rig.node.meter().authenticate(SECRET).is_ok() && second.meter().authenticate(SECRET).is_ok()
    })
    .await;
    let callers = [rig.caller(SECRET), Caller::new(&format!("http://{address}/mcp"), SECRET)];
    let mut statuses = vec![];
    for (id, caller) in (0..60).zip(callers.iter().cycle()) {
        statuses.push(caller.called(id, "success", json!({})).await.0);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 40, "{statuses:?}");
    closing.cancel();
    second.stop(Duration::from_secs(5), Duration::from_secs(5)).await;
    let world = rig.stop().await;
    assert_eq!((world.ledger.consumed(&key), world.ledger.outstanding(&key)), (40, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_at_once_and_gives_back_what_it_holds() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let mut key = rig.ledger().key(SECRET, Some(1_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    assert_eq!(rig.caller(SECRET).called(1, "success", json!({})).await.0, 200);
    until("it is counted", || rig.ledger().consumed(&key) == 1).await;
    assert!(rig.ledger().outstanding(&key) > 0);
    key.status = KeyStatus::Revoked;
    rig.ledger().put(&mut key).await;
    until("it is refused", || rig.node.meter().authenticate(SECRET).is_err()).await;
    assert_eq!(rig.caller(SECRET).called(2, "success", json!({})).await.0, 401);
    until("its units are free", || rig.ledger().outstanding(&key) == 0).await;
    key.status = KeyStatus::Active;
    rig.ledger().put(&mut key).await;
    until("it serves again", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    assert_eq!(rig.caller(SECRET).called(3, "success", json!({})).await.0, 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_by_time_and_by_recall() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let key = rig.ledger().key(SECRET, Some(1_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    rig.ledger().grant(600, 1_000);
    assert_eq!(rig.caller(SECRET).called(1, "success", json!({})).await.0, 200);
    until("it is closed by time", || {
        rig.ledger().consumed(&key) == 1 && rig.ledger().outstanding(&key) == 0
    })
    .await;
    rig.ledger().grant(90_000, 1_000);
    assert_eq!(rig.caller(SECRET).called(2, "success", json!({})).await.0, 200);
    until("it is counted", || rig.ledger().consumed(&key) == 2).await;
    assert!(rig.ledger().outstanding(&key) > 0);
    let begun = Instant::now();
    while rig.ledger().outstanding(&key) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "given back when it is recalled");
        rig.ledger().recall(&key).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rig.caller(SECRET).called(3, "success", json!({})).await.0, 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ledger_calls_go_on_while_the_lease_lasts_and_then_wait_two_seconds() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    rig.ledger().grant(90_000, 3);
    let key = rig.ledger().key(SECRET, Some(1_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
    rig.ledger().silence(true);
    for id in 2..=3 {
        assert_eq!(caller.called(id, "success", json!({})).await.0, 200);
    }
    let begun = Instant::now();
    let (status, body) = loop {
        // A prefetch from before the silence may have brought three more.
        let (status, body) = caller.called(4, "success", json!({})).await;
        if status != 200 {
            break (status, body);
        }
    };
    let waited = begun.elapsed();
    assert_eq!((status, &body["error"]["data"]["reason"]), (503, &json!("ledger_unreachable")));
    assert!((Duration::from_millis(1_900)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    rig.ledger().silence(false);
    assert_eq!(
        caller.called(5, "success", json!({})).await.0,
        200,
        "the same question was repeated and answered"
    );
    let world = rig.stop().await;
    assert_eq!(world.ledger.outstanding(&key), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_nats_is_away_and_nothing_is_lost_or_doubled() {
    let server = Server::start().await;
    let mut rig = Rig::start(http_upstream(&server.url())).await;
    let key = rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let mut id = 0;
    let mut serve = async |count: u64| {
        for _ in 0..count {
            id += 1;
            assert_eq!(caller.called(id, "success", json!({})).await.0, 200, "call {id}");
        }
    };
    serve(50).await;
    for _ in 0..3 {
        rig.world.server.kill().await.unwrap();
        serve(100).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        serve(100).await;
        rig.world.server.start_again().await.unwrap();
        serve(100).await;
    }
    let ledger = rig.ledger().clone();
    until("every call is counted", || ledger.consumed(&key) == 950).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_node_leaves_nothing_open_and_its_next_start_ends_nothing_again() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let key = rig.ledger().key(SECRET, Some(100)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    for id in 0..10 {
        assert_eq!(rig.caller(SECRET).called(id, "success", json!({})).await.0, 200);
    }
    let world: World = rig.stop().await;
    assert_eq!((world.ledger.consumed(&key), world.ledger.outstanding(&key)), (10, 0));
    let closed = |world: &World| {
        let records = world.ledger.records();
        let ends =
            records.iter().filter(|placed| matches!(placed.record, Record::EpochEnded)).count();
        (records.len(), ends)
    };
    let before = closed(&world);
    assert_eq!(before.1, 1, "ended where it was used, once");
    let rig = Rig::start_in(world, http_upstream(&server.url())).await;
    assert_eq!(rig.caller(SECRET).called(11, "success", json!({})).await.0, 200);
    let world = rig.stop().await;
    assert_eq!(closed(&world).1, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_change_while_the_node_is_away_are_known_when_it_is_back() {
    let server = Server::start().await;
    let world = World::start().await;
    // More than one fetch of the load.
    for number in 0..2_500 {
        world.ledger.key(&format!("tb_{number}"), None).await;
    }
    let mut rig = Rig::start_in(world, http_upstream(&server.url())).await;
    for number in [0, 1_234, 2_499] {
        assert!(rig.node.meter().authenticate(&format!("tb_{number}")).is_ok());
    }
    let mut key = rig.ledger().key(SECRET, None).await;
    until("a new key is pushed", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    for status in [KeyStatus::Suspended, KeyStatus::Active, KeyStatus::Revoked] {
        rig.world.server.kill().await.unwrap();
        rig.world.server.start_again().await.unwrap();
        key.status = status;
        rig.ledger().put(&mut key).await; // Whether the node is back by now or not.
        let serves = status == KeyStatus::Active;
        until("it is seen", || rig.node.meter().authenticate(SECRET).is_ok() == serves).await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_calls_too_fast_is_told_when_to_come_back() {
    let (rig, server) = with_server().await;
    let slow = schemas::RateLimits { per_minute: 1, burst: 3, concurrent: None };
    let key = rig.ledger().key_with(SECRET, Some(100), |key| key.rate = Some(slow)).await;
    let few = schemas::RateLimits { per_minute: 60_000, burst: 1_000, concurrent: Some(2) };
    rig.ledger().key_with("tb_few", None, |key| key.rate = Some(few)).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_few").is_ok()).await;
    let caller = rig.caller(SECRET);
    for id in 0..3 {
        assert_eq!(caller.called(id, "success", json!({})).await.0, 200);
    }
    let refused = caller.call(3, "success", json!({})).await;
    assert_eq!((refused.status().as_u16(), reason(refused.body()).as_str()), (429, "rate_limited"));
    let header = |name: &str| refused.headers()[name].to_str().unwrap().to_owned();
    let wait: u64 = header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(header("ratelimit-policy"), r#""calls";q=1;w=60"#);
    assert_eq!(header("ratelimit"), format!(r#""calls";r=0;t={wait}"#));
    assert_eq!(message(refused.body())["error"]["data"]["perMinute"], 1);

    let caller = rig.caller("tb_few");
    let first = caller.stream(Method::POST, call(1, "stream", json!({}))).await;
    let second = caller.stream(Method::POST, call(2, "stream", json!({}))).await;
    let refused = caller.call(3, "success", json!({})).await;
    assert_eq!(
        (refused.status().as_u16(), reason(refused.body()).as_str()),
        (429, "too_many_running")
    );
    server.end();
    let ended = || rig.outcomes().iter().any(|(tool, _)| tool == "stream");
    until("one has ended", ended).await;
    assert_eq!(caller.called(4, "success", json!({})).await.0, 200);
    server.end();
    drop((first, second));
    let world = rig.stop().await;
    assert_eq!(world.ledger.consumed(&key), 3, "what was refused cost nothing");
}
