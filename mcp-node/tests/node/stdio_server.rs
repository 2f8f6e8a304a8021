//! Servers over standard input and output: one that no one here wrote, and small ones that misbehave.

use std::path::Path;

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use stack::McpTools;

use crate::rig::{Rig, SECRET, call, initialize, message, messages, stdio_upstream, until};

/// A server of a few lines: answers `initialize`, and does by each tool's name what the test needs.
const SERVER: &str = r#"
import json, os, sys, time
def say(message): print(json.dumps(message), flush=True)
print("not a message", flush=True)
print("on stderr", file=sys.stderr, flush=True)
open(sys.argv[1] + "/" + str(os.getpid()), "w").close()
for line in sys.stdin:
    m = json.loads(line)
    if m.get("method") == "initialize":
        say({"jsonrpc": "2.0", "id": m["id"], "result": {"pid": os.getpid(), "nats": os.environ.get("MCP_NATS_URL")}})
    elif m.get("method") == "tools/call":
        tool = m["params"]["name"]
        if tool == "die": os._exit(3)
        if tool == "die_answering":
            say({"jsonrpc": "2.0", "id": m["id"], "result": {"content": []}})
            os._exit(3)
        if tool == "ask":
            say({"jsonrpc": "2.0", "id": 77, "method": "sampling/createMessage", "params": {}})
            answer = json.loads(sys.stdin.readline())
            say({"jsonrpc": "2.0", "id": m["id"], "result": {"content": [], "heard": answer}})
        elif tool == "never": pass
        elif tool == "fork":
            if os.fork() == 0:
                open(sys.argv[1] + "/" + str(os.getpid()), "w").close()
                time.sleep(1000)
            say({"jsonrpc": "2.0", "id": m["id"], "result": {"content": []}})
        else: say({"jsonrpc": "2.0", "id": m["id"], "result": {"content": [], "got": m}})
    elif m.get("method") == "tell":
        say({"jsonrpc": "2.0", "method": "notifications/told", "params": m["params"]})
        say({"jsonrpc": "2.0", "id": m["id"], "result": {}})
    elif m.get("method") == "notifications/tell_later":
        say({"jsonrpc": "2.0", "method": "notifications/told", "params": m["params"]})
    elif m.get("method") == "notifications/cancelled":
        open(sys.argv[1] + "/cancelled-" + str(m["params"]["requestId"]), "w").close()
"#;

struct Scripted {
    rig: Rig,
    /// Where each process of the server leaves its number.
    pids: tempfile::TempDir,
}

impl Scripted {
    async fn start() -> Self {
        let pids = tempfile::tempdir().unwrap();
        let script = pids.path().join("server.py");
        std::fs::write(&script, SERVER).unwrap();
        let args = vec![text(&script), text(pids.path())];
        let rig = Rig::start(stdio_upstream(Path::new("python3"), args)).await;
        rig.ledger().key(SECRET, None).await;
        rig.ledger().key("tb_other", None).await;
        until("the keys are known", || rig.node.meter().authenticate("tb_other").is_ok()).await;
        Self { rig, pids }
    }

    fn alive(&self) -> Vec<u32> {
        let names = std::fs::read_dir(self.pids.path()).unwrap();
        let pids =
            names.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect()
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_over_stdio_is_metered_without_a_change() {
    let (program, args) = McpTools::fetch().await.unwrap().stdio_command();
    let rig = Rig::start(stdio_upstream(&program, args)).await;
    let key = rig.ledger().key(SECRET, Some(5)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET).initialized().await;
    let tools = caller.post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    let tools = message(tools.body());
    assert!(tools["result"]["tools"].as_array().is_some_and(|tools| tools.len() > 5), "{tools}");
    let mut statuses = vec![];
    for id in 2..12 {
        let (status, answer) = caller.called(id, "echo", json!({ "message": "hello" })).await;
        assert!(
            status != 200
                || answer["result"]["content"][0]["text"].as_str().unwrap().contains("hello")
        );
        statuses.push(status);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429, 429, 429]);
    assert_eq!(caller.send(Method::DELETE, "").await.status(), 204);
    let world = rig.stop().await;
    assert_eq!(world.ledger.consumed(&key), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_a_child_of_its_own_and_ends_with_it() {
    let test = Scripted::start().await;
    let first = test.rig.caller(SECRET).initialized().await;
    let second = test.rig.caller("tb_other").initialized().await;
    assert_eq!(test.alive().len(), 2);
    let session = first.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let thief = test.rig.caller("tb_other").with("mcp-session-id", &session);
    for method in [Method::POST, Method::GET, Method::DELETE] {
        assert_eq!(thief.send(method, call(1, "x", json!({}))).await.status(), 404);
    }
    assert_eq!(first.called(1, "fork", json!({})).await.0, 200);
    until("there are three processes", || test.alive().len() == 3).await;
    assert_eq!(first.send(Method::DELETE, "").await.status(), 204);
    until("the first child is gone with its own child", || test.alive().len() == 1).await;
    assert_eq!(first.call(2, "x", json!({})).await.status(), 404);
    assert_eq!(second.called(2, "x", json!({})).await.0, 200);
    test.rig.upstream.stop().await;
    assert!(test.alive().is_empty(), "no orphan");
    test.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_server_find_a_stream_once() {
    let test = Scripted::start().await;
    let caller = test.rig.caller(SECRET).initialized().await;
    let told = caller.post(r#"{"jsonrpc":"2.0","id":1,"method":"tell","params":{"n":1}}"#).await;
    assert_eq!(told.headers()["content-type"], "text/event-stream");
    let told = messages(told.body());
    assert_eq!((&told[0]["params"]["n"], &told[1]["id"]), (&json!(1), &json!(1)));

    // A client that takes JSON alone gets its answer; what the server said besides waits for a stream.
    let plain = caller.clone().with("accept", "application/json");
    let told = plain.post(r#"{"jsonrpc":"2.0","id":2,"method":"tell","params":{"n":2}}"#).await;
    assert_eq!(told.headers()["content-type"], "application/json");
    let mut stream = caller.stream(Method::GET, "").await;
    let waited = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(message(&waited)["params"]["n"], 2);
    caller.post(r#"{"jsonrpc":"2.0","method":"notifications/tell_later","params":{"n":3}}"#).await;
    let later = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(message(&later)["params"]["n"], 3);

    // The server asks in the middle of a call; the client answers by a request of its own.
    let mut asking = caller.stream(Method::POST, call(9, "ask", json!({}))).await;
    let asked = asking.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(message(&asked)["method"], "sampling/createMessage");
    let answered = caller.post(r#"{"jsonrpc":"2.0","id":77,"result":{"role":"assistant"}}"#).await;
    assert_eq!(answered.status(), 202);
    let rest = asking.body_mut().collect().await.unwrap().to_bytes();
    assert_eq!(message(&rest)["result"]["heard"]["result"]["role"], "assistant");
    until("it is counted", || test.rig.outcomes() == [("ask".into(), "success".into())]).await;
    drop(stream);
    test.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_child_leaves_unanswered_is_free() {
    let test = Scripted::start().await;
    let caller = test.rig.caller(SECRET).initialized().await;
    let waiting = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call(5, "never", json!({})).await }
    });
    until("the call runs", || !test.rig.node.meter().is_idle()).await;
    let twice = caller.call(5, "x", json!({})).await;
    assert_eq!(message(twice.body())["error"]["code"], -32600, "its id is in use");
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}"#;
    assert_eq!(caller.post(cancel).await.status(), 202);
    assert_eq!(waiting.await.unwrap().status(), 502);
    until("the child was told", || test.pids.path().join("cancelled-5").exists()).await;

    let (status, body) = caller.called(6, "die", json!({})).await;
    assert_eq!((status, &body["error"]["data"]["reason"]), (502, &json!("upstream_unreachable")));
    assert_eq!(body["id"], 6);
    until("the session is gone", || test.alive().is_empty()).await;
    assert_eq!(caller.call(7, "x", json!({})).await.status(), 404, "the client initializes anew");
    let caller = test.rig.caller(SECRET).initialized().await;
    let (status, _) = caller.called(8, "die_answering", json!({})).await;
    assert_eq!(status, 200, "its last words are heard");
    let expected =
        [("die", "upstream_error"), ("die_answering", "success"), ("never", "cancelled")];
    let expected = expected.map(|(tool, outcome)| (tool.to_owned(), outcome.to_owned()));
    until("all is recorded", || test.rig.outcomes().len() == expected.len()).await;
    assert_eq!(test.rig.outcomes(), expected);
    test.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_several_lines_reaches_the_child_as_one() {
    let test = Scripted::start().await;
    let caller = test.rig.caller(SECRET).initialized().await;
    let pretty = "{\n  \"jsonrpc\": \"2.0\",\r\n  \"id\": 1,\n  \"method\": \"tools/call\",\n  \"params\": {\"name\": \"x\", \"arguments\": {\"t\": \"a\\nb\"}}\n}\n";
    let response = caller.post(pretty).await;
    let got = message(response.body())["result"]["got"].clone();
    assert_eq!(got, serde_json::from_str::<Value>(pretty).unwrap());
    test.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_counted_and_need_to_be_named() {
    let test = Scripted::start().await;
    let bare = test.rig.caller(SECRET).call(1, "x", json!({})).await;
    assert_eq!(bare.status(), 400, "which session?");
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(test.rig.caller(SECRET).initialized().await);
    }
    // Another key is not shut out: the one that has all makes room, with the session that it used least lately.
    test.rig.ledger().key("tb_other", None).await;
    until("the key is known", || test.rig.node.meter().authenticate("tb_other").is_ok()).await;
    let other = test.rig.caller("tb_other").initialized().await;
    assert_eq!(sessions[0].call(1, "x", json!({})).await.status(), 404);
    assert_eq!(sessions[1].call(1, "x", json!({})).await.status(), 200);
    // And one more of its own costs the key its oldest, not the other's.
    sessions.push(test.rig.caller(SECRET).initialized().await);
    assert_eq!(sessions[2].call(1, "x", json!({})).await.status(), 404);
    assert_eq!(other.call(1, "x", json!({})).await.status(), 200);
    until("each session has its child", || test.alive().len() == 4).await;
    // Nobody hears the answer to this: its child must not stay.
    test.rig.upstream.stop().await;
    assert!(test.alive().is_empty());
    let late = test.rig.caller(SECRET).post(initialize(json!({}))).await;
    assert_eq!(late.status(), 503);
    test.rig.stop().await;
}
