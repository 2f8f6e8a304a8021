//! Calls that wait for what others hold: they take nothing meanwhile, and one key has few of them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use mcp_node::MeterSettings;
use schemas::RateLimits;
use serde_json::json;

use crate::{
    rig::{Rig, SECRET, World, http_upstream, reason, until},
    server::Server,
};

/// Calls of one key that wait at most.
const MAX_WAITING: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_takes_no_place_and_no_token_of_its_tenant() {
    let (world, server) = (World::start().await, Server::start().await);
    // One call at a time, and two in all: a call that waits must have neither.
    let bound = RateLimits { per_minute: 1, burst: 2, concurrent: Some(1) };
    let settings = MeterSettings { tenant: Some(bound), ..Default::default() };
    let rig = Rig::start_metering(world, http_upstream(&server.url()), settings).await;
    let short = rig.ledger().key(SECRET, Some(10)).await;
    rig.ledger().hold(&short, 10);
    let other = rig.ledger().key_with("tb_other", None, |key| {
        (key.tenant, key.shard) = (short.tenant, short.shard);
    });
    other.await;
    until("the keys are known", || rig.node.meter().authenticate("tb_other").is_ok()).await;
    let caller = rig.caller(SECRET);
    let waiting = tokio::spawn(async move {
        let begun = Instant::now();
        let response = caller.call(1, "success", json!({})).await;
        (reason(response.body()), begun.elapsed())
    });
    until("its lease was asked for", || rig.ledger().was_asked(&short)).await;
    for id in 2..4 {
        assert_eq!(rig.caller("tb_other").called(id, "success", json!({})).await.0, 200);
    }
    assert!(!waiting.is_finished(), "it waits still");
    let (why, waited) = waiting.await.unwrap();
    assert_eq!(why, "units_held");
    assert!(waited >= Duration::from_millis(1_500), "{waited:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_cannot_pile_up_calls_that_wait() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let short = rig.ledger().key(SECRET, Some(10)).await;
    rig.ledger().hold(&short, 10);
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    // The refusal stands from here on, so each of the calls below waits for held units.
    assert_eq!(caller.called(0, "success", json!({})).await.0, 429);
    let calls = (0..MAX_WAITING + 60).map(|id| {
        let caller = caller.clone();
        async move {
            let begun = Instant::now();
            let response = caller.call(id as u64, "success", json!({})).await;
            (reason(response.body()), begun.elapsed())
        }
    });
    let seen = join_all(calls).await;
    let is_at_once = |waited: &Duration| *waited < Duration::from_millis(1_000);
    // Whose time ran out while the ledger was asked again may hear that it did not answer.
    let is_told = |(why, waited): &(String, Duration)| {
        why == "units_held" || why == "ledger_unreachable" && !is_at_once(waited)
    };
    assert!(seen.iter().all(is_told), "{seen:?}");
    let at_once = seen.iter().filter(|(_, waited)| is_at_once(waited)).count();
    assert!(at_once >= 60, "{at_once} were refused at once: {seen:?}");
    let waited = seen.len() - at_once;
    assert!(waited > 0, "some wait");
    rig.stop().await;
}
