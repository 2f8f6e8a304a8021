//! Several servers as one: what clients of both eras list, call and hear, and where it is counted.

use std::path::PathBuf;

use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_fixture::{Fixture, Speaks};
use mcp_node::{
    aggregate::{Aggregate, Member},
    http::Endpoint,
    upstream::UpstreamSettings,
};
use rustix::process::Signal;
use schemas::{KeyState, Record};
use serde_json::{Value, json};

use crate::{
    conformance::{REVISIONS, judge},
    process::{Process, known},
    rig::{
        Caller, Rig, SECRET, World, call, http_upstream, http_upstream_with, initialize, message,
        messages, settings, until,
    },
    server::Server,
};

/// A server over stdio, of the old era, in a few lines: one tool, one prompt, and resources of its own.
pub const CHILD: &str = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" not in m or "method" not in m: continue
    def say(kind, value): print(json.dumps({"jsonrpc": "2.0", "id": m["id"], kind: value}), flush=True)
    method, params = m["method"], m.get("params", {})
    if method == "initialize":
        say("result", {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}, "logging": {}}, "serverInfo": {"name": "child", "version": "1"}, "instructions": "Call me."})
    elif method == "tools/list":
        say("result", {"tools": [{"name": "who", "inputSchema": {"type": "object"}}]})
    elif method == "tools/call" and params["name"] == "die": sys.exit(3)
    elif method == "tools/call":
        say("result", {"content": [{"type": "text", "text": "child " + params["name"]}]})
    elif method == "resources/read" and params["uri"] == "child://x":
        say("result", {"contents": [{"uri": "child://x", "text": "of the child"}]})
    elif method == "resources/read":
        say("error", {"code": -32002, "message": "no such resource"})
    else: say("error", {"code": -32601, "message": "no such method"})
"#;
struct Together {
    world: World,
    file: PathBuf,
    process: Process,
    key: KeyState,
}

impl Together {
    /// A node in front of these servers, and a key with a quota.
    async fn start(servers: &[(&str, &str)], quota: Option<u64>) -> Self {
        let world = World::start().await;
        let key = world.ledger.key(SECRET, quota).await;
        let file = world.folder.path().join("node.toml");
        std::fs::write(&file, written(servers)).unwrap();
        let process = Process::start(&world, &["--config", file.to_str().unwrap()]).await;
        known(&process.caller(SECRET)).await;
        Self { world, file, process, key }
    }

    fn caller(&self) -> Caller {
        self.process.caller(SECRET)
    }

    /// What was recorded: the server, the tool and how it ended, sorted.
    fn recorded(&self) -> Vec<(String, String, String)> {
        let records = self.world.ledger.records();
        let usage = records.iter().filter_map(|placed| match &placed.record {
            Record::Usage(event) => {
                let outcome = serde_json::to_value(event.outcome).unwrap();
                let server = event.server.clone().unwrap_or_default();
                Some((server, event.tool.clone(), outcome.as_str().unwrap().to_owned()))
            }
            _ => None,
        });
        let mut found: Vec<_> = usage.collect();
        found.sort_unstable();
        found
    }
}

/// Settings of a node in front of servers: each an URL, or `child`, and more lines.
fn written(servers: &[(&str, &str)]) -> String {
    let one = |(name, url): &(&str, &str)| {
        let (url, more) = url.split_once('\n').unwrap_or((url, ""));
        let behind = match url {
            "child" => format!("command = [\"python3\", \"-c\", '''{CHILD}''']"),
            url => format!("url = \"{url}\""),
        };
        format!("[[upstream]]\nname = \"{name}\"\n{behind}\n{more}\n")
    };
    format!("aggregate = true\n{}", servers.iter().map(one).collect::<String>())
}

fn names<'a>(answer: &'a Value, of: &str) -> Vec<&'a str> {
    let all = answer["result"][of].as_array().unwrap_or_else(|| panic!("no {of}: {answer}"));
    all.iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}

/// A session of a client that can do so and so.
async fn session(caller: Caller, capabilities: Value) -> Caller {
    let response = caller.post(initialize(capabilities)).await;
    assert_eq!(response.status(), 200, "{:?}", response.body());
    let session = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let caller = caller.with("mcp-session-id", &session).with("mcp-protocol-version", "2025-06-18");
    let told = caller.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    assert_eq!(told.status(), 202);
    caller
}

/// The next frame that holds a message, and its message.
async fn next(stream: &mut http::Response<Incoming>) -> (String, Value) {
    // A stream that beats is not one that says something.
    let said = async {
        loop {
            let frame = stream.body_mut().frame().await.expect("the stream goes on").unwrap();
            let Ok(data) = frame.into_data() else { continue };
            if let Some(message) = messages(&data).pop() {
                return (String::from_utf8(data.to_vec()).unwrap(), message);
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), said)
        .await
        .expect("it is said in time")
}

/// The id of an event.
fn event_id(frame: &str) -> &str {
    frame
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .unwrap_or_else(|| panic!("no id: {frame}"))
}

fn header(server: &Server, name: &str) -> Option<String> {
    server.last().headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

async fn two_servers(quota: Option<u64>, more: &str) -> (Together, Server, Server) {
    let (one, two) = (Server::start().await, Server::start().await);
    let lines = |server: &Server| format!("{}\n{more}", server.url());
    let test = Together::start(&[("one", &lines(&one)), ("two", &lines(&two))], quota).await;
    (test, one, two)
}

async fn asked_old(caller: &Caller, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": method, "method": method, "params": params });
    message(caller.post(body.to_string()).await.body())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_eras_list_and_call_servers_of_both_as_one() {
    let (old, new) =
        (Fixture::serve(Speaks::Old).await.unwrap(), Fixture::serve(Speaks::New).await.unwrap());
    let test = Together::start(&[("old", &old), ("new", &new), ("kid", "child")], Some(8)).await;

    let modern = test.caller();
    let (status, hello) = modern.asked("server/discover", json!({})).await;
    assert_eq!(status, 200, "{hello}");
    assert_eq!(hello["result"]["supportedVersions"][0], "2026-07-28");
    assert_eq!(hello["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "mcp-node");
    assert_eq!(hello["result"]["capabilities"]["tools"]["listChanged"], true);
    assert!(hello["result"]["instructions"].as_str().unwrap().contains("kid: Call me."), "{hello}");
    let (_, listed) = modern.asked("tools/list", json!({})).await;
    let shown = names(&listed, "tools");
    assert_eq!(
        (shown.len(), shown[0], shown[28]),
        (57, "old_test_simple_text", "new_test_simple_text")
    );
    assert_eq!(shown[56], "kid_who", "in the servers' order");
    assert_eq!(listed["result"]["cacheScope"], "private");
    assert_eq!(listed["result"]["resultType"], "complete");
    assert!(listed["result"]["_meta"].is_null(), "nobody is missing: {listed}");
    for tool in ["old_test_simple_text", "new_test_simple_text", "kid_who"] {
        let (status, answer) = modern.asked("tools/call", json!({ "name": tool })).await;
        assert_eq!((status, &answer["id"]), (200, &json!(1)), "{answer}");
        assert!(text(&answer).contains(if tool == "kid_who" {
            "child who"
        } else {
            "simple text"
        }));
    }
    let (_, prompt) =
        modern.asked("prompts/get", json!({ "name": "new_test_simple_prompt" })).await;
    assert!(prompt["result"]["messages"].is_array(), "{prompt}");

    let first = test.caller().post(initialize(json!({}))).await;
    let hello = message(first.body());
    assert_eq!(hello["result"]["protocolVersion"], "2025-06-18", "{hello}");
    assert_eq!(hello["result"]["serverInfo"]["name"], "mcp-node");
    assert!(hello["result"]["capabilities"]["prompts"].is_object());
    let session = test.caller().initialized().await;
    let listed = asked_old(&session, "tools/list", json!({})).await;
    assert_eq!(names(&listed, "tools"), shown);
    for (id, tool) in [(1, "old_test_simple_text"), (2, "new_test_simple_text"), (3, "kid_who")] {
        let (status, answer) = session.called(id, tool, json!({})).await;
        assert_eq!((status, &answer["id"]), (200, &json!(id)), "{answer}");
    }
    let prompt =
        asked_old(&session, "prompts/get", json!({ "name": "old_test_simple_prompt" })).await;
    assert!(prompt["result"]["messages"].is_array(), "{prompt}");
    assert_eq!(asked_old(&session, "ping", json!({})).await["result"], json!({}));

    // What no server can have goes nowhere, and is free; a tool's error is free too.
    for name in ["test_simple_text", "other_who"] {
        let (_, answer) = session.called(7, name, json!({})).await;
        assert_eq!(
            (&answer["error"]["code"], &answer["id"]),
            (&json!(-32602), &json!(7)),
            "{answer}"
        );
    }
    let (_, unknown) = modern.asked("tools/call", json!({ "name": "nobody" })).await;
    assert_eq!(unknown["error"]["message"], "Unknown tool: nobody");
    let (_, failed) = session.called(8, "old_test_error_handling", json!({})).await;
    assert_eq!(failed["result"]["isError"], true);

    // The quota is the key's, whatever the server.
    for id in 20..22 {
        assert_eq!(session.called(id, "kid_who", json!({})).await.0, 200);
    }
    let (status, refused) = session.called(30, "new_test_simple_text", json!({})).await;
    assert_eq!((status, &refused["error"]["data"]["reason"]), (429, &json!("quota_exhausted")));
    until("all are counted", || test.world.ledger.consumed(&test.key) == 8).await;
    let success =
        |server: &str, tool: &str| (server.to_owned(), tool.to_owned(), "success".to_owned());
    let (kid, new, old) = (
        success("kid", "kid_who"),
        success("new", "new_test_simple_text"),
        success("old", "old_test_simple_text"),
    );
    let failed = ("old".into(), "old_test_error_handling".into(), "tool_error".into());
    let expected =
        [&kid, &kid, &kid, &kid, &new, &new, &failed, &old, &old].map(Clone::clone).to_vec();
    until("all are recorded with their servers", || test.recorded() == expected).await;
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_prefix_of_what_is_called_changes_on_the_way() {
    let (test, one, two) = two_servers(None, "").await;
    let odd = r#" {"jsonrpc":"2.0","id":"\u0061","vendor":1.00,"method":"tools/call","params":{"arguments":{"name":"one_x"}, "n\u0061me" : "one_\u0073uccess" }} "#;
    assert_eq!(
        message(test.caller().post(odd).await.body())["result"]["structuredContent"]["unknown"],
        1
    );
    let cut = odd.replace(r#""one_\u0073uccess""#, r#""success""#);
    assert_eq!(one.last().body, cut.as_bytes());
    let (modern, body) = test.caller().modern("tools/call", json!({ "name": "two_success" }));
    let modern = modern.with("mcp-name", "=?base64?dHdvX3N1Y2Nlc3M=?=");
    assert_eq!(modern.post(body.clone()).await.status(), 200);
    assert_eq!(two.last().body, body.replace("two_success", "success").as_bytes());
    assert_eq!(header(&two, "mcp-name").as_deref(), Some("success"));
    assert_eq!(header(&two, "mcp-method").as_deref(), Some("tools/call"));
    let other = modern.with("mcp-name", "success").post(body).await;
    assert_eq!(other.status(), 400, "what is authorised is what is said");

    // Entries are the servers' bytes; where the list goes on is one cursor of both.
    let listed = test.caller().post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    let text = String::from_utf8(listed.body().to_vec()).unwrap();
    let entries = |prefix: &str| {
        format!(
            r#"{{"name":"{prefix}success", "x":1.0}},{{ "n\u0061me":"{prefix}tool_error" , "x":[ ]}}"#
        )
    };
    let whole = format!(r#"{{"tools":[{},{}],"nextCursor":""#, entries("one_"), entries("two_"));
    assert!(text.contains(&whole), "{text}");
    let listed = message(text.as_bytes());
    assert_eq!(
        (&listed["result"]["ttlMs"], &listed["result"]["cacheScope"]),
        (&json!(5), &json!("public"))
    );
    let cursor = listed["result"]["nextCursor"].as_str().unwrap();
    let next = asked_old(&test.caller(), "tools/list", json!({ "cursor": cursor })).await;
    assert_eq!(
        names(&next, "tools"),
        ["one_success", "one_tool_error", "two_success", "two_tool_error"]
    );
    for server in [&one, &two] {
        let sent: Value = serde_json::from_slice(&server.last().body).unwrap();
        assert_eq!(sent["params"]["cursor"], "events", "each goes on where it was");
    }
    for bad in [json!("events"), json!("e30"), json!(7)] {
        let refused = asked_old(&test.caller(), "tools/list", json!({ "cursor": bad })).await;
        assert_eq!(refused["error"]["code"], -32602, "{bad}");
    }

    // What a key may call is said by the names that clients know.
    let narrow = |key: &mut KeyState| key.tools = Some(vec!["two_success".into()]);
    test.world.ledger.key_with("tb_narrow", None, narrow).await;
    let narrow = test.process.caller("tb_narrow");
    known(&narrow).await;
    let (_, shown) = narrow.asked("tools/list", json!({})).await;
    assert_eq!(names(&shown, "tools"), ["two_success"]);
    assert_eq!(shown["result"]["cacheScope"], "private");
    let (sent, before) = (one.sent.lock().len(), two.sent.lock().len());
    for tool in ["one_success", "two_tool_error", "success"] {
        let (status, refused) = narrow.called(1, tool, json!({})).await;
        assert!(status == 403 || refused["error"]["code"] == -32602, "{tool}: {status} {refused}");
    }
    assert_eq!((one.sent.lock().len(), two.sent.lock().len()), (sent, before), "nothing went on");
    assert_eq!(narrow.called(2, "two_success", json!({})).await.0, 200);
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_left_out_and_named() {
    let one = Server::start().await;
    let down = "http://127.0.0.1:9/mcp";
    let test = Together::start(&[("down", down), ("one", &one.url())], None).await;
    let session = test.caller().initialized().await;
    for listed in [
        asked_old(&session, "tools/list", json!({})).await,
        test.caller().asked("tools/list", json!({})).await.1,
    ] {
        assert_eq!(names(&listed, "tools"), ["one_success", "one_tool_error"]);
        assert_eq!(listed["result"]["_meta"]["dev.tollbook/missing"], json!(["down"]));
        assert_eq!(listed["result"]["ttlMs"], 0, "it may be back at any moment");
    }
    assert_eq!(session.called(1, "one_success", json!({})).await.0, 200);
    let (status, refused) = session.called(2, "down_x", json!({})).await;
    assert_eq!(
        (status, &refused["error"]["data"]["reason"]),
        (502, &json!("upstream_unreachable"))
    );
    let metrics = Caller::new(&test.process.url.replace("/mcp", "/metrics"), SECRET);
    let metrics = metrics.send(Method::GET, "").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    assert!(metrics.contains(r#"mcp_aggregate_missing_total{server="down"}"#), "{metrics}");
    assert_eq!(test.process.stop().await, Some(0));

    let test = Together::start(&[("down", down), ("low", down)], None).await;
    let begun = test.caller().post(initialize(json!({}))).await;
    assert_eq!(begun.status(), 502);
    let (status, listed) = test.caller().asked("tools/list", json!({})).await;
    assert_eq!((status, &listed["error"]["data"]["reason"]), (502, &json!("upstream_unreachable")));
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_offer_one_name_the_first_has_it_whether_it_was_listed_or_not() {
    let (one, two) = (Server::start().await, Server::start().await);
    let bare = |server: &Server| format!("{}\nprefix = \"\"", server.url());
    let servers =
        [("one", bare(&one)), ("two", bare(&two)), ("kid", "child\nprefix = \"\"".to_owned())];
    let servers: Vec<(&str, &str)> =
        servers.iter().map(|(name, lines)| (*name, lines.as_str())).collect();
    let test = Together::start(&servers, None).await;
    let session = test.caller().initialized().await;
    assert_eq!(
        text(&session.called(1, "who", json!({})).await.1),
        "child who",
        "it asks whose it is"
    );
    assert_eq!(session.called(2, "success", json!({})).await.0, 200);
    let listed = asked_old(&session, "tools/list", json!({})).await;
    assert_eq!(names(&listed, "tools"), ["success", "tool_error", "who"]);
    assert!(listed["result"]["nextCursor"].is_null(), "all pages were read: {listed}");
    until("the calls are recorded", || test.recorded().len() == 2).await;
    let servers: Vec<String> = test.recorded().into_iter().map(|(server, ..)| server).collect();
    assert_eq!(servers, ["kid", "one"]);
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_servers_ask_at_once_each_hears_the_answer_to() {
    let (one, two) =
        (Fixture::serve(Speaks::Old).await.unwrap(), Fixture::serve(Speaks::New).await.unwrap());
    let three = Fixture::serve(Speaks::Old).await.unwrap();
    let test = Together::start(&[("one", &one), ("two", &two), ("three", &three)], None).await;
    let session = session(test.caller(), json!({ "elicitation": {}, "sampling": {} })).await;
    let mut asking = vec![];
    for (id, server) in [(1, "one"), (2, "three")] {
        let asks = call(id, &format!("{server}_test_elicitation"), json!({ "message": server }));
        let mut stream = session.stream(Method::POST, asks).await;
        let (_, asked) = next(&mut stream).await;
        assert_eq!(
            (&asked["method"], &asked["params"]["message"]),
            (&json!("elicitation/create"), &json!(server))
        );
        asking.push((id, server, stream, asked["id"].clone()));
    }
    let new = call(3, "two_test_input_required_result_elicitation", json!({}));
    let mut stream = session.stream(Method::POST, new).await;
    let (_, asked) = next(&mut stream).await;
    asking.push((3, "two", stream, asked["id"].clone()));
    // In another order than they were asked.
    for (id, server, stream, question) in asking.iter_mut().rev() {
        let content = json!({ "username": *server, "email": "a@b.c", "name": *server });
        let answer = json!({ "jsonrpc": "2.0", "id": question, "result": { "action": "accept", "content": content } });
        assert_eq!(session.post(answer.to_string()).await.status(), 202);
        let (_, done) = next(stream).await;
        assert_eq!(done["id"], *id);
        assert!(text(&done).contains(*server), "{server}: {done}");
    }

    // A client of the new era, in a second round.
    let can = crate::rig::meta(json!({ "elicitation": { "form": {} } }));
    let mut params = json!({ "name": "three_test_elicitation", "arguments": { "message": "Who?" }, "_meta": can });
    let (_, asked) = test.caller().asked("tools/call", params.clone()).await;
    let asked = &asked["result"];
    assert_eq!(asked["resultType"], "input_required");
    let question = asked["inputRequests"].as_object().unwrap().keys().next().unwrap();
    params["requestState"] = asked["requestState"].clone();
    params["inputResponses"] = json!({ question: { "action": "accept", "content": { "username": "ann", "email": "a@b.c" } } });
    let (_, done) = test.caller().asked("tools/call", params).await;
    assert!(text(&done).contains("ann"), "{done}");
    until("each is counted once", || test.world.ledger.consumed(&test.key) == 4).await;
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_all_are_one_and_go_on_where_each_broke_off() {
    let (test, one, two) = two_servers(None, "").await;
    let session = test.caller().initialized().await;
    let mut own = session.stream(Method::GET, "").await;
    let open = || one.feeds.lock().len() == 1 && two.feeds.lock().len() == 1;
    until("both streams are open", open).await;
    let notice = |server: &str| {
        let params = json!({ "level": "info", "data": server });
        json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params })
    };
    one.feed(&format!("id: 7\ndata: {}\n\n", notice("one")));
    let (frame, told) = next(&mut own).await;
    assert_eq!(told, notice("one"));
    assert!(event_id(&frame).starts_with("all."), "{frame}");
    two.feed(&format!("id: x/y\ndata: {}\n\n", notice("two")));
    let (frame, told) = next(&mut own).await;
    assert_eq!(told, notice("two"));
    // An answer to what the client did not ask is none of its business.
    one.feed("data: {\"jsonrpc\":\"2.0\",\"id\":\"tb-1\",\"result\":{\"tools\":[]}}\n\n");
    one.feed(&format!("data: {}\n\n", notice("after")));
    assert_eq!(next(&mut own).await.1, notice("after"));
    drop(own);
    let again = session.clone().with("last-event-id", event_id(&frame));
    let own = again.stream(Method::GET, "").await;
    let resumed = |server: &Server, id: &str| {
        let sent = server.sent.lock();
        sent.iter().any(|sent| sent.headers.get("last-event-id").is_some_and(|found| found == id))
    };
    until("each is asked for what came after", || resumed(&one, "7") && resumed(&two, "x/y")).await;
    drop(own);

    // An answer that broke off comes from the server that runs the call, and counts once.
    let mut running = session.stream(Method::POST, call(5, "two_stream", json!({}))).await;
    two.feed("id: 5\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n");
    let (frame, _) = next(&mut running).await;
    let id = event_id(&frame).to_owned();
    assert!(id.starts_with("of.two."), "{frame}");
    two.end();
    while running.body_mut().frame().await.is_some() {}
    let before = one.sent.lock().len();
    let mut resumed = session.clone().with("last-event-id", &id).stream(Method::GET, "").await;
    assert_eq!(header(&two, "last-event-id").as_deref(), Some("5"));
    two.feed("id: 6\ndata: {\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{\"content\":[]}}\n\n");
    assert_eq!(next(&mut resumed).await.1["id"], 5);
    assert_eq!(one.sent.lock().len(), before, "the other is not asked");
    until("it is counted", || test.world.ledger.consumed(&test.key) == 1).await;
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_keys_and_what_is_said_in_it_goes_where_it_belongs() {
    let (test, one, two) = two_servers(None, "").await;
    test.world.ledger.key("tb_other", None).await;
    known(&test.process.caller("tb_other")).await;
    let session = test.caller().initialized().await;
    let id = session.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let thief = test.process.caller("tb_other").with("mcp-session-id", &id);
    assert_eq!(thief.call(1, "one_success", json!({})).await.status(), 404);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(thief.post(ping).await.status(), 404, "not even what the node answers itself");
    assert_eq!(thief.send(Method::DELETE, "").await.status(), 404);
    let own = |server: &Server| header(server, "mcp-session-id").unwrap();
    assert!(own(&one).starts_with("session-") && own(&two).starts_with("session-"));

    // What runs at one is cancelled there; what is for all goes to all.
    let running = session.stream(Method::POST, call(7, "one_stream", json!({}))).await;
    let before = two.sent.lock().len();
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    assert_eq!(session.post(cancel).await.status(), 202);
    assert_eq!(one.last().body, cancel.as_bytes());
    assert_eq!(two.sent.lock().len(), before);
    drop(running);
    let all = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    assert_eq!(session.post(all).await.status(), 202);
    assert_eq!((one.last().body, two.last().body), (all.into(), all.into()));
    let level = asked_old(&session, "logging/setLevel", json!({ "level": "debug" })).await;
    assert_eq!(level["result"], json!({}));
    for server in [&one, &two] {
        assert!(String::from_utf8_lossy(&server.last().body).contains("debug"));
    }

    // The end is the end at both.
    let sessions = [own(&one), own(&two)];
    assert_eq!(session.send(Method::DELETE, "").await.status(), 204);
    for (server, id) in [&one, &two].into_iter().zip(sessions) {
        let last = server.last();
        assert!(last.body.is_empty() && last.headers["mcp-session-id"] == id.as_str());
    }
    assert_eq!(session.call(9, "one_success", json!({})).await.status(), 404);
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgot_the_session_is_greeted_again_and_no_call_is_sent_twice() {
    let one = Server::start().await;
    let test = Together::start(&[("one", &one.url()), ("kid", "child")], None).await;
    let session = test.caller().initialized().await;
    assert_eq!(text(&session.called(1, "kid_who", json!({})).await.1), "child who");
    // It ends with a call in its hands: that one is lost, and only that one.
    let (status, lost) = session.called(2, "kid_die", json!({})).await;
    assert_eq!((status, &lost["error"]["data"]["reason"]), (502, &json!("upstream_unreachable")));
    assert_eq!(text(&session.called(3, "kid_who", json!({})).await.1), "child who");
    // Where the server says that it knows no such session, it ran nothing: it is asked once more, in a new one.
    let before = one.sent.lock().len();
    assert_eq!(session.called(4, "one_gone", json!({})).await.0, 404);
    let sent: Vec<String> = one.sent.lock()[before..]
        .iter()
        .map(|sent| {
            let message: Value = serde_json::from_slice(&sent.body).unwrap();
            message["method"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(sent, ["tools/call", "initialize", "notifications/initialized", "tools/call"]);
    assert_eq!(session.called(5, "one_success", json!({})).await.0, 200, "the session lives");
    let expected = [
        ("kid", "kid_die", "upstream_error"),
        ("kid", "kid_who", "success"),
        ("kid", "kid_who", "success"),
    ];
    let expected = expected
        .map(|(server, tool, outcome)| (server.to_owned(), tool.to_owned(), outcome.to_owned()));
    until("all are recorded", || test.recorded().len() == 6).await;
    assert_eq!(test.recorded()[..3], expected);
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_one_has_is_found_wherever_it_is() {
    let old = Fixture::serve(Speaks::Old).await.unwrap();
    let test = Together::start(&[("old", &old), ("kid", "child")], None).await;
    let session = test.caller().initialized().await;
    for _ in 0..2 {
        let read = asked_old(&session, "resources/read", json!({ "uri": "child://x" })).await;
        assert_eq!(read["result"]["contents"][0]["text"], "of the child");
        let read =
            asked_old(&session, "resources/read", json!({ "uri": "test://static-text" })).await;
        assert!(read["result"]["contents"].is_array(), "{read}");
        let (_, read) = test.caller().asked("resources/read", json!({ "uri": "child://x" })).await;
        assert_eq!(read["result"]["contents"][0]["text"], "of the child");
    }
    let none = asked_old(&session, "resources/read", json!({ "uri": "test://none" })).await;
    assert_eq!(none["error"]["code"], -32002);
    let (_, none) = test.caller().asked("resources/read", json!({ "uri": "test://none" })).await;
    assert_eq!(none["error"]["code"], -32602);
    let listed = asked_old(&session, "resources/list", json!({})).await;
    assert_eq!(names(&listed, "resources"), ["static-text", "static-binary", "watched-resource"]);
    assert!(listed["result"]["_meta"].is_null(), "who has no resources is not missing");
    let about = json!({ "type": "ref/prompt", "name": "old_test_prompt_with_arguments" });
    let completes = json!({ "ref": about, "argument": { "name": "arg1", "value": "par" } });
    let found = asked_old(&session, "completion/complete", completes).await;
    assert_eq!(found["result"]["completion"]["values"][0], "paris");
    let unknown = asked_old(&session, "no/such", json!({})).await;
    assert_eq!(unknown["error"]["code"], -32601);
    assert_eq!(test.caller().asked("no/such", json!({})).await.0, 404);
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_hears_of_all_servers_and_ends_once() {
    let (old, new) =
        (Fixture::serve(Speaks::Old).await.unwrap(), Fixture::serve(Speaks::New).await.unwrap());
    let test = Together::start(&[("old", &old), ("new", &new)], None).await;
    let wanted = json!({ "notifications": { "toolsListChanged": true } });
    let (listening, body) = test.caller().modern("subscriptions/listen", wanted);
    let mut stream = listening.stream(Method::POST, body).await;
    let (_, acknowledged) = next(&mut stream).await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"]["toolsListChanged"], true);
    let (_, called) =
        test.caller().asked("tools/call", json!({ "name": "new_test_trigger_tool_change" })).await;
    assert_eq!(text(&called), "Done.");
    let (_, told) = next(&mut stream).await;
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1);
    test.process.signal(Signal::TERM);
    let (_, ended) = next(&mut stream).await;
    assert_eq!((&ended["id"], &ended["result"]["resultType"]), (&json!(1), &json!("complete")));
    assert!(stream.body_mut().frame().await.is_none());
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_come_and_go_and_a_session_goes_on() {
    let (test, one, two) = two_servers(None, "").await;
    let (first, second) = (one.url(), two.url());
    let session = test.caller().initialized().await;
    let mut own = session.stream(Method::GET, "").await;
    until("the streams are open", || two.feeds.lock().len() == 1).await;
    // What stays the same is told to nobody.
    test.process.signal(Signal::HUP);
    std::fs::write(&test.file, written(&[("two", &second), ("three", &first), ("kid", "child")]))
        .unwrap();
    test.process.signal(Signal::HUP);
    assert_eq!(next(&mut own).await.1["method"], "notifications/tools/list_changed");
    let listed = asked_old(&session, "tools/list", json!({})).await;
    let shown = ["two_success", "two_tool_error", "three_success", "three_tool_error", "kid_who"];
    assert_eq!(names(&listed, "tools"), shown);
    for tool in ["two_success", "three_success", "kid_who"] {
        assert_eq!(session.called(1, tool, json!({})).await.0, 200, "{tool}");
    }
    let (_, gone) = session.called(2, "one_success", json!({})).await;
    assert_eq!(gone["error"]["code"], -32602);
    // Who came tells of itself too; who stayed was not asked for another stream.
    until("the new one's stream is open", || one.feeds.lock().len() == 2).await;
    assert_eq!(two.feeds.lock().len(), 1);
    one.feed("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n");
    loop {
        if next(&mut own).await.1["method"] == "notifications/message" {
            break;
        }
    }
    assert_eq!(test.process.stop().await, Some(0));
}

/// Gives a key another list of tools, and a session's stream and a subscription hear of it.
async fn changes_are_told(test: &Together, tool: &str) {
    let session = test.caller().initialized().await;
    let mut own = session.stream(Method::GET, "").await;
    let wanted = json!({ "notifications": { "toolsListChanged": true } });
    let (listening, body) = test.caller().modern("subscriptions/listen", wanted);
    let mut subscribed = listening.stream(Method::POST, body).await;
    let (_, acknowledged) = next(&mut subscribed).await;
    assert_eq!(acknowledged["params"]["notifications"]["toolsListChanged"], true, "{acknowledged}");
    let (silent, body) =
        test.caller().modern("subscriptions/listen", json!({ "notifications": {} }));
    let mut silent = silent.stream(Method::POST, body).await;
    next(&mut silent).await;
    let mut key = test.key.clone();
    key.tools = Some(vec![tool.to_owned()]);
    test.world.ledger.put(&mut key).await;
    assert_eq!(
        next(&mut own).await.1,
        json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" })
    );
    let (_, told) = next(&mut subscribed).await;
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1);
    let listed = asked_old(&session, "tools/list", json!({})).await;
    assert_eq!(names(&listed, "tools"), [tool]);
    // A subscription to other things hears nothing of it: the next thing that it hears is its end.
    test.process.signal(Signal::TERM);
    let end = next(&mut silent).await.1;
    assert!(end["result"].is_object(), "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_hears_that_the_key_may_call_other_tools() {
    let (old, new) =
        (Fixture::serve(Speaks::Old).await.unwrap(), Fixture::serve(Speaks::New).await.unwrap());
    let test = Together::start(&[("old", &old), ("new", &new)], None).await;
    changes_are_told(&test, "new_test_simple_text").await;
    assert_eq!(test.process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_suite_passes_in_front_of_two_servers_as_one() {
    let settings = UpstreamSettings { max_sessions: 1_000, ..settings() };
    let mut members = vec![];
    for (name, prefix) in [("fixture", ""), ("other", "other_")] {
        let upstream = http_upstream_with(&Fixture::serve(Speaks::All).await.unwrap(), settings);
        let upstream = std::sync::Arc::new(upstream.named(Some(name)));
        members.push(Member { name: name.into(), prefix: prefix.to_owned(), upstream });
    }
    let rig = Rig::start(http_upstream(&Fixture::serve(Speaks::All).await.unwrap())).await;
    let key = rig.ledger().key(SECRET, Some(10_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let all = Aggregate::new(members, settings);
    let (url, results) =
        (rig.open_keyed_to(Endpoint::All(all), SECRET).await, tempfile::tempdir().unwrap());
    for (revision, count) in REVISIONS {
        judge(&url, revision, results.path()).await.is_whole(revision, count);
    }
    until("the calls are counted", || rig.ledger().consumed(&key) > 20).await;
    rig.stop().await;
}
