//! The MCP server behind every gateway that is measured: one tool, `echo`, which answers at once, over Streamable HTTP
//! or over stdin and stdout. It is as fast as it can be, so that what is measured is the gateway.

use std::{
    convert::Infallible,
    io::{BufRead, Write},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

use crate::Outcome;

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: String,
}

/// The answer to a message; `None` = it is a notification or an answer.
fn answer(message: &[u8]) -> Option<String> {
    let asked: Asked<'_> = serde_json::from_slice(message).ok()?;
    let id = asked.id?.get();
    let result = match asked.method.as_str() {
        "initialize" => {
            r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}"#
        }
        "tools/list" => {
            r#"{"tools":[{"name":"echo","description":"Says it again","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}}]}"#
        }
        "tools/call" => r#"{"content":[{"type":"text","text":"the answer of the tool"}]}"#,
        "ping" => "{}",
        "resources/list" => r#"{"resources":[]}"#,
        "resources/templates/list" => r#"{"resourceTemplates":[]}"#,
        "prompts/list" => r#"{"prompts":[]}"#,
        _ => {
            let error = r#"{"code":-32601,"message":"Method not found"}"#;
            return Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#));
        }
    };
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

/// `bench mcp-server LISTEN`: over HTTP, with sessions, until it is killed.
pub async fn over_http(listen: &str) -> Outcome<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        tokio::spawn(
            http1::Builder::new().serve_connection(TokioIo::new(connection), service_fn(serve)),
        );
    }
}

async fn serve(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    static SESSIONS: AtomicU64 = AtomicU64::new(0);
    let status = |status| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    match *request.method() {
        Method::POST => {}
        Method::DELETE => return Ok(status(StatusCode::OK)),
        _ if request.uri().path() == "/health" => return Ok(status(StatusCode::OK)),
        _ => return Ok(status(StatusCode::METHOD_NOT_ALLOWED)),
    }
    let begins = !request.headers().contains_key("mcp-session-id");
    let Ok(body) = request.into_body().collect().await else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let body = body.to_bytes();
    let Some(answer) = answer(&body) else { return Ok(status(StatusCode::ACCEPTED)) };
    let mut response = Response::new(Full::from(answer));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    if begins && let Ok(number) = SESSIONS.fetch_add(1, Ordering::Relaxed).to_string().parse() {
        response.headers_mut().insert("mcp-session-id", number);
    }
    Ok(response)
}

/// `bench mcp-server-stdio`: a message a line, until stdin ends.
pub fn over_stdio() -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        if let Some(answer) = answer(line?.as_bytes()) {
            writeln!(out, "{answer}")?;
            out.flush()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_by_their_id_and_notifications_are_not() {
        let answered = answer(br#"{"jsonrpc":"2.0","id":"a","method":"tools/call"}"#).unwrap();
        assert!(answered.starts_with(r#"{"jsonrpc":"2.0","id":"a","result":"#), "{answered}");
        assert!(answer(br#"{"id":1,"method":"x"}"#).unwrap().contains("-32601"));
        assert_eq!(answer(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), None);
    }
}
