//! The client of every gateway that is measured: so many connections, each with one session and one call at a time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    Outcome,
    report::{measure, percentile},
};

/// What is called.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: &'static str,
    pub url: Uri,
    /// A header that says who calls.
    pub key: Option<(&'static str, String)>,
    /// How the gateway calls the tool `echo`.
    pub tool: String,
}

/// What came of a load.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub rps: f64,
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    After(Duration),
    /// So many calls of each connection.
    Calls(u64),
}

/// One connection with one session.
pub struct Session {
    sender: SendRequest<Full<Bytes>>,
    target: Target,
    session: Option<HeaderValue>,
    call: Bytes,
}

impl Session {
    /// # Errors
    /// The gateway cannot be reached or does not begin a session.
    pub async fn begin(target: &Target) -> Outcome<Self> {
        let host = target.url.authority().ok_or("a URL without a host")?.as_str();
        let connection = TcpStream::connect(host).await?;
        connection.set_nodelay(true)?;
        let (sender, driver) = handshake(TokioIo::new(connection)).await?;
        tokio::spawn(driver);
        let tool = &target.tool;
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"hello"}}}}}}"#
        );
        let mut session = Self { sender, target: target.clone(), session: None, call: call.into() };
        let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
        let (status, headers, body) = session.post(Bytes::from_static(hello.as_bytes())).await?;
        if status != 200 {
            return Err(format!("{}: initialize: {status} {body:?}", target.name).into());
        }
        session.session = headers.get("mcp-session-id").cloned();
        let ready = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        session.post(Bytes::from_static(ready)).await?;
        Ok(session)
    }

    async fn post(&mut self, body: Bytes) -> Outcome<(u16, http::HeaderMap, Bytes)> {
        let mut request = Request::post(self.target.url.path())
            .header(header::HOST, self.target.url.authority().map_or("", |host| host.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header("mcp-protocol-version", "2025-11-25");
        if let Some((name, value)) = &self.target.key {
            request = request.header(*name, value);
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::new(body))?).await?;
        let (head, body) = response.into_parts();
        Ok((head.status.as_u16(), head.headers, body.collect().await?.to_bytes()))
    }

    /// One call of the tool. Returns how long it took. Unit: milliseconds.
    ///
    /// # Errors
    /// What came back is not the tool's answer.
    pub async fn call(&mut self) -> Outcome<f64> {
        let began = Instant::now();
        let (status, _, body) = self.post(self.call.clone()).await?;
        let took = began.elapsed();
        let answered = memchr::memmem::find(&body, b"the answer of the tool").is_some();
        if status != 200 || !answered {
            return Err(format!("{}: {status} {body:?}", self.target.name).into());
        }
        Ok(took.as_secs_f64() * 1e3)
    }
}

/// Calls over so many connections at once.
///
/// # Errors
/// A call fails.
pub async fn run(target: &Target, connections: usize, until: Until) -> Outcome<Measured> {
    let mut sessions = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut session = Session::begin(target).await?;
        session.call().await?; // Warm, and shown to work.
        sessions.push(session);
    }
    let (began, mut callers) = (Instant::now(), JoinSet::new());
    for mut session in sessions {
        callers.spawn(async move {
            let mut took = Vec::new();
            loop {
                let over = match until {
                    Until::After(time) => began.elapsed() >= time,
                    Until::Calls(calls) => took.len() as u64 >= calls,
                };
                if over {
                    return Ok::<_, crate::Failure>(took);
                }
                took.push(session.call().await?);
            }
        });
    }
    let mut took = Vec::new();
    for calls in callers.join_all().await {
        took.extend(calls?);
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Measured {
        p50_ms: percentile(&took, 50),
        p99_ms: percentile(&took, 99),
        rps: measure(took.len() as u64) / seconds,
    })
}
