//! The server of the requests' test: it runs whatever it can read as a call of a tool, and remembers what it ran.
//!
//! Over HTTP at `/h_old`, `/h_plain` and `/h_new`, and as a child over stdin and stdout, which tells its parent.

use std::{
    collections::HashMap,
    io::{BufRead, Read, Write},
    net::SocketAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    Failure,
    http::{Connection, Request},
    lenient::{Call, calls},
    well,
};

/// What ran, by the tool's name at the server: how often, and the last bytes that made it run.
#[derive(Clone, Default)]
pub struct Ran(Arc<Mutex<HashMap<String, TimesAndBytes>>>);

type TimesAndBytes = (u64, Vec<u8>);

impl Ran {
    fn note(&self, calls: &[Call], bytes: &[u8]) {
        let mut ran = self.0.lock();
        for call in calls {
            let entry = ran.entry(call.tool.clone()).or_default();
            entry.0 += 1;
            entry.1 = bytes.to_vec();
        }
    }

    /// The tools that ran of those that `wanted` takes, which are forgotten.
    pub fn take(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, u64, Vec<u8>)> {
        let mut ran = self.0.lock();
        let tools: Vec<String> = ran.keys().filter(|tool| wanted(tool)).cloned().collect();
        tools
            .into_iter()
            .filter_map(|tool| {
                let (times, bytes) = ran.remove(&tool)?;
                Some((tool, times, bytes))
            })
            .collect()
    }
}

/// The running server, and where its children over stdio tell what they ran.
pub struct Server {
    pub ran: Ran,
    pub address: SocketAddr,
    pub told_at: SocketAddr,
}

impl Server {
    /// Starts it on free ports.
    ///
    /// # Errors
    /// There are none.
    pub async fn start() -> Result<Self, Failure> {
        let (listener, told) =
            (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let (address, told_at) = (listener.local_addr()?, told.local_addr()?);
        let ran = Ran::default();
        let (by_http, by_children) = (ran.clone(), ran.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, by_http.clone()));
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = told.accept().await {
                tokio::spawn(hear(stream, by_children.clone()));
            }
        });
        Ok(Self { ran, address, told_at })
    }
}

async fn serve(stream: TcpStream, ran: Ran) {
    let mut connection = Connection::new(stream);
    let mut sessions = 0u64;
    while let Some(request) = connection.next().await {
        sessions += 1;
        if answer(&mut connection, &request, &ran, sessions).await.is_none() {
            return;
        }
    }
}

async fn answer(
    connection: &mut Connection,
    request: &Request,
    ran: &Ran,
    count: u64,
) -> Option<()> {
    let calls = calls(&request.body, false);
    ran.note(&calls, &request.body);
    if let Some(call) = calls.first() {
        let body = well::call(call.id.as_deref().unwrap_or("null"));
        return connection.send_json("200 OK", "", &body).await;
    }
    let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match &*request.method {
        "POST" if message["method"].is_null() || message["id"].is_null() => {
            connection.send_status("202 Accepted").await
        }
        "POST" => {
            let (status, body) = well::answer(&message, request.path == "/h_new");
            let begins = message["method"] == "initialize" && request.path == "/h_old";
            let port = connection.stream.peer_addr().map_or(0, |peer| peer.port());
            let session = format!("mcp-session-id: session-{port}-{count}\r\n");
            connection.send_json(status, if begins { &session } else { "" }, &body).await
        }
        "GET" => connection.send_status("405 Method Not Allowed").await,
        _ => connection.send_status("200 OK").await,
    }
}

/// Hears what a child ran: a line of JSON each, `[bytes in hexadecimal, tools…]`, answered by one byte.
async fn hear(stream: TcpStream, ran: Ran) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok((bytes, tools)) = serde_json::from_str::<(Vec<u8>, Vec<String>)>(&line) {
            let calls: Vec<Call> = tools.into_iter().map(|tool| Call { tool, id: None }).collect();
            ran.note(&calls, &bytes);
        }
        if write.write_all(b".").await.is_err() {
            return;
        }
    }
}

/// Is the server over stdin and stdout until stdin ends; what it runs it tells at `told_at` before it answers.
///
/// # Errors
/// Its parent or its client is gone.
pub fn over_stdio(told_at: &str) -> Result<(), Failure> {
    let mut teller = std::net::TcpStream::connect(told_at)?;
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let calls = calls(&line, true);
        let answer = if let Some(first) = calls.first() {
            let tools: Vec<&str> = calls.iter().map(|call| call.tool.as_str()).collect();
            let told = serde_json::to_string(&(&line, tools))?;
            teller.write_all(format!("{told}\n").as_bytes())?;
            teller.read_exact(&mut [0])?;
            well::call(first.id.as_deref().unwrap_or("null"))
        } else {
            let message: Value = serde_json::from_slice(&line).unwrap_or_default();
            if message["method"].is_null() || message["id"].is_null() {
                continue;
            }
            well::answer(&message, false).1
        };
        output.write_all(format!("{answer}\n").as_bytes())?;
        output.flush()?;
    }
}
