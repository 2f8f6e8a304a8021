//! Connections of clients: how long each may take for what, and how a client that goes away is told from one that has
//! only said all.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use mcp_node::http::ListenSettings;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    rig::{MODERN, Rig, SECRET, call, meta, until, with_server},
    server::Server,
};

/// A connection by whose bytes a test speaks.
pub struct Raw(TcpStream);

/// A request of the old era that calls a tool.
pub fn old(tool: &str) -> String {
    request("", &call(9, tool, json!({})))
}

/// A request of 2026-07-28 that calls a tool.
pub fn modern(tool: &str) -> String {
    let params = json!({ "name": tool, "_meta": meta(json!({})) });
    let body = json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params });
    let head =
        format!("mcp-protocol-version: {MODERN}\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n");
    request(&head, &body.to_string())
}

fn request(head: &str, body: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nx-api-key: {SECRET}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n{head}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads one answer with a length; its head.
    pub async fn answer(&mut self) -> String {
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("an answer comes"));
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        head
    }

    /// Reads until the node closes; what came.
    pub async fn rest(&mut self) -> String {
        let mut rest = vec![];
        let read = timeout(Duration::from_secs(20), self.0.read_to_end(&mut rest)).await;
        read.expect("the node closes").unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// That nothing comes, and no end, for so long.
    pub async fn is_kept(&mut self, long: Duration) {
        let mut byte = [0; 1];
        let came = timeout(long, self.0.read(&mut byte)).await;
        assert!(came.is_err(), "within {long:?}: {came:?}");
    }
}

/// A rig that knows the key, with a second door whose times are short.
async fn rig(head: u64, idle: u64) -> (Rig, Server, SocketAddr) {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, Some(1_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let settings = ListenSettings {
        max_connections: 100,
        head_timeout: Duration::from_millis(head),
        idle_timeout: Duration::from_millis(idle),
    };
    let address = rig.open(settings).await;
    (rig, server, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_has_a_time_of_its_own() {
    let (rig, _server, address) = rig(300, 3_000).await;
    let mut client = Raw::connect(address).await;
    for _ in 0..2 {
        client.send(&old("success")).await;
        let head = client.answer().await;
        assert!(
            head.starts_with("http/1.1 200") && head.contains("keep-alive: timeout=3"),
            "{head}"
        );
        client.is_kept(Duration::from_millis(1_200)).await;
    }
    client.send(&old("success")).await;
    client.answer().await;
    let began = Instant::now();
    assert_eq!(client.rest().await, "");
    let took = began.elapsed();
    assert!(took > Duration::from_millis(2_900) && took < Duration::from_secs(6), "{took:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_in_time_ends_its_connection() {
    let (rig, _server, address) = rig(500, 60_000).await;
    let in_time = |began: Instant| {
        let took = began.elapsed();
        assert!(took > Duration::from_millis(450) && took < Duration::from_secs(5), "{took:?}");
    };
    // Nothing ever came; half a head; a byte now and then; and the same behind a request that was served.
    let (mut quiet, began) = (Raw::connect(address).await, Instant::now());
    assert_eq!(quiet.rest().await, "");
    in_time(began);
    for served_before in [false, true] {
        for drips in [false, true] {
            let mut slow = Raw::connect(address).await;
            if served_before {
                slow.send(&old("success")).await;
                slow.answer().await;
                slow.is_kept(Duration::from_secs(1)).await;
            }
            let began = Instant::now();
            slow.send("POST /mcp HTTP/1.1\r\nx: ").await;
            if drips {
                while slow.0.write_all(b"y").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    assert!(began.elapsed() < Duration::from_secs(10), "it may drip for ever");
                }
            } else {
                assert_eq!(slow.rest().await, "");
            }
            in_time(began);
        }
    }
    // A slow body has its own time, and a slow server costs the client nothing.
    let mut slow = Raw::connect(address).await;
    let text = old("slow");
    let (first, last) = text.split_at(text.len() - 5);
    slow.send(first).await;
    slow.is_kept(Duration::from_secs(1)).await;
    slow.send(last).await;
    assert!(slow.answer().await.starts_with("http/1.1 200"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_served_in_turn() {
    let (rig, server, address) = rig(500, 60_000).await;
    let mut client = Raw::connect(address).await;
    let (slow, fast) = (old("slow"), old("success"));
    let (first, last) = fast.split_at(40);
    client.send(&format!("{slow}{fast}{slow}{first}")).await;
    for _ in 0..3 {
        assert!(client.answer().await.starts_with("http/1.1 200"));
    }
    client.send(last).await;
    assert!(client.answer().await.starts_with("http/1.1 200"));
    assert_eq!(server.sent.lock().len(), 4);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_said_all_is_answered_and_its_calls_count() {
    let (rig, _server, address) = rig(10_000, 60_000).await;
    let text = [old("success"), modern("success"), old("slow"), modern("slow"), old("events")];
    for text in &text {
        let mut client = Raw::connect(address).await;
        client.send(text).await;
        client.0.shutdown().await.unwrap();
        let answer = client.rest().await;
        // What a client of HTTP/1.1 skips.
        let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{text}: {answer}");
        assert!(answer.contains("\"result\""), "{answer}");
    }
    until("all are recorded", || rig.outcomes().len() == text.len()).await;
    assert!(rig.outcomes().iter().all(|(_, outcome)| outcome == "success"), "{:?}", rig.outcomes());
    // A large answer leaves whole, though its client has closed its half long before and reads late.
    let mut client = Raw::connect(address).await;
    client.send(&request("", r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{"x":"PAD"}}"#
        .replace("PAD", &"x".repeat(900_000)).as_str())).await;
    client.0.shutdown().await.unwrap();
    let answer = client.rest().await;
    let (whole, length) = (answer.ends_with("}\r\n0\r\n\r\n"), answer.len());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
    assert!(whole && length > 900_000, "cut off after {length} bytes");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_gone_is_noticed_at_once() {
    let (rig, server, address) = rig(10_000, 60_000).await;
    // The server's era is asked once, which is no call.
    assert_eq!(rig.caller(SECRET).asked("tools/list", serde_json::json!({})).await.0, 200);
    let mut recorded = 0;
    for (tool, resets) in [("never", false), ("never", true), ("stream", false), ("stream", true)] {
        let sent = server.sent.lock().len();
        let mut client = Raw::connect(address).await;
        client.send(&modern(tool)).await;
        until("the server has it", || server.sent.lock().len() > sent).await;
        if tool == "stream" {
            server.feed(": hello\n\n");
            client.0.read_u8().await.unwrap();
        }
        if resets {
            client.0.set_zero_linger().unwrap();
        }
        let began = Instant::now();
        drop(client);
        recorded += 1;
        until("it is recorded", || rig.outcomes().len() == recorded).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(4), "{tool} {resets}: {took:?}");
    }
    assert!(rig.outcomes().iter().all(|(_, outcome)| outcome == "cancelled"));
    // One that sends no more but is there is not taken for one that has gone.
    let sent = server.sent.lock().len();
    let mut client = Raw::connect(address).await;
    client.send(&modern("stream")).await;
    client.0.shutdown().await.unwrap();
    until("the server has it", || server.sent.lock().len() > sent).await;
    server
        .feed("data: {\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{\"resultType\":\"complete\"}}\n\n");
    server.end();
    assert!(client.rest().await.contains("\"result\""));
    until("it is recorded", || rig.outcomes().len() == recorded + 1).await;
    assert!(rig.outcomes().contains(&("stream".into(), "success".into())));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_long_after_it_said_all_is_noticed_too() {
    let (rig, server, address) = rig(300, 60_000).await;
    let mut client = Raw::connect(address).await;
    client.send(&modern("never")).await;
    client.0.shutdown().await.unwrap();
    until("the server has it", || !server.sent.lock().is_empty()).await;
    let mut interim = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    for _ in 0..2 {
        client.0.read_exact(&mut interim).await.unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n", "it is asked again and again");
    }
    assert!(rig.outcomes().is_empty(), "it is there");
    drop(client);
    let cancelled = [("never".to_owned(), "cancelled".to_owned())];
    until("it is recorded", || rig.outcomes() == cancelled).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_a_session_ends_with_its_client() {
    let (rig, server, address) = rig(10_000, 60_000).await;
    let session = rig.caller(SECRET).initialized().await.headers["mcp-session-id"].clone();
    let mut client = Raw::connect(address).await;
    client
        .send(&format!(
            "GET /mcp HTTP/1.1\r\nhost: localhost\r\nx-api-key: {SECRET}\r\naccept: text/event-stream\r\n\
             mcp-session-id: {}\r\nmcp-protocol-version: 2025-06-18\r\n\r\n",
            session.to_str().unwrap()
        ))
        .await;
    until("it is open", || !server.feeds.lock().is_empty()).await;
    server.feed(": hello\n\n");
    client.0.read_u8().await.unwrap();
    let began = Instant::now();
    drop(client);
    let feed = server.feeds.lock().pop().unwrap();
    until("the server's stream is let go", || feed.is_closed()).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    rig.stop().await;
}
