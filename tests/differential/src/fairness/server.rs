//! The server of the fairness test: each tool misbehaves in its own way, and `steady` answers at once.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    Failure,
    http::{Connection, Request, reset},
    well,
};

const EVENTS: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const PROGRESS: Duration = Duration::from_millis(100);
/// Longer than any call may take.
const LONG: u32 = 600;

/// Starts it on a free port.
///
/// # Errors
/// There is none.
pub async fn start() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Ok(address)
}

async fn serve(stream: TcpStream) {
    let (mut connection, mut requests) = (Connection::new(stream), 0u64);
    while let Some(request) = connection.next().await {
        requests += 1;
        match answer(&mut connection, &request, requests).await {
            Some(true) => {}
            Some(false) => return reset(connection.stream),
            None => return,
        }
    }
}

/// `Some(false)` = the connection is to be reset.
async fn answer(connection: &mut Connection, request: &Request, count: u64) -> Option<bool> {
    if request.method == "GET" {
        connection.send(EVENTS).await?;
        connection.gone().await;
        return None;
    }
    let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    if message["method"].is_null() || message["id"].is_null() {
        return connection.send_status("202 Accepted").await.map(|()| true);
    }
    if message["method"] != "tools/call" {
        let port = connection.stream.peer_addr().map_or(0, |peer| peer.port());
        let session = format!("mcp-session-id: s-{port}-{count}\r\n");
        let session = if message["method"] == "initialize" { &session } else { "" };
        let (status, body) = well::answer(&message, false);
        return connection.send_json(status, session, &body).await.map(|()| true);
    }
    let answer = well::call(&message["id"].to_string());
    match message["params"]["name"].as_str().unwrap_or_default() {
        "drop" => Some(false),
        "close" => None,
        "drop_within" => {
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{").await?;
            Some(false)
        }
        "status_500" => connection.send_status("500 Internal Server Error").await.map(|()| true),
        "status_503" => connection.send_status("503 Service Unavailable").await.map(|()| true),
        "garbage" => connection.send_json("200 OK", "", "oops").await.map(|()| true),
        "other_id" => {
            let body = format!("data: {}\n\n", well::call("\"nobody\""));
            connection.send(&[EVENTS, body.as_bytes()].concat()).await?;
            None
        }
        "silent" => {
            connection.gone().await;
            None
        }
        "progress" => {
            connection.send(EVENTS).await?;
            let event = b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":1}}\n\n";
            for _ in 0..LONG {
                connection.send(event).await?;
                tokio::time::sleep(PROGRESS).await;
            }
            None
        }
        "slow" => {
            tokio::time::sleep(PROGRESS).await;
            connection.send_json("200 OK", "", &answer).await.map(|()| true)
        }
        "large" => {
            let text = "x".repeat(4 << 20);
            let answer = answer.replace("ran", &text);
            connection.send_json("200 OK", "", &answer).await.map(|()| true)
        }
        _ => connection.send_json("200 OK", "", &answer).await.map(|()| true),
    }
}
