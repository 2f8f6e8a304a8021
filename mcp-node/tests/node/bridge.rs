//! Clients of one era in front of servers of the other, over HTTP and stdio.

use std::path::Path;

use http::Method;
use http_body_util::BodyExt;
use mcp_fixture::{Fixture, Speaks};
use serde_json::{Value, json};
use stack::McpTools;

use crate::{
    conformance::{Judged, judge},
    rig::{
        Caller, Rig, SECRET, call, http_upstream, http_upstream_with, initialize, message,
        messages, meta, settings, stdio_upstream, until,
    },
};

async fn rig(speaks: Speaks) -> (Rig, schemas::KeyState) {
    let rig = Rig::start(http_upstream(&Fixture::serve(speaks).await.unwrap())).await;
    let key = rig.ledger().key(SECRET, Some(100)).await;
    rig.ledger().key("tb_other", None).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_other").is_ok()).await;
    (rig, key)
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_is_served_by_an_old_server() {
    let (rig, key) = rig(Speaks::Old).await;
    let caller = rig.caller(SECRET);
    let (status, hello) = caller.asked("server/discover", json!({})).await;
    assert_eq!((status, &hello["result"]["supportedVersions"][0]), (200, &json!("2026-07-28")));
    assert_eq!(hello["result"]["capabilities"]["tools"]["listChanged"], true);
    let (_, listed) = caller.asked("tools/list", json!({})).await;
    let listed = &listed["result"];
    assert_eq!(
        (&listed["resultType"], &listed["cacheScope"]),
        (&json!("complete"), &json!("private"))
    );
    assert!(listed["tools"].as_array().unwrap().len() > 20);
    let (status, called) = caller.asked("tools/call", json!({ "name": "test_simple_text" })).await;
    assert_eq!(
        (status, &called["result"]["resultType"], &called["id"]),
        (200, &json!("complete"), &json!(1))
    );
    let mut params = json!({ "name": "test_tool_with_progress", "_meta": meta(json!({})) });
    params["_meta"]["progressToken"] = json!("mine");
    let (moving, body) = caller.modern("tools/call", params);
    let said = messages(moving.post(body).await.body());
    assert_eq!(said.len(), 4, "{said:?}");
    assert_eq!(said[0]["params"]["progressToken"], "mine");
    for (method, params) in [
        ("ping", json!({})),
        ("resources/subscribe", json!({ "uri": "test://x" })),
        ("no/such", json!({})),
    ] {
        let (status, refused) = caller.asked(method, params).await;
        assert_eq!((status, &refused["error"]["code"]), (404, &json!(-32601)), "{method}");
    }
    let (_, missing) = caller.asked("resources/read", json!({ "uri": "test://none" })).await;
    assert_eq!(missing["error"]["code"], -32602);
    until("two calls are counted", || rig.ledger().consumed(&key) == 2).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_server_asks_a_new_client_answers_in_a_second_round() {
    let (rig, key) = rig(Speaks::Old).await;
    let caller = rig.caller(SECRET);
    let can = meta(json!({ "elicitation": { "form": {} } }));
    let params =
        json!({ "name": "test_elicitation", "arguments": { "message": "Who?" }, "_meta": can });
    let (status, asked) = caller.asked("tools/call", params.clone()).await;
    let asked = &asked["result"];
    assert_eq!((status, &asked["resultType"]), (200, &json!("input_required")));
    let (name, request) = asked["inputRequests"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(
        (&request["method"], &request["params"]["message"]),
        (&json!("elicitation/create"), &json!("Who?"))
    );
    until("the first round is recorded", || rig.outcomes().len() == 1).await;
    assert_eq!(rig.ledger().consumed(&key), 0);

    let mut again = params;
    again["requestState"] = asked["requestState"].clone();
    let (status, still) = caller.asked("tools/call", again.clone()).await;
    assert_eq!(
        (status, &still["result"]["resultType"]),
        (200, &json!("input_required")),
        "it needs the answer"
    );
    let answer = json!({ "action": "accept", "content": { "username": "ann", "email": "a@b.c" } });
    again["inputResponses"] = json!({ name: answer });
    let (status, stolen) = rig.caller("tb_other").asked("tools/call", again.clone()).await;
    assert_eq!((status, &stolen["error"]["code"]), (400, &json!(-32602)), "it is another key's");
    let (status, done) = caller.asked("tools/call", again.clone()).await;
    assert_eq!(status, 200);
    assert!(text(&done).contains("action=accept") && text(&done).contains("ann"), "{done}");
    let (status, over) = caller.asked("tools/call", again).await;
    assert_eq!((status, &over["error"]["code"]), (400, &json!(-32602)), "it is answered once");
    until("it is counted", || rig.ledger().consumed(&key) == 1).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_is_served_by_a_new_server() {
    let (rig, key) = rig(Speaks::New).await;
    let first = rig.caller(SECRET).post(initialize(json!({ "elicitation": {} }))).await;
    let hello = message(first.body());
    assert_eq!(hello["result"]["protocolVersion"], "2025-06-18", "{hello}");
    assert_eq!(hello["result"]["serverInfo"]["name"], "conformance-fixture");
    let session = first.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let caller = rig
        .caller(SECRET)
        .with("mcp-session-id", &session)
        .with("mcp-protocol-version", "2025-06-18");
    let thief = rig.caller("tb_other").with("mcp-session-id", &session);
    assert_eq!(thief.call(1, "test_simple_text", json!({})).await.status(), 404);
    let ping = caller.post(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await;
    assert_eq!(message(ping.body()), json!({ "jsonrpc": "2.0", "id": "p", "result": {} }));
    let listed =
        message(caller.post(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#).await.body());
    assert!(listed["result"]["tools"].as_array().unwrap().len() > 20);
    let (status, called) = caller.called(3, "test_simple_text", json!({})).await;
    assert_eq!((status, &called["id"]), (200, &json!(3)));
    let (status, unknown) = caller.called(4, "no_such_tool", json!({})).await;
    assert_eq!(
        (status, unknown["error"]["code"].is_i64()),
        (200, true),
        "404 would end the session: {unknown}"
    );

    // What the server needs is asked in the middle of the call.
    let mut asking = caller
        .stream(Method::POST, call(5, "test_input_required_result_elicitation", json!({})))
        .await;
    let asked = asking.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let asked = message(&asked);
    assert_eq!(asked["method"], "elicitation/create");
    let answer = json!({ "action": "accept", "content": { "name": "Ann" } });
    let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": answer }).to_string();
    assert_eq!(caller.post(answer).await.status(), 202);
    let done = message(&asking.body_mut().collect().await.unwrap().to_bytes());
    assert_eq!((text(&done), &done["id"]), ("Hello, Ann!", &json!(5)));
    until("two calls are counted", || rig.ledger().consumed(&key) == 2).await;
    assert_eq!(
        rig.outcomes().len(),
        3,
        "each call is one record, however many rounds: {:?}",
        rig.outcomes()
    );

    // A client that refuses: the call fails, free.
    let mut asking = caller
        .stream(Method::POST, call(6, "test_input_required_result_elicitation", json!({})))
        .await;
    let asked = message(&asking.body_mut().frame().await.unwrap().unwrap().into_data().unwrap());
    let no =
        json!({ "jsonrpc": "2.0", "id": asked["id"], "error": { "code": -1, "message": "no" } });
    assert_eq!(caller.post(no.to_string()).await.status(), 202);
    let done = message(&asking.body_mut().collect().await.unwrap().to_bytes());
    assert_eq!(done["error"]["message"], "no");

    // Changes come on the session's own stream.
    let mut own = caller.stream(Method::GET, "").await;
    let mut changed = None;
    for id in 10..40 {
        caller.called(id, "test_trigger_tool_change", json!({})).await;
        let frame =
            tokio::time::timeout(std::time::Duration::from_millis(300), own.body_mut().frame())
                .await;
        if let Ok(Some(Ok(frame))) = frame {
            changed = Some(message(&frame.into_data().unwrap()));
            break;
        }
    }
    assert_eq!(changed.unwrap()["method"], "notifications/tools/list_changed");
    drop(own);
    assert_eq!(caller.send(Method::DELETE, "").await.status(), 204);
    assert_eq!(caller.call(9, "test_simple_text", json!({})).await.status(), 404);
    rig.stop().await;
}

/// What a suite asks for that the fixture itself does only when it is spoken to in that era.
const NOT_ACROSS: [(&str, &[&str]); 2] = [
    ("2026-07-28", &["server-stateless", "input-required-result-"]),
    (
        "2025-11-25",
        &[
            "tools-call-with-logging",
            "tools-call-sampling",
            "tools-call-elicitation",
            "elicitation-sep1034",
            "elicitation-sep1330",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_official_suite_passes_across_the_eras() {
    let results = tempfile::tempdir().unwrap();
    let settings = mcp_node::upstream::UpstreamSettings { max_sessions: 1_000, ..settings() };
    for ((revision, not_across), speaks) in NOT_ACROSS.into_iter().zip([Speaks::Old, Speaks::New]) {
        let rig =
            Rig::start(http_upstream_with(&Fixture::serve(speaks).await.unwrap(), settings)).await;
        rig.ledger().key(SECRET, None).await;
        until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
        let url = rig.open_keyed(SECRET).await;
        let Judged { verdict, said } = judge(&url, revision, results.path()).await;
        eprintln!(
            "{revision} across: {} passed, failed {:?}",
            verdict.passed.len(),
            verdict.failed
        );
        let expected = |name: &&String| !not_across.iter().any(|not| name.starts_with(not));
        let failed: Vec<&String> = verdict.failed.iter().filter(expected).collect();
        assert!(failed.is_empty(), "{revision}: {failed:?}\n{said}");
        rig.stop().await;
    }
}

/// A server of the new era over stdio, in a few lines.
const NEW: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m: continue
    def say(kind, value): print(json.dumps({"jsonrpc": "2.0", "id": m["id"], kind: value}), flush=True)
    meta = m.get("params", {}).get("_meta", {})
    if meta.get("io.modelcontextprotocol/protocolVersion") != "2026-07-28":
        say("error", {"code": -32601, "message": "no such method"})
    elif m["method"] == "server/discover":
        say("result", {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "public"})
    elif m["method"] == "tools/call":
        said = {"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
        print(json.dumps({"jsonrpc": "2.0", **said}), flush=True)
        say("result", {"resultType": "complete", "content": [{"type": "text", "text": m["params"]["name"]}]})
    else: say("error", {"code": -32601, "message": "no such method"})
"#;

async fn echoes(caller: &Caller, tool: &str, arguments: Value, expected: &str) {
    let params = json!({ "name": tool, "arguments": arguments });
    let (status, answer) = caller.asked("tools/call", params).await;
    assert_eq!(status, 200, "{answer}");
    assert!(text(&answer).contains(expected), "{answer}");
    assert_eq!(answer["result"]["resultType"], "complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_over_stdio_serve_clients_of_either_era() {
    let args = vec!["-c".to_owned(), NEW.to_owned()];
    let rig = Rig::start(stdio_upstream(Path::new("python3"), args)).await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    echoes(&caller, "new to new", json!({}), "new to new").await;
    let (status, unknown) = caller.asked("no/such", json!({})).await;
    assert_eq!((status, &unknown["error"]["code"]), (404, &json!(-32601)));
    let old = caller.initialized().await;
    let (status, answer) = old.called(1, "old to new", json!({})).await;
    assert_eq!((status, text(&answer)), (200, "old to new"));
    until("both are counted", || rig.ledger().consumed(&key) == 2).await;
    rig.stop().await;

    let (program, args) = McpTools::fetch().await.unwrap().stdio_command();
    let rig = Rig::start(stdio_upstream(&program, args)).await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    echoes(&rig.caller(SECRET), "echo", json!({ "message": "new to old" }), "new to old").await;
    echoes(&rig.caller(SECRET), "echo", json!({ "message": "again" }), "again").await;
    until("both are counted", || rig.ledger().consumed(&key) == 2).await;
    rig.stop().await;
}
