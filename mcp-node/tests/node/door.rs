//! Who gets in, what goes on, and what each answer is recorded as.

use std::time::Duration;

use http::Method;
use mcp_node::{clock, http::ListenSettings};
use schemas::{KeyStatus, Record, RefusalReason};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    rig::{Caller, SECRET, call, http_upstream, message, reason, until, with_server},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_call_is_told_no_more_than_the_contract_says() {
    let (rig, server) = with_server().await;
    let ledger = rig.ledger();
    ledger.key_with("tb_revoked", None, |key| key.status = KeyStatus::Revoked).await;
    ledger
        .key_with("tb_pending", None, |key| {
            (key.status, key.reason) = (KeyStatus::Pending, "pay".into());
        })
        .await;
    ledger.key_with("tb_suspended", None, |key| key.status = KeyStatus::Suspended).await;
    ledger
        .key_with("tb_expired", None, |key| key.expires_at = Some(clock::wall().plus_ms(-1)))
        .await;
    ledger.key_with("tb_narrow", None, |key| key.tools = Some(vec!["success".into()])).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_narrow").is_ok()).await;

    let mut seen = vec![];
    for secret in ["tb_unknown", "tb_revoked", "", "ünï", &"x".repeat(5_000)] {
        let caller =
            rig.caller("x").with("x-api-key", &secret.replace(|c: char| !c.is_ascii(), "?"));
        seen.push(caller.call(1, "success", json!({})).await);
    }
    seen.push(rig.caller("x").without("x-api-key").call(1, "success", json!({})).await);
    for response in &seen {
        assert_eq!((response.status(), response.body()), (seen[0].status(), seen[0].body()));
        assert_eq!(response.headers()["www-authenticate"], seen[0].headers()["www-authenticate"]);
    }
    assert_eq!((seen[0].status().as_u16(), reason(seen[0].body()).as_str()), (401, "unauthorized"));

    for (secret, status, why) in [
        ("tb_pending", 402, "key_pending"),
        ("tb_suspended", 402, "key_suspended"),
        ("tb_expired", 401, "key_expired"),
    ] {
        let response = rig.caller(secret).call(1, "success", json!({})).await;
        assert_eq!((response.status().as_u16(), reason(response.body()).as_str()), (status, why));
    }
    let pending = message(rig.caller("tb_pending").call(1, "success", json!({})).await.body());
    assert_eq!(pending["error"]["data"]["detail"], "pay");
    let narrow = rig.caller("tb_narrow");
    let refused = narrow.call(7, "tool_error", json!({})).await;
    assert_eq!(
        (refused.status().as_u16(), reason(refused.body()).as_str()),
        (403, "tool_not_allowed")
    );
    assert_eq!(message(refused.body())["id"], 7);
    assert!(server.sent.lock().is_empty(), "nothing of all this went on");
    assert_eq!(narrow.called(8, "success", json!({})).await.0, 200);

    let world = rig.stop().await;
    let refused: Vec<(String, RefusalReason)> = world
        .ledger
        .records()
        .iter()
        .filter_map(|placed| match &placed.record {
            Record::Refused { tool, reason, .. } => Some((tool.clone(), *reason)),
            _ => None,
        })
        .collect();
    assert!(refused.contains(&("tool_error".into(), RefusalReason::ToolNotAllowed)), "{refused:?}");
    assert!(refused.contains(&(String::new(), RefusalReason::KeyNotActive)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_is_refused_before_it_goes_on() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let good = call(1, "success", json!({}));
    for (body, status, code) in [
        ("nonsense".to_owned(), 400, -32700),
        (String::new(), 400, -32700),
        (format!("[{good}]"), 400, -32600),
        (good.replace("\"name\":", "\"name\":\"tool_error\",\"name\":"), 400, -32600),
        (good.replace("\"name\":", "\"Name\":\"tool_error\",\"name\":"), 400, -32600),
        (good.replace("\"name\":\"success\"", "\"nom\":\"success\""), 400, -32602),
        ("x".repeat((5 << 20) + 1), 413, 41_301),
    ] {
        let response = caller.post(body.clone()).await;
        let error = message(response.body())["error"]["code"].clone();
        assert_eq!((response.status().as_u16(), error), (status, json!(code)), "{body:.80}");
    }
    let mismatch = caller.clone().with("mcp-name", "tool_error").post(good.clone()).await;
    assert_eq!(message(mismatch.body())["error"]["code"], -32020);
    let evil = caller.clone().with("origin", "https://evil.example").post(good.clone()).await;
    assert_eq!((evil.status().as_u16(), reason(evil.body()).as_str()), (403, "origin_not_allowed"));
    assert_eq!(caller.send(Method::PUT, "").await.status(), 405);
    assert!(server.sent.lock().is_empty());

    let fine = caller
        .clone()
        .with("origin", "https://good.example")
        .with("mcp-name", "success")
        .post(good)
        .await;
    assert_eq!(fine.status(), 200);
    assert_eq!(fine.headers()["access-control-allow-origin"], "https://good.example");
    let asked = caller
        .without("x-api-key")
        .with("origin", "https://good.example")
        .send(Method::OPTIONS, "")
        .await;
    assert_eq!(asked.status(), 204);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_that_is_too_large_is_refused_too() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let mut connection = tokio::net::TcpStream::connect(rig.address()).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nx-api-key: {SECRET}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "y".repeat(1 << 20));
    for _ in 0..6 {
        if connection.write_all(chunk.as_bytes()).await.is_err() {
            break; // It has answered already.
        }
    }
    let mut answer = vec![0; 12];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(std::str::from_utf8(&answer).unwrap(), "HTTP/1.1 413");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_is_what_came_and_the_key_is_not_in_it() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let odd = " {\"params\" : {\"arguments\":{\"n\":1.00,\"big\":123456789012345678901234567890,\"u\":\"\\u00e9\"},\r\n \
               \"name\":\"success\",\"vendor\":[]}, \"id\":\"x\\u0041\",\"method\":\"tools/call\",\"jsonrpc\":\"2.0\"}\n";
    let caller =
        rig.caller("-").without("x-api-key").with("authorization", &format!("Bearer {SECRET}"));
    let caller =
        caller.with("cookie", "secret=1").with("traceparent", "00-1").with("x-unknown", SECRET);
    let response = caller.post(odd).await;
    assert_eq!(response.status(), 200);
    let sent = server.last();
    assert_eq!(sent.body, odd, "byte for byte");
    assert_eq!(sent.headers["traceparent"], "00-1");
    let seen = format!("{:?}", sent.headers);
    assert!(!seen.contains(SECRET) && !seen.contains("cookie"), "{seen}");
    assert_eq!(
        message(response.body())["result"]["structuredContent"]["unknown"],
        1,
        "nothing unknown is lost"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_record_does_not_serve() {
    let server = Server::start().await;
    let world = crate::rig::World::start().await;
    let key = world.ledger.key(SECRET, Some(10)).await;
    let mut settings = world.spool();
    settings.limits.max_bytes = 1; // Full from the beginning.
    let node = mcp_node::Node::start(&settings, &world.nats).await.unwrap();
    let (address, _upstream, closing) =
        crate::rig::open_door(&node, http_upstream(&server.url())).await;
    let caller = Caller::new(&format!("http://{address}/mcp"), SECRET);
    let response = caller.call(1, "success", json!({})).await;
    assert_eq!(
        (response.status().as_u16(), reason(response.body()).as_str()),
        (503, "cannot_record")
    );
    assert!(response.headers().contains_key("retry-after"));
    assert!(server.sent.lock().is_empty(), "it did not go on");
    assert!(node.meter().trouble().is_some());
    assert_eq!(world.ledger.consumed(&key), 0);
    closing.cancel();
    node.stop(Duration::from_secs(1), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_in_number_and_in_timeout() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let head_timeout = Duration::from_millis(300);
    let idle_timeout = Duration::from_secs(90);
    let settings = ListenSettings { max_connections: 2, head_timeout, idle_timeout };
    let address = rig.open(settings).await;
    let connect = || async { tokio::net::TcpStream::connect(address).await.unwrap() };
    // One says nothing, one says something all the time and never all: both are closed.
    let (mut quiet, mut slow) = (connect().await, connect().await);
    let turned_away = Caller::new(&format!("http://{address}/mcp"), SECRET);
    let mut refused = None;
    for _ in 0..100 {
        slow.write_all(b"P").await.unwrap();
        let response = turned_away.call(1, "success", json!({})).await;
        if response.status() == 503 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("the third is turned away");
    assert_eq!(reason(refused.body()), "too_many_connections");
    assert_eq!(refused.headers()["retry-after"], "10");
    let mut nothing = [0; 1];
    assert_eq!(quiet.read(&mut nothing).await.unwrap(), 0, "closed");
    while slow.write_all(b"O").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("there is room again", || rig.node.meter().is_idle()).await;
    assert_eq!(turned_away.called(2, "success", json!({})).await.0, 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slash_at_the_end_changes_nothing_and_other_paths_are_told_what_is_served() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let at = |path: &str| Caller::new(&rig.url().replace("/mcp", path), SECRET);
    assert_eq!(at("/mcp/").called(1, "success", json!({})).await.0, 200);
    assert_eq!(server.sent.lock().len(), 1);
    for path in ["/", "/mcpx", "/mcp/nobody", "/mcp/nobody/", "/mcp/a/b", "/.well-known/x"] {
        let caller = at(path);
        for response in [
            caller.call(1, "success", json!({})).await,
            caller.send(Method::GET, "").await,
            caller.clone().without("x-api-key").call(1, "success", json!({})).await,
        ] {
            let body = message(response.body());
            assert_eq!(response.status(), 404, "{path}: {body}");
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(body["error"]["code"], 40_402);
            assert_eq!(
                body["error"]["data"],
                json!({"reason": "unknown_path", "served": ["/mcp", "/sse", "/messages", "/ws"]})
            );
            assert!(
                body["error"]["message"]
                    .as_str()
                    .unwrap()
                    .ends_with("MCP is served at /mcp, /sse, /messages, /ws.")
            );
        }
        let page =
            caller.clone().with("origin", "https://good.example").send(Method::GET, "").await;
        assert_eq!(page.headers()["access-control-allow-origin"], "https://good.example");
        let host = caller.with("host", "evil.example").send(Method::GET, "").await;
        assert_eq!(host.status(), 403, "{path}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_may_send_and_read_what_the_node_understands() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, Some(5)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let page = rig.caller(SECRET).with("origin", "https://good.example");
    let asks = "mcp-param-region,idempotency-key,traceparent,tracestate,baggage,cookie";
    let asked = page.clone().with("access-control-request-method", "POST");
    let asked = asked.with("access-control-request-headers", asks).send(Method::OPTIONS, "").await;
    assert_eq!(asked.status(), 204);
    let allowed = asked.headers()["access-control-allow-headers"].to_str().unwrap();
    assert_eq!(
        allowed.split(", ").collect::<Vec<_>>(),
        ["mcp-param-region", "idempotency-key", "traceparent", "tracestate", "baggage"]
    );
    let served = page.call(1, "success", json!({})).await;
    let exposed = served.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    let exposed: Vec<&str> = exposed.split(", ").collect();
    let ours = |name: &&http::HeaderName| {
        let name = name.as_str();
        name.starts_with("x-tollbook-") || name.starts_with("ratelimit")
    };
    let told: Vec<_> = served.headers().keys().filter(ours).collect();
    assert!(told.len() >= 3, "{told:?}");
    for name in
        told.into_iter().map(http::HeaderName::as_str).chain(["retry-after", "x-tollbook-warning"])
    {
        assert!(exposed.contains(&name), "{name}: {exposed:?}");
    }
    rig.stop().await;
}
