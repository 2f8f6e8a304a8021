//! Meters besides calls, and tools that weigh more or nothing: counted to the unit, never over a hard quota.

use mcp_node::MeterSettings;
use mcp_node_core::{
    glob::Glob,
    metering::{Cancelled, ExtraMeter, Metering, Source},
};
use schemas::{Record, UsageEvent};
use serde_json::json;

use crate::{
    ledger::Placed,
    rig::{Rig, SECRET, World, call, http_upstream, message, until},
    server::Server,
};

fn meter(name: &str, from: &str, tool: &str, reserve: u64) -> ExtraMeter {
    let (name, from) = (name.parse().unwrap(), Source::parse(from).unwrap());
    let (tools, cancelled) = (vec![Glob::parse(tool).unwrap()], Cancelled::default());
    ExtraMeter { name, from, tools, reserve, cancelled }
}

async fn counting(meters: Vec<ExtraMeter>, weights: &[(&str, u64)]) -> Rig {
    let weights = weights.iter().map(|(tool, weight)| (Glob::parse(tool).unwrap(), *weight));
    let metering = Metering::new(meters, weights.collect()).unwrap();
    let (world, server) = (World::start().await, Server::start().await);
    let settings = MeterSettings { metering, ..Default::default() };
    Rig::start_metering(world, http_upstream(&server.url()), settings).await
}

fn tokens(reserve: u64) -> Vec<ExtraMeter> {
    vec![meter("tokens", "/_meta/usage/tokens", "tokens_*", reserve)]
}

/// What each call of a tool counted for, in the order of the log.
fn quantities(records: &[Placed], tool: &str) -> Vec<Vec<(String, u64)>> {
    let of_tool = |event: &UsageEvent| event.tool == tool;
    let events = records.iter().filter_map(|placed| match &placed.record {
        Record::Usage(event) => Some(event).filter(|event| of_tool(event)),
        _ => None,
    });
    let units = |event: &UsageEvent| {
        let quantities = event.quantities.iter();
        quantities.map(|(meter, units)| (meter.as_str().to_owned(), units.0)).collect()
    };
    events.map(units).collect()
}

fn units(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(meter, units)| ((*meter).to_owned(), *units)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_quota_of_tokens_is_exact() {
    let rig = counting(tokens(100), &[]).await;
    let key = rig.ledger().key_with(SECRET, None, |key| key.limited = true).await;
    rig.ledger().limit(&key, "tokens", 1_000, None);
    let other = rig.ledger().key_with("tb_other", None, |key| key.limited = true).await;
    rig.ledger().limit(&other, "tokens", 500, None);
    until("the keys are known", || rig.node.meter().authenticate("tb_other").is_ok()).await;
    let caller = rig.caller(SECRET);
    let mut statuses = vec![];
    for id in 0..20 {
        statuses.push(caller.called(id, "tokens_70", json!({})).await.0);
    }
    // A call goes while 100 are left: after 13 calls, 90 are.
    assert_eq!(statuses, [vec![200; 13], vec![429; 7]].concat());
    let first = rig.caller("tb_other").call(1, "tokens_70", json!({})).await;
    let left = message(first.body())["result"]["_meta"]["dev.tollbook/quota"]["meters"].clone();
    assert_eq!((&left[0]["meter"], &left[0]["limit"]), (&json!("tokens"), &json!(500)), "{left}");
    assert_eq!(left[0]["remaining"], 400, "what is set aside for this call is not left");
    let state = first.headers()["ratelimit"].to_str().unwrap();
    assert!(state.starts_with(r#""tokens";r=400;t="#), "{state}");
    let refused = caller.call(20, "tokens_70", json!({})).await;
    let data = message(refused.body())["error"]["data"].clone();
    assert_eq!((&data["reason"], &data["meter"]), (&json!("quota_exhausted"), &json!("tokens")));
    let policy = refused.headers()["ratelimit-policy"].to_str().unwrap();
    assert!(policy.starts_with(r#""tokens";q=1000;w="#), "{policy}");
    assert_eq!(caller.called(21, "success", json!({})).await.0, 200, "it takes no tokens");
    let world = rig.stop().await;
    assert_eq!((world.ledger.used(&key, "tokens"), world.ledger.consumed(&key)), (910, 14));
    assert_eq!(world.ledger.outstanding(&key), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_never_overshoot_a_quota_of_tokens() {
    let rig = counting(tokens(50), &[]).await;
    let key = rig.ledger().key_with(SECRET, None, |key| key.limited = true).await;
    rig.ledger().limit(&key, "tokens", 1_000, None);
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let calls = (0..60).map(|id| {
        let caller = rig.caller(SECRET);
        async move { caller.called(id, "tokens_50", json!({})).await.0 }
    });
    let statuses = futures::future::join_all(calls).await;
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(served, 20, "{statuses:?}");
    let world = rig.stop().await;
    assert_eq!((world.ledger.used(&key, "tokens"), world.ledger.outstanding(&key)), (1_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_the_reserve_counts_as_far_as_the_lease_has_it() {
    let rig = counting(tokens(100), &[]).await;
    let key = rig.ledger().key_with(SECRET, None, |key| key.limited = true).await;
    rig.ledger().limit(&key, "tokens", 1_000, None);
    let unlimited = rig.ledger().key("tb_free", None).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_free").is_ok()).await;
    let caller = rig.caller(SECRET);
    // Leases are a quarter of what is left: 250, then 188.
    assert_eq!(caller.called(1, "tokens_250", json!({})).await.0, 200);
    assert_eq!(caller.called(2, "tokens_5000", json!({})).await.0, 200);
    let free = rig.caller("tb_free");
    assert_eq!(free.called(3, "tokens_4000", json!({})).await.0, 200);
    for (id, unreadable) in (4..).zip(["-3", "1.5", "\"7\"", "null", "2000000000000"]) {
        let tool = format!("tokens_{unreadable}");
        assert_eq!(free.called(id, &tool, json!({})).await.0, 200, "{tool}");
    }
    let world = rig.stop().await;
    let records = world.ledger.records();
    let counted = |tool: &str| quantities(&records, tool);
    assert_eq!(counted("tokens_250"), [units(&[("tokens", 250), ("tool_calls", 1)])]);
    assert_eq!(counted("tokens_5000"), [units(&[("tokens", 188), ("tool_calls", 1)])]);
    assert_eq!(counted("tokens_4000"), [units(&[("tokens", 4_000), ("tool_calls", 1)])]);
    assert_eq!(counted("tokens_-3"), [units(&[("tool_calls", 1)])], "it cannot be read");
    assert_eq!(world.ledger.used(&key, "tokens"), 438);
    assert_eq!(world.ledger.used(&unlimited, "tokens"), 4_000);
    assert_eq!(world.ledger.used(&unlimited, "tool_calls"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_weighs_what_it_is_said_to_and_a_free_one_is_served_when_all_is_spent() {
    let meters = vec![meter("bytes", "bytes_in", "slow", 1_000)];
    let rig = counting(meters, &[("success", 5), ("ev*", 0)]).await;
    let key = rig.ledger().key(SECRET, Some(12)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let status = async |id: u64, tool: &str| caller.called(id, tool, json!({})).await.0;
    assert_eq!((status(1, "success").await, status(2, "success").await), (200, 200));
    assert_eq!(status(3, "success").await, 429, "two are left, and it takes five");
    assert_eq!((status(4, "slow").await, status(5, "slow").await), (200, 200));
    assert_eq!((status(6, "slow").await, status(7, "success").await), (429, 429));
    assert_eq!((status(8, "events").await, status(9, "events").await), (200, 200), "free");
    let world = rig.stop().await;
    assert_eq!((world.ledger.consumed(&key), world.ledger.outstanding(&key)), (12, 0));
    let records = world.ledger.records();
    let (five, none) = (units(&[("tool_calls", 5)]), vec![]);
    assert_eq!(quantities(&records, "success"), [five.clone(), five]);
    assert_eq!(quantities(&records, "events"), [none.clone(), none]);
    let size = call(4, "slow", json!({})).len() as u64;
    assert_eq!(quantities(&records, "slow")[0], units(&[("bytes", size), ("tool_calls", 1)]));
}
