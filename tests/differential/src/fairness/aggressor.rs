//! The bad things that one tenant does, each over and over until its turn is over.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{Failure, raw::is_complete, rig::Key};

/// Aggressors connect from here: a bound by client address is none of their victim's.
const FROM: &str = "127.0.0.2:0";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One bad thing.
#[derive(Clone, Copy, Debug)]
pub struct Deed {
    pub name: &'static str,
    /// How many do it at once.
    pub workers: usize,
    /// How long its turn is, in shares.
    pub shares: u32,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// Calls of tools, one after another.
    Calls(&'static [&'static str]),
    /// Calls that the client hangs up on after some milliseconds, of the new revision or of the one before.
    HangUps {
        after_ms: u64,
        new: bool,
    },
    /// Sessions that are begun and never ended.
    Sessions,
    /// Streams that are opened and held.
    Streams,
    /// Bodies of so many bytes.
    Bodies(usize),
    SlowBodies,
    HalfHeads,
    /// Requests that are refused for what they are.
    Invalid,
    /// Secrets of nobody.
    Secrets,
    Cancels,
}

const fn deed(name: &'static str, workers: usize, shares: u32, what: What) -> Deed {
    Deed { name, workers, shares, what }
}

/// All bad things.
pub const DEEDS: &[Deed] = &[
    deed("drops the connection", 3, 1, What::Calls(&["drop", "close", "drop_within"])),
    deed("5xx", 3, 1, What::Calls(&["status_500", "status_503"])),
    deed("garbage", 3, 1, What::Calls(&["garbage", "other_id"])),
    deed("long with progress", 8, 3, What::Calls(&["progress"])),
    deed("long and silent", 8, 3, What::Calls(&["silent"])),
    deed("hangs up", 4, 1, What::HangUps { after_ms: 5, new: false }),
    deed("hangs up, 2026-07-28", 4, 1, What::HangUps { after_ms: 5, new: true }),
    deed("flood", 4, 1, What::Calls(&["steady"])),
    deed("cancels", 3, 1, What::Cancels),
    deed("sessions", 2, 1, What::Sessions),
    deed("streams", 64, 1, What::Streams),
    deed("large answers", 2, 1, What::Calls(&["large"])),
    deed("large bodies", 2, 1, What::Bodies(4 << 20)),
    deed("too large bodies", 2, 1, What::Bodies(8 << 20)),
    deed("slow bodies", 200, 1, What::SlowBodies),
    deed("half heads", 300, 1, What::HalfHeads),
    deed("invalid requests", 3, 1, What::Invalid),
    deed("refused secrets", 3, 1, What::Secrets),
];

/// Does a bad thing until the set is dropped; the keys are taken in turns.
#[must_use]
pub fn begin(deed: Deed, node: SocketAddr, keys: &[Key]) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for number in 0..deed.workers {
        let secret = keys[number % keys.len()].secret.clone();
        workers.spawn(async move {
            for round in 0u64.. {
                // What fails is what an aggressor wants; it goes on.
                if once(deed.what, node, &secret, number as u64 * 1_000_000 + round).await.is_err()
                {
                    sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    workers
}

async fn once(what: What, node: SocketAddr, secret: &str, number: u64) -> Result<(), Failure> {
    let host = node.to_string();
    let mut connection = connect(node).await?;
    let place = usize::try_from(number)?;
    match what {
        What::Calls(tools) => {
            let request = call(&host, secret, tools[place % tools.len()], number, "", "");
            exchange(&mut connection, &request).await?;
        }
        What::HangUps { after_ms, new } => {
            let (headers, meta) = if new {
                (
                    "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: slow\r\n",
                    r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#,
                )
            } else {
                ("", "")
            };
            let request = call(&host, secret, "slow", number, headers, meta);
            connection.write_all(request.as_bytes()).await?;
            sleep(Duration::from_millis(after_ms)).await;
        }
        What::Sessions => {
            let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"a","version":"1"}}}"#;
            exchange(&mut connection, &post(&host, secret, "", hello)).await?;
        }
        What::Streams => {
            let request = format!(
                "GET /mcp HTTP/1.1\r\nhost: {host}\r\nx-api-key: {secret}\r\naccept: text/event-stream\r\n\r\n"
            );
            connection.write_all(request.as_bytes()).await?;
            hold(&mut connection).await;
        }
        What::Bodies(length) => {
            let body = call_body("steady", number, "")
                .replace("{}", &format!("{{\"a\":\"{}\"}}", "x".repeat(length)));
            exchange(&mut connection, &post(&host, secret, "", &body)).await?;
        }
        What::SlowBodies => {
            let request = call(&host, secret, "steady", number, "", "");
            connection.write_all(&request.as_bytes()[..request.len() - 20]).await?;
            hold(&mut connection).await;
        }
        What::HalfHeads => {
            connection.write_all(b"POST /mcp HTTP/1.1\r\nhost: ").await?;
            hold(&mut connection).await;
        }
        What::Invalid => {
            let bodies = [
                "{",
                "[]",
                "{\"jsonrpc\":\"2.0\",\"id\":\"\\ud800\",\"method\":\"tools/call\",\"params\":{\"name\":\"steady\"}}",
                "{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"x\"}",
            ];
            exchange(&mut connection, &post(&host, secret, "", bodies[place % bodies.len()]))
                .await?;
        }
        What::Secrets => {
            let secret = format!("tb_{number:032x}");
            exchange(&mut connection, &call(&host, &secret, "steady", number, "", "")).await?;
        }
        What::Cancels => {
            let request = call(&host, secret, "slow", number, "", "");
            connection.write_all(request.as_bytes()).await?;
            let cancel = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number}}}}}"#
            );
            let mut other = connect(node).await?;
            exchange(&mut other, &post(&host, secret, "", &cancel)).await?;
        }
    }
    Ok(())
}

async fn connect(node: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(FROM.parse()?)?;
    let connection = socket.connect(node).await?;
    connection.set_zero_linger()?; // Thousands of connections would wait for their last packet otherwise.
    Ok(connection)
}

fn call_body(tool: &str, number: u64, meta: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}{meta}}}}}"#
    )
}

fn call(host: &str, secret: &str, tool: &str, number: u64, headers: &str, meta: &str) -> String {
    post(host, secret, headers, &call_body(tool, number, meta))
}

fn post(host: &str, secret: &str, headers: &str, body: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nhost: {host}\r\nx-api-key: {secret}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a request and reads its answer.
async fn exchange(connection: &mut TcpStream, request: &str) -> Result<(), Failure> {
    connection.write_all(request.as_bytes()).await?;
    let (mut answer, mut piece) = (Vec::new(), [0; 16 * 1024]);
    timeout(ANSWER_TIMEOUT, async {
        while !is_complete(&answer) {
            match connection.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                // Of a large answer only the end matters.
                Ok(length) if answer.len() > 64 * 1024 => {
                    if piece[..length].ends_with(b"\n") {
                        break;
                    }
                }
                Ok(length) => answer.extend_from_slice(&piece[..length]),
            }
        }
    })
    .await?;
    Ok(())
}

/// Holds a connection until the other side ends it.
async fn hold(connection: &mut TcpStream) {
    let mut piece = [0; 1024];
    while connection.read(&mut piece).await.is_ok_and(|length| length > 0) {}
}
