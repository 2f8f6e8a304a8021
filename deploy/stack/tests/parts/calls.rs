//! `calls.mjs` against a gateway that refuses: it counts what it should.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use stack::{Folder, McpServer, McpTools};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// Runs `calls.mjs` and gives its last line and whether it succeeded.
pub async fn calls(tools: &McpTools, url: &str, more: &[&str]) -> (Value, bool) {
    let (program, args) = tools.calls_command();
    let output = Command::new(program)
        .args(args)
        .args(["--url", url, "--key", "test-key"])
        .args(more)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last();
    let last = last.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (serde_json::from_str(last).unwrap(), output.status.success())
}

/// A gateway in front of `upstream` that lets `quota` tool calls of the right key through, answers
/// the rest as `refusal` says, and has no event stream.
async fn gateway(upstream: String, quota: u32, refusal: fn() -> Response<Full<Bytes>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicU32::new(0));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (upstream, calls) = (upstream.clone(), Arc::clone(&calls));
            let answer = move |request: Request<Incoming>| {
                let (upstream, calls) = (upstream.clone(), Arc::clone(&calls));
                async move {
                    if request.method() == Method::GET {
                        let mut answer = Response::new(Full::default());
                        *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                        return Ok::<_, hyper::Error>(answer);
                    }
                    assert_eq!(request.headers()["x-api-key"], "test-key");
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let is_call = String::from_utf8_lossy(&body).contains("tools/call");
                    if is_call && calls.fetch_add(1, Ordering::SeqCst) >= quota {
                        return Ok(refusal());
                    }
                    forward(&upstream, Request::from_parts(head, Full::new(body))).await
                }
            };
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    url
}

async fn forward(
    upstream: &str,
    request: Request<Full<Bytes>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let host = upstream.trim_start_matches("http://").trim_end_matches("/mcp");
    let stream = TcpStream::connect(host).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let mut answer = Response::from_parts(head, Full::new(body.collect().await?.to_bytes()));
    answer.headers_mut().remove("transfer-encoding"); // The body is whole now.
    Ok(answer)
}

fn refusal(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header("content-type", "application/json");
    builder.body(Full::new(body.to_string().into())).unwrap()
}

fn quota_exhausted() -> Response<Full<Bytes>> {
    let error =
        json!({"code": 429, "message": "quota exhausted", "data": {"reason": "quota_exhausted"}});
    refusal(StatusCode::TOO_MANY_REQUESTS, &json!({"jsonrpc": "2.0", "id": 1, "error": error}))
}

#[tokio::test]
async fn a_refusal_is_counted_apart_and_is_no_failure() {
    let folder = Folder::temporary().unwrap();
    let server = McpServer::start(&folder).await.unwrap();
    let url = gateway(server.url(), 7, quota_exhausted).await;
    let (counts, success) =
        calls(server.tools(), &url, &["--calls", "20", "--concurrency", "3"]).await;
    let expected =
        json!({"attempted": 20, "succeeded": 7, "refused": 13, "failed": 0, "errors": {}});
    assert_eq!((counts, success), (expected, true));
}

#[tokio::test]
async fn a_429_that_is_not_ours_is_a_failure() {
    let folder = Folder::temporary().unwrap();
    let server = McpServer::start(&folder).await.unwrap();
    let foreign = || refusal(StatusCode::TOO_MANY_REQUESTS, &json!({"error": "slow down"}));
    let url = gateway(server.url(), 2, foreign).await;
    let (counts, success) =
        calls(server.tools(), &url, &["--calls", "4", "--concurrency", "1", "--json"]).await;
    assert_eq!(
        (&counts["succeeded"], &counts["refused"], &counts["failed"]),
        (&2.into(), &0.into(), &2.into())
    );
    assert!(!success && counts["errors"].as_object().unwrap().len() == 1, "{counts}");
}

#[tokio::test]
async fn a_tool_error_is_a_failure_and_the_rest_goes_on() {
    let folder = Folder::temporary().unwrap();
    let server = McpServer::start(&folder).await.unwrap();
    let args = ["--calls", "4", "--concurrency", "2", "--tools", "echo,no-such-tool"];
    let (counts, success) = calls(server.tools(), &server.url(), &args).await;
    assert_eq!(
        (&counts["attempted"], &counts["succeeded"], &counts["failed"]),
        (&4.into(), &2.into(), &2.into())
    );
    assert!(!success);
}

#[tokio::test]
async fn nobody_there_is_a_failure_of_every_call() {
    let tools = McpTools::fetch().await.unwrap();
    let url = format!("http://127.0.0.1:{}/mcp", stack::ports::free().unwrap());
    let (counts, success) = calls(&tools, &url, &["--calls", "2", "--concurrency", "2"]).await;
    assert_eq!((&counts["attempted"], &counts["failed"], success), (&2.into(), &2.into(), false));
    assert!(counts["errors"].to_string().contains("ECONNREFUSED"), "{counts}");
}
