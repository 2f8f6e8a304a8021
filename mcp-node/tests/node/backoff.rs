//! Keys that do not keep to their rate: longer waits, then a block, each visible; and nobody else is touched.

use std::{collections::BTreeSet, time::Instant};

use mcp_node::MeterSettings;
use mcp_node_core::violations::Backoff;
use schemas::RateLimits;
use serde_json::json;

use crate::{
    rig::{Rig, SECRET, World, http_upstream, message, until},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_calls_on_is_told_to_wait_longer_and_then_blocked() {
    let (world, server) = (World::start().await, Server::start().await);
    let rules = Backoff { after: 2, window_ms: 60_000, steps: 1, max_ms: 30_000, block_ms: 40_000 };
    let settings = MeterSettings { backoff: rules, ..Default::default() };
    let rig = Rig::start_metering(world, http_upstream(&server.url()), settings).await;
    let slow = RateLimits { per_minute: 6, burst: 1, concurrent: None };
    let key = rig.ledger().key_with(SECRET, Some(100), |key| key.rate = Some(slow)).await;
    rig.ledger().key_with("tb_patient", None, |key| key.rate = Some(slow)).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_patient").is_ok()).await;
    let caller = rig.caller(SECRET);
    assert_eq!(caller.called(0, "success", json!({})).await.0, 200);
    let (mut seen, begun) = (BTreeSet::new(), Instant::now());
    let blocked = loop {
        assert!(begun.elapsed().as_secs() < 20, "it is never blocked: {seen:?}");
        let refused = caller.call(1, "success", json!({})).await;
        assert_eq!(refused.status(), 429);
        let after: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        let data = message(refused.body())["error"]["data"].clone();
        let (reason, step) =
            (data["reason"].as_str().unwrap().to_owned(), data["backoffStep"].as_u64());
        if reason == "blocked" {
            assert!((30..=40).contains(&after), "{after}");
            break data;
        }
        assert_eq!(data["scope"], "key");
        assert!(if step.is_some() { (10..=30).contains(&after) } else { after <= 10 }, "{after}");
        seen.insert((reason, step));
    };
    let expected = [("rate_limited".to_owned(), None), ("rate_limited".to_owned(), Some(1))];
    assert_eq!(seen, expected.into());
    assert!(
        blocked["blockedUntil"].as_str().is_some_and(|until| until.ends_with('Z')),
        "{blocked}"
    );

    // One that was refused as well and stays away is not shut out, and lists are free to be read.
    let patient = rig.caller("tb_patient");
    assert_eq!(patient.called(0, "success", json!({})).await.0, 200);
    let (_, told) = patient.called(1, "success", json!({})).await;
    assert_eq!(told["error"]["data"]["backoffStep"], serde_json::Value::Null);
    let listed = caller.post(r#"{"jsonrpc":"2.0","id":6,"method":"tools/list"}"#).await;
    assert_eq!(listed.status(), 200);
    let world = rig.stop().await;
    assert_eq!((world.ledger.consumed(&key), world.ledger.outstanding(&key)), (1, 0));
}
