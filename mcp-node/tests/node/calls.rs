//! What each answer is recorded as, and what becomes of calls whose clients, servers or streams go away.

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use schemas::Record;
use serde_json::json;

use crate::{
    rig::{
        Rig, SECRET, call, http_upstream, http_upstream_with, message, messages, settings, until,
        with_server,
    },
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_recorded_as_what_it_is() {
    let (rig, _server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(1_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let cases = [
        ("success", 200, "success"),
        ("tool_error", 200, "tool_error"),
        ("protocol_error", 200, "protocol_error"),
        ("error_with_status", 400, "protocol_error"),
        ("input_required", 502, "upstream_error"),
        ("old_task", 200, "task_created"),
        ("unknown_type", 502, "upstream_error"),
        ("other_id", 502, "upstream_error"),
        ("not_json", 502, "upstream_error"),
        ("html", 502, "upstream_error"),
        ("broken", 502, "upstream_error"),
        ("unauthorized", 502, "upstream_error"),
        ("gone", 502, "upstream_error"),
        ("large", 502, "upstream_error"),
        ("empty", 502, "upstream_error"),
        ("events", 200, "success"),
        ("events_without_answer", 200, "upstream_error"),
    ];
    for (id, (tool, status, _)) in (1..).zip(cases) {
        let response = caller.call(id, tool, json!({})).await;
        assert_eq!(response.status().as_u16(), status, "{tool}: {:?}", response.body());
        let recorded = rig.node.spool().appended(key.shard).seq;
        assert_eq!(recorded, id, "{tool}: it is on disk before the answer is here");
        if status >= 500 {
            assert_eq!(message(response.body())["id"], id, "{tool}");
        }
    }
    let mut expected: Vec<(String, String)> =
        cases.iter().map(|c| (c.0.into(), c.2.into())).collect();
    expected.sort_unstable();
    until("all is recorded", || rig.outcomes().len() == cases.len()).await;
    assert_eq!(rig.outcomes(), expected);
    assert_eq!(rig.ledger().consumed(&key), 2, "success, and events");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_pass_free_and_unrecorded() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, Some(1)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    for method in ["tools/list", "ping", "completion/complete", "resources/read", "vendor/anything"]
    {
        let body =
            json!({ "jsonrpc": "2.0", "id": "a", "method": method, "params": { "name": 7 } });
        let response = caller.post(body.to_string()).await;
        assert_eq!(response.status(), 200);
        let answer = message(response.body());
        assert!(method == "tools/list" || answer["result"]["echo"] == body, "{answer}");
    }
    assert_eq!(caller.post(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#).await.status(), 202);
    assert_eq!(caller.post(r#"{"jsonrpc":"2.0","id":5,"result":{}}"#).await.status(), 202);
    assert_eq!(server.sent.lock().len(), 7);
    assert_eq!(
        caller.called(1, "success", json!({})).await.0,
        200,
        "the one call of the quota is still there"
    );
    let world = rig.stop().await;
    assert_eq!(crate::rig::outcomes(&world.ledger.records()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_come_as_they_are_sent_and_the_answer_only_once_it_is_recorded() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let mut response = caller.stream(Method::POST, call(1, "stream", json!({}))).await;
    server.feed("id: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n");
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"id: 1\ndata:"), "{first:?}");
    assert!(rig.outcomes().is_empty(), "not yet answered");
    server.feed("data: {\"jsonrpc\":\"2.0\",\"id\":1,");
    server.feed("\"result\":{}}\n");
    server.feed("\n");
    let second = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&second[..], b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n");
    assert_eq!(rig.node.spool().appended(key.shard).seq, 1, "on disk before it is here");
    server.end();
    assert!(response.body_mut().frame().await.is_none());
    until("it is counted", || rig.outcomes() == [("stream".into(), "success".into())]).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_cancels_in_the_new_era_and_not_in_the_old() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let old = rig.caller(SECRET).with("mcp-protocol-version", "2025-11-25");
    let old = |tool: &str| (old.clone(), call(9, tool, json!({})));
    let new = |tool: &str| {
        let (caller, body) = rig.caller(SECRET).modern("tools/call", json!({ "name": tool }));
        (caller, body.replace("\"id\":1", "\"id\":9"))
    };
    for (caller, body) in [old("slow"), new("slow"), new("never")] {
        let sent = server.sent.lock().len();
        let calling = tokio::spawn(async move { caller.post(body).await });
        until("the server has it", || server.sent.lock().len() > sent).await;
        calling.abort();
    }
    let expected = [("never", "cancelled"), ("slow", "cancelled"), ("slow", "success")];
    let expected = expected.map(|(tool, outcome)| (tool.to_owned(), outcome.to_owned()));
    until("all three are recorded", || rig.outcomes() == expected).await;
    assert_eq!(rig.ledger().consumed(&key), 3, "the server was made to work all three times");

    // The same in the middle of a stream.
    for ((caller, body), outcome) in [(old("stream"), "success"), (new("stream"), "cancelled")] {
        let before = rig.outcomes().len();
        let mut response = caller.stream(Method::POST, body).await;
        server.feed(": hello\n\n");
        response.body_mut().frame().await.unwrap().unwrap();
        drop(response);
        if outcome == "success" {
            server.feed("data: {\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{}}\n\n");
        }
        until("it is recorded", || rig.outcomes().len() > before).await;
        let found =
            rig.ledger().records().into_iter().rev().find_map(|placed| match placed.record {
                Record::Usage(event) => Some(serde_json::to_value(event.outcome).unwrap()),
                _ => None,
            });
        assert_eq!(found, Some(json!(outcome)));
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_or_silent_costs_nothing() {
    let server = Server::start().await;
    let timeout = Duration::from_millis(300);
    let settings = mcp_node::upstream::UpstreamSettings { request_timeout: timeout, ..settings() };
    let rig = Rig::start(http_upstream_with(&server.url(), settings)).await;
    let key = rig.ledger().key(SECRET, Some(5)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let (status, body) = rig.caller(SECRET).called(3, "never", json!({})).await;
    assert_eq!((status, &body["error"]["data"]["reason"]), (504, &json!("upstream_timeout")));
    assert_eq!(body["id"], 3);
    let mut stream = rig.caller(SECRET).stream(Method::POST, call(4, "stream", json!({}))).await;
    let rest = stream.body_mut().collect().await.unwrap().to_bytes();
    assert_eq!(message(&rest)["error"]["code"], 50_401, "said in the stream, since that had begun");
    until("both are recorded", || rig.outcomes().len() == 2).await;
    assert!(rig.outcomes().iter().all(|(_, outcome)| outcome == "timeout"));
    assert_eq!(rig.ledger().consumed(&key), 0);
    let world = rig.stop().await;

    let rig = Rig::start_in(world, http_upstream("http://127.0.0.1:9/mcp")).await;
    let (status, body) = rig.caller(SECRET).called(5, "success", json!({})).await;
    assert_eq!((status, &body["error"]["data"]["reason"]), (502, &json!("upstream_unreachable")));
    let listed = rig.caller(SECRET).post(r#"{"jsonrpc":"2.0","id":6,"method":"tools/list"}"#).await;
    assert_eq!(listed.status(), 502);
    let world = rig.stop().await;
    assert_eq!(world.ledger.consumed(&key), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_shows_to_no_other_key() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    rig.ledger().key("tb_other", None).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_other").is_ok()).await;
    let owner = rig.caller(SECRET).initialized().await;
    assert_eq!(owner.called(1, "success", json!({})).await.0, 200);
    let session = owner.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let sent = server.sent.lock().len();
    let thief = rig.caller("tb_other").with("mcp-session-id", &session);
    let nobody = rig.caller("tb_other").with("mcp-session-id", "session-999");
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let stolen = thief.send(method.clone(), call(1, "success", json!({}))).await;
        let made_up = nobody.send(method, call(1, "success", json!({}))).await;
        assert_eq!(
            (stolen.status().as_u16(), stolen.body()),
            (404, made_up.body()),
            "nobody is told which"
        );
    }
    let mut both = owner.clone();
    both.headers.append("mcp-session-id", "session-1".parse().unwrap());
    assert_eq!(both.call(1, "success", json!({})).await.status(), 404, "two sessions are none");
    assert_eq!(server.sent.lock().len(), sent, "nothing went on");
    let (status, body) = owner.called(2, "gone", json!({})).await;
    assert_eq!((status, &body["error"]["data"]["reason"]), (404, &json!("session_not_found")));
    assert_eq!(
        owner.called(3, "success", json!({})).await.0,
        404,
        "the server has forgotten it: so have we"
    );

    let mut sessions = vec![];
    for _ in 0..4 {
        sessions.push(rig.caller(SECRET).initialized().await);
    }
    // A client that never ends its sessions loses its own oldest.
    sessions.push(rig.caller(SECRET).initialized().await);
    assert_eq!(sessions[0].called(4, "success", json!({})).await.0, 404);
    assert_eq!(sessions[1].called(4, "success", json!({})).await.0, 200);
    assert_eq!(sessions[2].send(Method::DELETE, "").await.status(), 202);
    sessions.push(rig.caller(SECRET).initialized().await);
    assert_eq!(sessions[1].called(5, "success", json!({})).await.0, 200, "there was room");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_a_resumed_stream_is_counted_there_and_once() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET).initialized().await;
    let body = call(5, "events_without_answer", json!({}));
    let first = caller.post(body.clone()).await;
    assert_eq!(first.status(), 200);
    assert!(rig.outcomes().is_empty(), "the answer is still to come");
    let twice = caller.post(body).await;
    assert_eq!(message(twice.body())["error"]["code"], -32600, "its id is still in use");
    let mut resumed = caller.clone().with("last-event-id", "1").stream(Method::GET, "").await;
    assert_eq!(server.last().headers["last-event-id"], "1");
    for _ in 0..2 {
        server.feed("id: 2\ndata: {\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{}}\n\n");
        let frame = resumed.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(message(&frame)["id"], 5);
    }
    until("it is counted", || rig.outcomes().len() == 1).await;
    assert_eq!(rig.ledger().consumed(&key), 1);

    // Cancelled before it came: known to be over, and counted, since the server was made to work.
    caller.call(6, "events_without_answer", json!({})).await;
    let cancel =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6.0}}"#;
    assert_eq!(caller.post(cancel).await.status(), 202);
    until("it is over", || {
        rig.outcomes().contains(&("events_without_answer".into(), "cancelled".into()))
    })
    .await;
    assert_eq!(rig.ledger().consumed(&key), 2);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_the_server_end_when_the_node_stops() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET).initialized().await;
    let mut stream = caller.stream(Method::GET, "").await;
    server.feed("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n");
    let frame = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(messages(&frame).len(), 1);
    rig.upstream.end_streams();
    let rest = tokio::time::timeout(Duration::from_secs(5), stream.body_mut().collect()).await;
    assert!(rest.is_ok(), "the stream has an end");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_sent_again_is_a_call_and_its_idempotency_key_goes_on() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET).with("idempotency-key", "once");
    for _ in 0..2 {
        assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
        assert_eq!(server.last().headers["idempotency-key"], "once", "the server may honour it");
    }
    assert_eq!(server.sent.lock().len(), 2, "both were run");
    until("both are counted", || rig.ledger().consumed(&key) == 2).await;
    rig.stop().await;
}
