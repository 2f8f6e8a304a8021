//! Who may call which tool, and which tools a caller is shown.

use http::Method;
use http_body_util::BodyExt;
use mcp_fixture::{Fixture, Speaks};
use mcp_node::{access::Access, clock, server::Upstream};
use mcp_node_core::scope::ToolScopes;
use schemas::{KeyDigest, Record, RefusalReason};
use serde_json::{Value, json};

use crate::{
    rig::{
        Caller, Rig, SECRET, World, http_upstream, message, messages, reason, stdio_upstream, until,
    },
    server::{LISTED, Server},
};

/// A key that has a list of one tool, and one that has scopes.
const LISTING: &str = "tb_listing";
const SCOPED: &str = "tb_scoped";

pub fn needs(entries: &[(&str, &str)]) -> Access {
    let owned = entries.iter().map(|(tool, scope)| ((*tool).to_owned(), (*scope).to_owned()));
    Access { needs: ToolScopes::try_new(owned).unwrap(), ..Access::default() }
}

/// A rig whose keys may call `tool`, by list or by scope.
async fn rig(upstream: Upstream, tool: &str) -> Rig {
    let access = needs(&[("*", "other:use"), (tool, "context:read")]);
    let rig = Rig::start_with(World::start().await, upstream, access).await;
    let ledger = rig.ledger();
    ledger.key(SECRET, None).await;
    ledger.key_with(LISTING, None, |key| key.tools = Some(vec![tool.to_owned()])).await;
    ledger.key_with(SCOPED, None, |key| key.scopes = vec!["context:*".into()]).await;
    until("the keys are known", || rig.node.meter().authenticate(SCOPED).is_ok()).await;
    rig
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

fn names(answer: &Value) -> Vec<&str> {
    let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("no list: {answer}"));
    tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_needs_a_scope_is_called_only_by_who_holds_it() {
    let server = Server::start().await;
    let rig = rig(http_upstream(&server.url()), "success").await;
    for secret in [SECRET, LISTING, SCOPED] {
        assert_eq!(rig.caller(secret).called(1, "success", json!({})).await.0, 200, "{secret}");
    }
    server.sent.lock().clear();
    let refused = rig.caller(SCOPED).call(7, "tool_error", json!({})).await;
    assert_eq!(
        (refused.status().as_u16(), reason(refused.body()).as_str()),
        (403, "insufficient_scope")
    );
    assert_eq!(
        refused.headers()["www-authenticate"],
        r#"Bearer realm="tollbook", error="insufficient_scope", scope="other:use""#
    );
    let said = message(refused.body());
    assert_eq!((&said["id"], &said["error"]["code"]), (&json!(7), &json!(40_304)));
    assert_eq!(said["error"]["data"]["scope"], "other:use");
    let listed = rig.caller(LISTING).call(8, "tool_error", json!({})).await;
    assert_eq!(reason(listed.body()), "tool_not_allowed");
    assert!(server.sent.lock().is_empty(), "neither went on");
    let world = rig.stop().await;
    let records = world.ledger.records();
    let refused = records.iter().filter(|placed| {
        matches!(&placed.record, Record::Refused { tool, reason: RefusalReason::ToolNotAllowed, .. }
            if tool == "tool_error")
    });
    assert_eq!(refused.count(), 2, "both are recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_what_may_be_called_and_keeps_its_bytes() {
    let server = Server::start().await;
    let rig = rig(http_upstream(&server.url()), "success").await;
    let page = |cursor: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"cursor":"{cursor}"}}}}"#
        )
    };
    let raw =
        |listed: &str| format!(r#"{{"vendor":1.00,"id":1,"jsonrpc":"2.0","result":{listed}}}"#);
    let whole = rig.caller(SECRET).post(LIST).await;
    assert_eq!(whole.body(), &raw(LISTED), "a key that may call all sees the server's bytes");
    let kept = r#"{ "tools":[{"name":"success", "x":1.0}],"nextCursor":"events","ttlMs":5,"cacheScope":"public"}"#;
    for secret in [LISTING, SCOPED] {
        let caller = rig.caller(secret);
        assert_eq!(caller.post(LIST).await.body(), &raw(kept), "{secret}");
        let events = caller.post(page("events")).await;
        assert_eq!(events.headers()["content-type"], "text/event-stream");
        let expected =
            format!(": hello\n\nid: 7\ndata:\n\nevent: message\nid: 8\ndata: {}\n\n", raw(kept));
        assert_eq!(events.body(), &expected);
        let broken = caller.post(page("broken")).await;
        assert_eq!(
            (broken.status().as_u16(), reason(broken.body()).as_str()),
            (502, "upstream_invalid")
        );
        let broken = caller.post(page("events_broken")).await;
        assert_eq!(message(broken.body())["error"]["data"]["reason"], "upstream_invalid");
        assert!(!String::from_utf8_lossy(broken.body()).contains("tool_error"));

        // 2026-07-28: the filtered list is no other key's.
        let (status, modern) = caller.asked("tools/list", json!({})).await;
        assert_eq!((status, names(&modern)), (200, vec!["success"]));
        assert_eq!(modern["result"]["cacheScope"], "private");
        assert_eq!(
            (&modern["result"]["nextCursor"], &modern["result"]["ttlMs"]),
            (&json!("events"), &json!(5))
        );
    }
    let (_, modern) = rig.caller(SECRET).asked("tools/list", json!({})).await;
    assert_eq!(modern["result"]["cacheScope"], "public", "nothing was filtered");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_comes_on_a_resumed_stream_shows_no_more() {
    let server = Server::start().await;
    let rig = rig(http_upstream(&server.url()), "success").await;
    let caller = rig.caller(LISTING).initialized().await;
    let hanging = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "cursor": "hang" } });
    caller.post(hanging.to_string()).await;
    let mut stream = caller.clone().with("last-event-id", "9").stream(Method::GET, "").await;
    until("the stream is open", || !server.feeds.lock().is_empty()).await;
    server.feed(&format!("id: 10\ndata: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{LISTED}}}\n\n"));
    let frame = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(names(&messages(&frame)[0]), ["success"]);
    assert!(frame.starts_with(b"id: 10\n"));
    server.end();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_filtered_between_the_eras_too() {
    for speaks in [Speaks::Old, Speaks::New] {
        let url = Fixture::serve(speaks).await.unwrap();
        let rig = rig(http_upstream(&url), "test_simple_text").await;
        for secret in [LISTING, SCOPED] {
            let (status, modern) = rig.caller(secret).asked("tools/list", json!({})).await;
            assert_eq!((status, names(&modern)), (200, vec!["test_simple_text"]));
            assert_eq!(modern["result"]["cacheScope"], "private");
            let old = rig.caller(secret).initialized().await;
            let listed = old.post(LIST).await;
            assert_eq!(names(&message(listed.body())), ["test_simple_text"]);
            let (status, _) = old.called(2, "test_simple_text", json!({})).await;
            assert_eq!(status, 200);
            let refused = old.call(3, "test_image_content", json!({})).await;
            assert_eq!(refused.status(), 403);
        }
        let (_, all) = rig.caller(SECRET).asked("tools/list", json!({})).await;
        assert!(names(&all).len() > 20);
        rig.stop().await;
    }
}

/// A child that lists two tools.
const CHILD: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
    if m["method"] == "tools/list": result = {"tools": [{"name": "b"}, {"name": "a", "x": 1}, {"name": "c"}], "nextCursor": "n"}
    if m["method"] == "server/discover":
        print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": result}), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_child_is_filtered_in_both_eras() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("server.py");
    std::fs::write(&script, CHILD).unwrap();
    let args = vec![script.to_str().unwrap().to_owned()];
    let rig = rig(stdio_upstream(std::path::Path::new("python3"), args), "a").await;
    let shown = json!([{ "name": "a", "x": 1 }]);
    let old: Caller = rig.caller(SCOPED).initialized().await;
    let listed = message(old.post(LIST).await.body());
    assert_eq!(
        (&listed["result"]["tools"], &listed["result"]["nextCursor"]),
        (&shown, &json!("n"))
    );
    let (_, modern) = rig.caller(SCOPED).asked("tools/list", json!({})).await;
    assert_eq!(
        (&modern["result"]["tools"], &modern["result"]["nextCursor"]),
        (&shown, &json!("n"))
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_with_a_typing_error_is_refused() {
    let server = Server::start().await;
    let rig = rig(http_upstream(&server.url()), "success").await;
    let secret = schemas::secret::write([7; 32]);
    rig.ledger().key(&secret, None).await;
    until("the key is known", || rig.node.meter().authenticate(&secret).is_ok()).await;
    assert_eq!(rig.caller(&secret).called(1, "success", json!({})).await.0, 200);
    for at in [3, 20, 45, 46, 51] {
        let mut typed = secret.clone();
        let other = if typed.as_bytes()[at] == b'x' { "y" } else { "x" };
        typed.replace_range(at..=at, other);
        assert!(!schemas::secret::is_well_formed(&typed), "the check characters show it");
        assert_eq!(rig.caller(&typed).called(1, "success", json!({})).await.0, 401);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_of_a_rotated_key_serve_until_the_old_one_ends() {
    let server = Server::start().await;
    let rig = rig(http_upstream(&server.url()), "success").await;
    let ledger = rig.ledger();
    let key = ledger.key("tb_before", Some(100)).await;
    until("the key is known", || rig.node.meter().authenticate("tb_before").is_ok()).await;
    let (before, after) = (rig.caller("tb_before"), rig.caller("tb_after"));
    let session = before.clone().initialized().await;

    // The same key by another secret; the old one has an end.
    let mut new = key.clone();
    new.digest = KeyDigest::of("tb_after");
    ledger.put(&mut new).await;
    let mut old = key.clone();
    old.expires_at = Some(clock::wall().plus_ms(1_500));
    ledger.put(&mut old).await;
    until("the new secret is known", || rig.node.meter().authenticate("tb_after").is_ok()).await;
    assert_eq!(before.called(1, "success", json!({})).await.0, 200);
    assert_eq!(after.called(2, "success", json!({})).await.0, 200);
    let moved = session.clone().with("x-api-key", "tb_after");
    assert_eq!(moved.called(3, "success", json!({})).await.0, 200, "its sessions are the key's");
    until("the old one has ended", || rig.node.meter().authenticate("tb_before").is_err()).await;
    let ended = before.call(4, "success", json!({})).await;
    assert_eq!((ended.status().as_u16(), reason(ended.body()).as_str()), (401, "key_expired"));
    assert_eq!(after.called(5, "success", json!({})).await.0, 200);
    until("all four count for the one key", || rig.ledger().consumed(&key) == 4).await;
    rig.stop().await;
}
