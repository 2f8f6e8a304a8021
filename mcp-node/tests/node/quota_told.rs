//! What served calls are told of their quotas: in headers and in `_meta`, in every way that an answer can come.

use http::HeaderMap;
use mcp_fixture::{Fixture, Speaks};
use schemas::{KeyState, Notice, Period, Quantity, QuotaKind, Scope};
use serde_json::{Value, json};

use crate::{
    rig::{Caller, Rig, SECRET, World, http_upstream, message, messages, until, with_server},
    server::Server,
};

const META: &str = "dev.tollbook/quota";

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().unwrap().to_owned())
}

fn warned(key: &KeyState, percent: u64) -> Notice {
    let now = mcp_node::clock::wall();
    Notice {
        scope: Scope::Tenant(key.tenant),
        meter: "tool_calls".parse().unwrap(),
        kind: QuotaKind::Soft,
        limit: Quantity(100),
        consumed: Quantity(percent),
        period: Period { from: now.plus_ms(-1_000), to: now.plus_ms(60_000) },
        percent,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_key_hears_what_is_left_and_nothing_else_of_the_answer_changes() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, Some(50)).await;
    rig.ledger().key("tb_free", None).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_free").is_ok()).await;
    let (limited, free) = (rig.caller(SECRET), rig.caller("tb_free"));
    for (left, tool) in [(49, "success"), (48, "events")] {
        let told = limited.call(1, tool, json!({})).await;
        let plain = free.call(1, tool, json!({})).await;
        assert_eq!(header(told.headers(), "x-tollbook-remaining"), Some(left.to_string()));
        assert_eq!(header(told.headers(), "x-tollbook-warning"), None, "far from its limit");
        assert_eq!(header(plain.headers(), "x-tollbook-remaining"), None);
        let quota = message(told.body())["result"]["_meta"][META].clone();
        assert_eq!((&quota["remaining"], &quota["limit"]), (&json!(left), &json!(50)), "{tool}");
        assert_eq!(quota["meter"], "tool_calls");
        assert!(quota["resetAt"].as_str().is_some_and(|at| at.ends_with('Z')), "{quota}");
        let spliced = format!("\"_meta\":{{\"{META}\":{quota}}},");
        let text = std::str::from_utf8(told.body()).unwrap();
        assert_eq!(text.matches(&spliced).count(), 1, "{text}");
        assert_eq!(text.replace(&spliced, ""), std::str::from_utf8(plain.body()).unwrap());
    }
    let error = limited.call(2, "protocol_error", json!({})).await;
    assert_eq!(
        message(error.body())["result"],
        Value::Null,
        "an error has no result to tell it in"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_limits_warn_and_never_refuse() {
    let (rig, _server) = with_server().await;
    let key = rig.ledger().key(SECRET, None).await;
    rig.ledger().warn(&key, vec![warned(&key, 104), warned(&key, 81)]);
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let served = rig.caller(SECRET).call(1, "success", json!({})).await;
    assert_eq!(served.status(), 200);
    let warning = header(served.headers(), "x-tollbook-warning").unwrap();
    let begin = r#""tool_calls";scope=tenant;kind=soft;percent=104;q=100;t="#;
    assert!(warning.starts_with(begin), "{warning}");
    assert!(warning.contains(r#", "tool_calls";scope=tenant;kind=soft;percent=81;"#), "{warning}");
    assert_eq!(header(served.headers(), "x-tollbook-remaining"), None, "no hard limit");
    let quota = message(served.body())["result"]["_meta"][META].clone();
    assert_eq!(quota["warnings"].as_array().map(Vec::len), Some(2));
    let first = &quota["warnings"][0];
    assert_eq!((&first["percent"], &first["scope"]), (&json!(104), &json!("tenant")));
    assert_eq!((&first["used"], &first["limit"]), (&json!(104), &json!(100)));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_eras_hear_it_through_the_bridges_too() {
    for speaks in [Speaks::All, Speaks::Old, Speaks::New] {
        let url = Fixture::serve(speaks).await.unwrap();
        let rig = Rig::start(http_upstream(&url)).await;
        rig.ledger().key(SECRET, Some(50)).await;
        until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
        let tool = json!({ "name": "test_simple_text", "arguments": {} });
        let (status, new) = rig.caller(SECRET).asked("tools/call", tool).await;
        assert_eq!(
            (status, &new["result"]["_meta"][META]["remaining"]),
            (200, &json!(49)),
            "{new}"
        );
        let old = rig.caller(SECRET).initialized().await;
        let (status, old) = old.called(7, "test_simple_text", json!({})).await;
        assert_eq!(
            (status, &old["result"]["_meta"][META]["remaining"]),
            (200, &json!(48)),
            "{old}"
        );
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_can_be_told_to_leave_the_meta_alone() {
    let (world, server) = (World::start().await, Server::start().await);
    let settings = mcp_node::MeterSettings { quota_meta: false, ..Default::default() };
    let rig = Rig::start_metering(world, http_upstream(&server.url()), settings).await;
    rig.ledger().key(SECRET, Some(50)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let served = Caller::new(&rig.url(), SECRET).call(1, "events", json!({})).await;
    assert_eq!(header(served.headers(), "x-tollbook-remaining").as_deref(), Some("49"));
    let messages = messages(served.body());
    assert!(messages.iter().all(|message| message["result"]["_meta"].is_null()), "{messages:?}");
    rig.stop().await;
}

/// What a call was told is left, and whether more may be.
fn left(headers: &HeaderMap, body: &[u8]) -> (u64, bool) {
    let remaining = header(headers, "x-tollbook-remaining").unwrap().parse().unwrap();
    let at_least = header(headers, "x-tollbook-remaining-at-least").as_deref() == Some("true");
    let rate_limit = header(headers, "ratelimit").unwrap();
    assert!(rate_limit.starts_with(&format!(r#""tool_calls";r={remaining};t="#)), "{rate_limit}");
    assert_eq!(rate_limit.ends_with(";at-least"), at_least, "{rate_limit}");
    let quota = message(body)["result"]["_meta"][META].clone();
    assert_eq!((&quota["remaining"], quota["atLeast"] == true), (&json!(remaining), at_least));
    (remaining, at_least)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_counts_down_to_the_last_unit_and_then_refuses() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, Some(12)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    for expected in (0..12).rev() {
        let served = caller.call(expected, "success", json!({})).await;
        assert_eq!(served.status(), 200);
        assert_eq!(left(served.headers(), served.body()), (expected, false));
    }
    let refused = caller.call(12, "success", json!({})).await;
    assert_eq!(refused.status(), 429);
    let error = message(refused.body())["error"].clone();
    let text = error["message"].as_str().unwrap();
    assert!(text.starts_with("12 of 12 calls of this key used; resets "), "{text}");
    assert_eq!((&error["data"]["remaining"], &error["data"]["atLeast"]), (&json!(0), &Value::Null));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_of_two_says_that_nothing_is_left_while_a_call_still_passes() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let nats = runtime::nats::connect(&rig.world.server.url(), "second").await.unwrap();
    let mut settings = rig.world.spool();
    settings.spool_dir = rig.world.folder.path().join("second");
    let second = mcp_node::Node::start(&settings, &nats).await.unwrap();
    let (address, _upstream, closing) =
        crate::rig::open_door(&second, http_upstream(&server.url())).await;
    let callers = [rig.caller(SECRET), Caller::new(&format!("http://{address}/mcp"), SECRET)];
    let key = rig.ledger().key(SECRET, Some(6)).await;
    until("both know the key", || {
        rig.node.meter().authenticate(SECRET).is_ok() && second.meter().authenticate(SECRET).is_ok()
    })
    .await;
    // The second node holds units that it does not use, as long as nobody recalls them.
    let first = callers[1].call(0, "success", json!({})).await;
    let mut told = vec![left(first.headers(), first.body())];
    until("it is counted", || rig.ledger().consumed(&key) == 1).await;
    for (id, caller) in (1..30).zip([0, 0, 0, 0, 0, 1].iter().cycle().map(|at| &callers[*at])) {
        let response = caller.call(id, "success", json!({})).await;
        if response.status() != 200 {
            break;
        }
        let spent_before = told.iter().position(|left| *left == (0, false));
        assert_eq!(spent_before, None, "one passed after nothing was left: {told:?}");
        told.push(left(response.headers(), response.body()));
    }
    assert_eq!(told.len(), 6, "to the last unit: {told:?}");
    assert_eq!(told[1].0, 4, "what the other node holds is left: {told:?}");
    closing.cancel();
    let (drain, flush) = (std::time::Duration::from_secs(5), std::time::Duration::from_secs(5));
    second.stop(drain, flush).await;
    let world = rig.stop().await;
    assert_eq!(world.ledger.consumed(&key), 6);
}
