//! Requests that two readers of HTTP could cut in two ways: whatever the node makes of them, what goes to the server is
//! byte for byte a body that was authorised, and each one is recorded.

use std::time::Duration;

use schemas::Record;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::rig::{SECRET, call, until, with_server};

/// A request without a key, hidden in the body of another.
fn hidden() -> String {
    let body = call(666, "smuggled", serde_json::json!({}));
    format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The attacks: a name, and what follows the request line and the key.
fn attacks(open: &str) -> Vec<(&'static str, String)> {
    let (hidden, len) = (hidden(), open.len());
    let chunked = format!("{len:x}\r\n{open}\r\n0\r\n\r\n");
    let both = open.len() + hidden.len();
    let row = |name, head: String, body: String| (name, format!("{head}\r\n\r\n{body}"));
    vec![
        row(
            "length and chunks",
            format!(
                "content-length: {}\r\ntransfer-encoding: chunked",
                chunked.len() + hidden.len()
            ),
            format!("{chunked}{hidden}"),
        ),
        row(
            "chunks and length",
            format!("transfer-encoding: chunked\r\ncontent-length: {len}"),
            format!("{open}{hidden}"),
        ),
        row(
            "two lengths",
            format!("content-length: {len}\r\ncontent-length: {both}"),
            format!("{open}{hidden}"),
        ),
        row(
            "two equal lengths",
            format!("content-length: {len}\r\ncontent-length: {len}"),
            format!("{open}{hidden}"),
        ),
        row(
            "a list of lengths",
            format!("content-length: {len}, {both}"),
            format!("{open}{hidden}"),
        ),
        row("a signed length", format!("content-length: +{len}"), format!("{open}{hidden}")),
        row(
            "a length in other digits",
            format!("content-length: 0x{len:x}"),
            format!("{open}{hidden}"),
        ),
        row(
            "a length before a space",
            format!("content-length : {len}"),
            format!("{open}{hidden}"),
        ),
        row("a folded length", format!("content-length:\r\n {len}"), format!("{open}{hidden}")),
        row(
            "chunked twice",
            "transfer-encoding: chunked, chunked".into(),
            format!("{chunked}{hidden}"),
        ),
        row(
            "identity and chunked",
            "transfer-encoding: identity, chunked".into(),
            format!("{chunked}{hidden}"),
        ),
        row(
            "compressed and chunked",
            "transfer-encoding: gzip, chunked".into(),
            format!("{chunked}{hidden}"),
        ),
        row(
            "chunked in two lines",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked".into(),
            format!("{chunked}{hidden}"),
        ),
        row("an empty coding", "transfer-encoding: , chunked".into(), format!("{chunked}{hidden}")),
        row(
            "chunked in disguise",
            "transfer-encoding: xchunked".into(),
            format!("{chunked}{hidden}"),
        ),
        row(
            "chunked with a tab",
            "transfer-encoding:\tchunked".into(),
            format!("{chunked}{hidden}"),
        ),
        row(
            "chunked not last",
            "transfer-encoding: chunked, identity".into(),
            format!("{chunked}{hidden}"),
        ),
        row(
            "two codings",
            "transfer-encoding: identity\r\ntransfer-encoding: chunked".into(),
            format!("{chunked}{hidden}"),
        ),
        row(
            "a chunk with an extension",
            "transfer-encoding: chunked".into(),
            format!("{len:x};a=\"\r\n\r\n\"\r\n{open}\r\n0\r\n\r\n{hidden}"),
        ),
        row(
            "a chunk with a long size",
            "transfer-encoding: chunked".into(),
            format!("fffffffffffffffff\r\n{open}\r\n0\r\n\r\n{hidden}"),
        ),
        row(
            "a chunk that ends early",
            "transfer-encoding: chunked".into(),
            format!("{:x}\r\n{open}\r\n0\r\n\r\n{hidden}", len - 3),
        ),
        row(
            "chunks with bare line feeds",
            "transfer-encoding: chunked".into(),
            format!("{len:x}\n{open}\n0\n\n{hidden}"),
        ),
        row(
            "trailers that decide",
            "transfer-encoding: chunked".into(),
            format!(
                "{len:x}\r\n{open}\r\n0\r\ncontent-length: 5\r\nx-api-key: tb_other\r\n\r\n{hidden}"
            ),
        ),
        row("no length at all", "x-nothing: 1".into(), format!("{open}{hidden}")),
        row(
            "a header cut by a line feed",
            format!("x-a: b\ncontent-length: {len}"),
            format!("{open}{hidden}"),
        ),
        row(
            "a header with a zero byte",
            format!("x-a: b\0c\r\ncontent-length: {len}"),
            format!("{open}{hidden}"),
        ),
        row("a shorter length", format!("content-length: {}", len - 10), format!("{open}{hidden}")),
        row("pipelined", format!("content-length: {len}"), format!("{open}{hidden}")),
    ]
}

/// Sends bytes over a connection of their own and reads what comes until it ends or falls silent.
async fn send(address: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(bytes).await.unwrap();
    connection.shutdown().await.unwrap(); // Half closed: what was sent is all.
    let mut answer = Vec::new();
    drop(timeout(Duration::from_secs(5), connection.read_to_end(&mut answer)).await);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_authorised_is_byte_for_byte_what_goes_on() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(1_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let mut served = 0;
    for (number, attack) in
        attacks(&call(1, "success", serde_json::json!({}))).into_iter().enumerate()
    {
        let (name, rest) = attack;
        let before = server.sent.lock().len();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\nx-api-key: {SECRET}\r\nx-number: {number}\r\n"
        );
        let answer = send(rig.address(), format!("{head}{rest}").as_bytes()).await;
        let sent = server.sent.lock().split_off(before);
        for one in &sent {
            assert_eq!(one.body, call(1, "success", serde_json::json!({})), "{name}");
        }
        assert!(sent.len() <= 1, "{name}: {} requests went on", sent.len());
        let well = answer.matches("HTTP/1.1 200").count();
        assert_eq!(well, sent.len(), "{name}: {answer}");
        served += sent.len() as u64;
    }
    assert!(served >= 4, "the plain ones among them are served: {served}");
    let world = rig.stop().await;
    assert_eq!(world.ledger.consumed(&key), served, "what went on was counted, and nothing else");
    let usage = |placed: &&crate::ledger::Placed| match &placed.record {
        Record::Usage(event) => event.tool == "smuggled",
        _ => false,
    };
    assert_eq!(world.ledger.records().iter().filter(usage).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_two_readers_could_undo_in_two_ways_are_refused() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let body = call(1, "success", serde_json::json!({}));
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for codings in [
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: , chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked",
    ] {
        let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
        let text = format!("{head}x-api-key: {SECRET}\r\n{codings}\r\n\r\n{chunked}{}", hidden());
        let answer = send(rig.address(), text.as_bytes()).await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 400"), "{codings}: {answer}");
        assert!(answer.contains("\"code\":-32600") && answer.contains("connection: close"));
        assert_eq!(answer.matches("http/1.1").count(), 1, "{codings}: {answer}");
    }
    assert!(server.sent.lock().is_empty());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_in_absolute_form_decides_instead_of_host() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let body = call(1, "success", serde_json::json!({}));
    for (target, hosts, status) in [
        ("/mcp", "host: localhost\r\n", 200),
        ("/mcp", "host: evil.example\r\n", 403),
        ("http://localhost/mcp", "host: evil.example\r\n", 200),
        ("http://localhost:8080/mcp", "", 200),
        ("http://localhost/mcp", "host: a\r\nhost: b\r\n", 200),
        ("http://evil.example/mcp", "host: localhost\r\n", 403),
        ("http://evil.example/mcp", "", 403),
        ("http://localhost@evil.example/mcp", "host: localhost\r\n", 400),
        ("/mcp", "", 400),
        ("/mcp", "host: localhost\r\nhost: localhost\r\n", 400),
        ("/mcp", "host: localhost\r\nhost: evil.example\r\n", 400),
    ] {
        let text = format!(
            "POST {target} HTTP/1.1\r\n{hosts}x-api-key: {SECRET}\r\nconnection: close\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = send(rig.address(), text.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{target} {hosts}: {answer}");
    }
    rig.stop().await;
}
