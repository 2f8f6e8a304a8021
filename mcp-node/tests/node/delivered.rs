//! Delivered means counted: whatever a server writes and a client asks, an answer that a client can read was counted
//! once, and what was not counted does not leave.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::State, response::Response, routing::any};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    rig::{
        Caller, MODERN, Rig, SECRET, call, http_upstream, http_upstream_with, initialize, message,
        reason, settings, stdio_upstream_with, until, with_server,
    },
    server::Server,
};

/// What a result holds that must not be seen uncounted.
const MARK: &str = "the result";

/// A server that answers as the arguments of a call say: `body`, `type`, `status`, `coding`.
#[derive(Clone, Default)]
struct Scripted {
    asked: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Scripted {
    async fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let moved = |uri: Uri| async move {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            let place = uri
                .path()
                .strip_prefix("/moved")
                .map_or("http://elsewhere.invalid/mcp", |_| "/mcp");
            response.headers_mut().insert("location", place.parse().unwrap());
            response
        };
        let routes =
            Router::new().route("/mcp", any(scripted)).fallback(any(moved)).with_state(self);
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        url
    }
}

async fn scripted(State(server): State<Scripted>, headers: HeaderMap, body: Bytes) -> Response {
    server.asked.lock().push(headers);
    let message: Value = serde_json::from_slice(&body).unwrap();
    let script = &message["params"]["arguments"];
    let body = Bytes::copy_from_slice(&latin1(script["body"].as_str().unwrap_or("{}")));
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(script["status"].as_u64().unwrap_or(200).try_into().unwrap()).unwrap();
    let kind = script["type"].as_str().unwrap_or("text/event-stream");
    response.headers_mut().insert("content-type", kind.parse().unwrap());
    if let Some(coding) = script["coding"].as_str() {
        response.headers_mut().insert("content-encoding", coding.parse().unwrap());
    }
    response
}

/// Each character a byte, so that a script can hold any.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

async fn scripted_rig(path: &str) -> (Rig, Scripted) {
    let server = Scripted::default();
    let url = server.clone().start().await;
    let url = url.replace("/mcp", path);
    let rig = Rig::start(http_upstream(&url)).await;
    (rig, server)
}

/// Calls by a script; what the client hears.
async fn heard(caller: &Caller, id: u64, script: Value) -> (u16, String) {
    let response = caller.post(call(id, "scripted", script)).await;
    (response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned())
}

/// An event whose data is this.
fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_read_in_an_event_is_counted_or_does_not_leave() {
    let (rig, _server) = scripted_rig("/mcp").await;
    let key = rig.ledger().key(SECRET, Some(1_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let result = format!(r#""result":{{"content":[{{"type":"text","text":"{MARK}"}}]}}"#);
    let with = |members: &str| event(&format!("{{{members}}}"));
    let delivered = [
        with(&format!(r#""jsonrpc":"2.0","id":ID,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":"ID",{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID.0,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":IDe0,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID,"more":1,{result}"#)),
        format!("\u{ef}\u{bb}\u{bf}{}", with(&format!(r#""jsonrpc":"2.0","id":ID,{result}"#))),
        with(&format!(r#""jsonrpc":"2.0","id":ID,{result}"#)).replace('\n', "\r"),
        format!("event: message\n{}", with(&format!(r#""jsonrpc":"2.0","id":ID,{result}"#))),
    ];
    let withheld = [
        with(&format!(r#""jsonrpc":"2.0","id":ID,"id":ID,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID,"Id":1,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":42424242,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":null,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0",{result}"#)),
        with(&format!(r#""jsonrpc":"1.0","id":ID,{result}"#)),
        with(&format!(r#""id":ID,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","method":"x","id":ID,{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID,{result},{result}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID,"result":{{"n":NaN,"t":"{MARK}"}}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID,"result":{{"t":"{MARK}","isError":"false"}}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID,"result":{{"t":"{MARK}","resultType":"new"}}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID,"result":{{"t":"{MARK}","resultType":"task"}}"#)),
        with(&format!(r#""jsonrpc":"2.0","id":ID,"result":{{"t":"{MARK}","_meta":7}}"#)),
        with(&format!("\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{{\"t\":\"{MARK}\u{ff}\"}}")),
        format!("event: other\n{}", with(&format!(r#""jsonrpc":"2.0","id":ID,{result}"#))),
        // Its last blank line is missing: no client hears it.
        with(&format!(r#""jsonrpc":"2.0","id":ID,{result}"#)).trim_end().to_owned() + "\n",
        event("oops") + &with(&format!(r#""jsonrpc":"2.0","id":ID,{result}"#)),
    ];
    let cases = delivered.iter().map(|body| (body, true));
    let (mut counted, mut all) = (0, 0);
    for (id, (body, leaves)) in
        (1_u64..).zip(cases.chain(withheld.iter().map(|body| (body, false))))
    {
        let body = body.replace("ID", &id.to_string());
        let (_, said) = heard(&rig.caller(SECRET), id, json!({ "body": body })).await;
        all += 1;
        until("it is recorded", || rig.outcomes().len() == all).await;
        counted += u64::from(leaves);
        assert_eq!(said.contains(MARK), leaves, "{body:?} became {said:?}");
        assert_eq!(rig.ledger().consumed(&key), counted, "{body:?} became {said:?}");
        let named =
            said.contains(&format!("\"id\":{id},")) || said.contains(&format!("\"id\": {id},"));
        assert!(named, "the client hears of its call: {said:?}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_read_in_a_body_is_counted_or_does_not_leave() {
    let (rig, server) = scripted_rig("/mcp").await;
    let key = rig.ledger().key(SECRET, Some(1_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let answer = format!(r#"{{"jsonrpc":"2.0","id":ID,"result":{{"t":"{MARK}"}}}}"#);
    let of = |script: Value| {
        let mut script = script;
        if script["body"].is_null() {
            script["body"] = answer.clone().into();
        }
        if script["type"].is_null() {
            script["type"] = "application/json".into();
        }
        script
    };
    let mark = format!("\u{ef}\u{bb}\u{bf}{answer}");
    let cases = [
        (of(json!({})), 200, true),
        (of(json!({ "body": mark })), 200, true),
        (of(json!({ "type": "text/plain" })), 200, true),
        (of(json!({ "coding": "identity" })), 200, true),
        (of(json!({ "coding": "gzip" })), 502, false),
        (of(json!({ "status": 400 })), 502, false),
        (of(json!({ "status": 503 })), 502, false),
        (of(json!({ "status": 400, "body": "" })), 502, false),
    ];
    let mut counted = 0;
    for (id, (script, status, leaves)) in (1_u64..).zip(cases) {
        let script: Value =
            serde_json::from_str(&script.to_string().replace("ID", &id.to_string())).unwrap();
        let (found, said) = heard(&rig.caller(SECRET), id, script.clone()).await;
        until("it is recorded", || rig.outcomes().len() as u64 == id).await;
        counted += u64::from(leaves);
        assert_eq!((found, said.contains(MARK)), (status, leaves), "{script} became {said:?}");
        assert_eq!(rig.ledger().consumed(&key), counted, "{script}");
    }
    let coded = rig.caller(SECRET).post(call(90, "x", of(json!({ "coding": "gzip" })))).await;
    assert_eq!(reason(coded.body()), "upstream_encoded");
    let said =
        of(json!({ "body": r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"no"}}"# }));
    let nameless = rig.caller(SECRET).post(call(91, "x", said)).await;
    assert_eq!(
        message(nameless.body()),
        json!({ "jsonrpc": "2.0", "id": 91, "error": { "code": -1, "message": "no" } })
    );
    for asked in server.asked.lock().iter() {
        assert_eq!(asked["accept-encoding"], "identity");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_within_the_origin_is_followed_and_any_other_is_named() {
    let script =
        json!({ "type": "application/json", "body": r#"{"jsonrpc":"2.0","id":1,"result":{}}"# });
    let (rig, server) = scripted_rig("/moved").await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    for _ in 0..2 {
        assert_eq!(heard(&rig.caller(SECRET), 1, script.clone()).await.0, 200);
    }
    assert_eq!(server.asked.lock().len(), 2);
    rig.stop().await;
    let (rig, _server) = scripted_rig("/elsewhere").await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let refused = rig.caller(SECRET).post(call(1, "x", script)).await;
    assert_eq!(
        (refused.status().as_u16(), reason(refused.body()).as_str()),
        (502, "upstream_redirects")
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_comes_back_in_another_spelling_is_refused() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, Some(1)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    for id in [r#""\uD800""#, "9007199254740993", "12345678901234567890", "1.0", "1e0"] {
        let body = call(1, "success", json!({})).replace("\"id\":1", &format!("\"id\":{id}"));
        let response = rig.caller(SECRET).post(body).await;
        assert_eq!(
            (response.status().as_u16(), reason(response.body()).as_str()),
            (400, "invalid_request"),
            "{id}"
        );
    }
    let named = rig
        .caller(SECRET)
        .post(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":7}}"#)
        .await;
    assert_eq!(message(named.body())["id"], 7, "a refusal names the request");
    let unknown = rig.caller("tb_unknown").post(call(8, "success", json!({}))).await;
    assert_eq!((unknown.status().as_u16(), &message(unknown.body())["id"]), (401, &json!(8)));
    assert!(server.sent.lock().is_empty());
    assert_eq!(
        rig.caller(SECRET).called(1, "success", json!({})).await.0,
        200,
        "the unit is still there"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_id_nothing_but_a_notification_goes_on() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, Some(1)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    for method in ["tools/call", "Tools/Call", "tools/call ", "tools/list", "ping"] {
        let body = json!({ "jsonrpc": "2.0", "method": method, "params": { "name": "success" } });
        let old = rig.caller(SECRET).post(body.to_string()).await;
        assert_eq!(reason(old.body()), "invalid_request", "{method:?}");
        let new = rig
            .caller(SECRET)
            .with("mcp-protocol-version", MODERN)
            .with("mcp-method", method.trim());
        assert_eq!(
            reason(new.post(body.to_string()).await.body()),
            "invalid_request",
            "{method:?}"
        );
    }
    for method in ["Tools/Call", " tools/call", "tools/call\u{0}x", "tool\u{17f}/call"] {
        let body =
            json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": { "name": "success" } });
        assert_eq!(
            reason(rig.caller(SECRET).post(body.to_string()).await.body()),
            "invalid_request",
            "{method:?}"
        );
    }
    assert!(server.sent.lock().is_empty());
    rig.stop().await;
}

/// What comes on a session's own stream before a notice that the server sends last.
async fn until_notice(
    server: &Server,
    stream: &mut http::Response<hyper::body::Incoming>,
) -> String {
    server.feed("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/last\"}\n\n");
    let mut said = String::new();
    while !said.contains("notifications/last") {
        let frame = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        said += &String::from_utf8_lossy(&frame);
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_too_late_is_withheld_wherever_it_comes() {
    let server = Server::start().await;
    let request_timeout = Duration::from_millis(300);
    let settings = mcp_node::upstream::UpstreamSettings { request_timeout, ..settings() };
    let rig = Rig::start(http_upstream_with(&server.url(), settings)).await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET).initialized().await;
    let late = message(caller.call(5, "stream", json!({})).await.body());
    assert_eq!(late["error"]["data"]["reason"], "upstream_timeout");
    // Its id is used again for a request that is free: that frees no answer.
    let ping = caller.post(r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#).await;
    assert_eq!(ping.status(), 200);
    let mut resumed = caller.clone().with("last-event-id", "1").stream(Method::GET, "").await;
    server.feed(&format!(
        "id: 2\ndata: {{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{{\"t\":\"{MARK}\"}}}}\n\n"
    ));
    let said = until_notice(&server, &mut resumed).await;
    assert!(!said.contains(MARK), "{said}");
    assert_eq!(rig.ledger().consumed(&key), 0);

    // Cancelled, and answered all the same.
    let rig_outcomes = rig.outcomes().len();
    caller.call(6, "events_without_answer", json!({})).await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6}}"#;
    caller.post(cancel).await;
    until("it is over", || rig.outcomes().len() > rig_outcomes).await;
    server.feed(&format!(
        "id: 3\ndata: {{\"jsonrpc\":\"2.0\",\"id\":6,\"result\":{{\"t\":\"{MARK}\"}}}}\n\n"
    ));
    let said = until_notice(&server, &mut resumed).await;
    assert!(!said.contains(MARK), "{said}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_answer_comes_again_only_to_who_resumes() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET).initialized().await;
    let mut own = caller.stream(Method::GET, "").await;
    let mut response = caller.stream(Method::POST, call(5, "stream", json!({}))).await;
    let answer = format!(
        "id: 1\ndata: {{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{{\"t\":\"{MARK}\"}}}}\n\n"
    );
    server.feed(&answer);
    let said = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&said).contains(MARK));
    server.end();
    assert!(response.body_mut().frame().await.is_none());
    server.feed(&answer);
    assert!(!until_notice(&server, &mut own).await.contains(MARK), "nobody asked for it");
    let mut resumed = caller.clone().with("last-event-id", "0").stream(Method::GET, "").await;
    until("the stream is open", || server.feeds.lock().len() >= 2).await;
    server.feed(&answer);
    assert!(until_notice(&server, &mut resumed).await.contains(MARK), "it was missed");
    server.feed(&answer.replace(MARK, "another result"));
    assert!(
        !until_notice(&server, &mut resumed).await.contains("another"),
        "it was paid for by nobody"
    );
    assert_eq!(rig.ledger().consumed(&key), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_calls_fail_is_held_and_no_other() {
    let server = Server::start().await;
    let request_timeout = Duration::from_millis(200);
    let settings = mcp_node::upstream::UpstreamSettings { request_timeout, ..settings() };
    let rig = Rig::start(http_upstream_with(&server.url(), settings)).await;
    rig.ledger().key(SECRET, Some(1_000)).await;
    rig.ledger().key("tb_victim", Some(1_000)).await;
    until("the keys are known", || {
        ["tb_victim", SECRET].iter().all(|key| rig.node.meter().authenticate(key).is_ok())
    })
    .await;
    let (attacker, victim) = (rig.caller(SECRET), rig.caller("tb_victim"));
    // Slow calls whose streams say something are no failures of the server.
    for id in 1..=6 {
        let mut slow = attacker.stream(Method::POST, call(id, "stream", json!({}))).await;
        server.feed("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n");
        while slow.body_mut().frame().await.is_some() {}
    }
    assert_eq!(attacker.called(10, "success", json!({})).await.0, 200);
    for id in 20..=24 {
        assert_eq!(attacker.called(id, "broken", json!({})).await.0, 502);
    }
    assert_eq!(attacker.called(30, "success", json!({})).await.0, 503, "it is held");
    for id in 1..=50 {
        assert_eq!(victim.called(id, "success", json!({})).await.0, 200);
    }
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    assert_eq!(victim.post(list).await.status(), 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_bounds_what_a_server_is_made_to_do() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let calls = || {
        let calls = |sent: &&crate::server::Sent| {
            String::from_utf8_lossy(&sent.body).contains("tools/call")
        };
        server.sent.lock().iter().filter(calls).count()
    };
    for _ in 0..30 {
        let (caller, body) = rig.caller(SECRET).modern("tools/call", json!({ "name": "slow" }));
        let asked = calls();
        let calling = tokio::spawn(async move { caller.post(body).await.status() });
        until("the server has it, or it is refused", || calls() > asked || calling.is_finished())
            .await;
        calling.abort();
    }
    assert_eq!(calls(), 10, "each was hung up on");
    until("all are counted", || rig.ledger().consumed(&key) == 10).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_never_speaks_is_waited_for_once() {
    let request_timeout = Duration::from_millis(400);
    let settings = mcp_node::upstream::UpstreamSettings { request_timeout, ..settings() };
    let upstream = stdio_upstream_with("sleep".as_ref(), vec!["1000".into()], settings);
    let rig = Rig::start(upstream).await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let began = std::time::Instant::now();
    let response = rig.caller(SECRET).post(initialize(json!({}))).await;
    assert_eq!(
        (response.status().as_u16(), reason(response.body()).as_str()),
        (504, "upstream_timeout")
    );
    assert!(began.elapsed() < Duration::from_secs(8), "no second wait of ten seconds behind it");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_its_answer_a_call_is_not_begun_again() {
    let (rig, server) = with_server().await;
    server.old.store(true, std::sync::atomic::Ordering::Relaxed);
    let key = rig.ledger().key(SECRET, Some(100)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    for _ in 0..40 {
        let (status, _) =
            rig.caller(SECRET).asked("tools/call", json!({ "name": "success" })).await;
        assert_eq!(status, 200);
    }
    until("all are counted", || rig.ledger().consumed(&key) == 40).await;
    let said = |method: &str| {
        let method = format!("\"{method}\"");
        let says =
            |sent: &&crate::server::Sent| String::from_utf8_lossy(&sent.body).contains(&method);
        server.sent.lock().iter().filter(says).count()
    };
    assert_eq!(said("tools/call"), 40);
    // One session, and one more each time that a call came before the one before had given its session back.
    let sessions = said("initialize");
    assert!(sessions < 10, "{sessions} sessions for calls one after the other");
    rig.stop().await;
}
