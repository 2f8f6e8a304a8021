//! Limits by the day, of tenants and of connections, and how a refusal is told.

use mcp_node::MeterSettings;
use schemas::{Period, RateLimits, Record, RefusalReason};
use serde_json::{Value, json};

use crate::{
    rig::{Rig, SECRET, World, http_upstream, message, until, with_server},
    server::Server,
};

const DAY_MS: i64 = 86_400_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_by_the_day_is_refused_until_the_next_day() {
    let (rig, _server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(1)).await;
    let now = mcp_node::clock::wall();
    let from = now.plus_ms(-now.0.rem_euclid(DAY_MS));
    let day = Period { from, to: from.plus_ms(DAY_MS) };
    rig.ledger().limit(&key, "tool_calls", 2, Some(day));
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    for id in 0..2 {
        let served = caller.call(id, "success", json!({})).await;
        assert_eq!(served.status(), 200);
        let policy = served.headers()["ratelimit-policy"].to_str().unwrap();
        assert_eq!(policy, r#""tool_calls";q=2;w=86400"#);
    }
    let refused = caller.call(2, "success", json!({})).await;
    assert_eq!(refused.status(), 429);
    let left = u64::try_from(day.to.ms_since(mcp_node::clock::wall())).unwrap().div_ceil(1_000);
    let after: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((left..=left + 5).contains(&after), "{after} s, and {left} s are left of the day");
    let state = refused.headers()["ratelimit"].to_str().unwrap();
    assert!(state.starts_with(r#""tool_calls";r=0;t="#), "{state}");
    let data = message(refused.body())["error"]["data"].clone();
    assert_eq!((&data["reason"], &data["scope"]), (&json!("quota_exhausted"), &json!("key")));
    assert_eq!((&data["limit"], &data["remaining"]), (&json!(2), &json!(0)));
    assert_eq!(data["resetAt"], day.to.to_string());
    let world = rig.stop().await;
    assert_eq!((world.ledger.consumed(&key), world.ledger.outstanding(&key)), (2, 0));
}

/// A rig whose node is told how much.
async fn with_settings(settings: MeterSettings) -> Rig {
    let (world, server) = (World::start().await, Server::start().await);
    Rig::start_metering(world, http_upstream(&server.url()), settings).await
}

fn told(body: &[u8]) -> (Value, Value) {
    let data = message(body)["error"]["data"].clone();
    (data["reason"].clone(), data["scope"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_keys_share_its_bound_and_a_refused_call_takes_nothing() {
    let bound = RateLimits { per_minute: 1, burst: 3, concurrent: None };
    let rig = with_settings(MeterSettings { tenant: Some(bound), ..Default::default() }).await;
    let first = rig.ledger().key(SECRET, None).await;
    let rate = RateLimits { per_minute: 1, burst: 2, concurrent: None };
    let second = rig.ledger().key_with("tb_second", None, |key| {
        (key.tenant, key.shard, key.rate) = (first.tenant, first.shard, Some(rate));
    });
    let second = second.await;
    rig.ledger().key("tb_other", None).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_other").is_ok()).await;
    let (a, b) = (rig.caller(SECRET), rig.caller("tb_second"));
    assert_eq!(a.call(1, "success", json!({})).await.status(), 200);
    assert_eq!(b.call(1, "success", json!({})).await.status(), 200);
    assert_eq!(a.call(2, "success", json!({})).await.status(), 200);
    for id in 2..5 {
        let refused = b.call(id, "success", json!({})).await;
        assert_eq!(refused.status(), 429);
        let by_tenant = (json!("rate_limited"), json!("tenant"));
        assert_eq!(told(refused.body()), by_tenant, "its own rate still has one: none was taken");
        assert!(refused.headers().contains_key("retry-after"));
    }
    let other = rig.caller("tb_other").call(1, "success", json!({})).await;
    assert_eq!(other.status(), 200, "another tenant's");
    let world = rig.stop().await;
    assert_eq!((world.ledger.consumed(&first), world.ledger.consumed(&second)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_bound_of_its_own() {
    let bound = RateLimits { per_minute: 1, burst: 2, concurrent: None };
    let rig = with_settings(MeterSettings { connection: Some(bound), ..Default::default() }).await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    for id in 0..2 {
        assert_eq!(caller.call(id, "success", json!({})).await.status(), 200);
    }
    let mut refused = None;
    for id in 2..50 {
        // A client may open another connection at any time; each has two calls.
        let response = caller.call(id, "success", json!({})).await;
        if response.status() != 200 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("a connection has no more than two");
    assert_eq!(told(refused.body()), (json!("rate_limited"), json!("connection")));
    let other = rig.caller(SECRET).call(3, "success", json!({})).await;
    assert_eq!(other.status(), 200, "the same key on another connection");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_can_be_told_to_the_model_and_counts_for_nothing() {
    let rig = with_settings(MeterSettings { refuse_by_results: true, ..Default::default() }).await;
    let one_tool = |key: &mut schemas::KeyState| key.tools = Some(vec!["success".into()]);
    let key = rig.ledger().key_with(SECRET, Some(1), one_tool).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
    let old = caller.call(7, "success", json!({})).await;
    assert_eq!(old.status(), 200);
    assert!(old.headers()["ratelimit"].to_str().unwrap().starts_with(r#""tool_calls";r=0;t="#));
    let old = message(old.body());
    assert_eq!((&old["id"], &old["result"]["isError"]), (&json!(7), &json!(true)));
    assert_eq!(old["result"]["resultType"], Value::Null, "older results have no type");
    let text = old["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("1 of 1 calls of this key used; resets "), "{text}");
    let data = &old["result"]["_meta"]["dev.tollbook/refusal"];
    assert_eq!((&data["reason"], &data["code"]), (&json!("quota_exhausted"), &json!(42_901)));
    assert!(data["retryAfterMs"].as_u64().is_some());
    let (status, new) = caller.asked("tools/call", json!({ "name": "success" })).await;
    assert_eq!((status, &new["result"]["resultType"]), (200, &json!("complete")));
    assert_eq!(new["result"]["isError"], true);
    let (status, error) = caller.called(8, "tool_error", json!({})).await;
    assert_eq!(status, 403, "what a model cannot wait for stays an error: {error}");
    let world = rig.stop().await;
    assert_eq!(world.ledger.consumed(&key), 1);
    let records = world.ledger.records();
    let refused = records.iter().filter_map(|placed| match &placed.record {
        Record::Refused { reason: RefusalReason::QuotaExhausted, calls, .. } => Some(calls.0),
        _ => None,
    });
    assert_eq!(refused.sum::<u64>(), 2, "both are recorded as refused");
}
