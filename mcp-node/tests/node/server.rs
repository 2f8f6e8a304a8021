//! An MCP server for the tests whose every tool answers in its own way, and which keeps what it was sent.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode},
    response::Response,
    routing::any,
};
use futures::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// What it was sent.
#[derive(Clone)]
pub struct Sent {
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Clone, Default)]
pub struct Server {
    pub sent: Arc<Mutex<Vec<Sent>>>,
    /// Where a test feeds the streams that stay open: the next to be opened comes last.
    pub feeds: Arc<Mutex<Vec<mpsc::UnboundedSender<String>>>>,
    /// Tasks that are done.
    pub done: Arc<Mutex<std::collections::HashSet<String>>>,
    /// It speaks the revisions with sessions alone.
    pub old: Arc<std::sync::atomic::AtomicBool>,
    /// Calls of `held` are answered from its end on.
    pub hold: CancellationToken,
    pub port: u16,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), ..Self::default() };
        let router = Router::new().route("/mcp", any(answer)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    pub fn last(&self) -> Sent {
        self.sent.lock().last().expect("something was sent").clone()
    }

    /// Feeds the newest open stream.
    pub fn feed(&self, text: &str) {
        self.feeds.lock().last().expect("a stream is open").send(text.to_owned()).unwrap();
    }

    /// A task is done.
    pub fn finish(&self, task: &str) {
        self.done.lock().insert(task.to_owned());
    }

    /// Ends the newest open stream.
    pub fn end(&self) {
        self.feeds.lock().pop().expect("a stream is open");
    }

    fn open(&self) -> Body {
        let (sender, frames) = mpsc::unbounded_channel();
        self.feeds.lock().push(sender);
        Body::from_stream(stream::unfold(frames, |mut frames| async {
            let frame: String = frames.recv().await?;
            Some((Ok::<_, Infallible>(frame), frames))
        }))
    }
}

fn with_type(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    response
}

fn json_answer(body: &Value) -> Response {
    with_type("application/json", body.to_string())
}

async fn answer(
    State(server): State<Server>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    server.sent.lock().push(Sent { headers, body: body.clone() });
    if method == Method::GET {
        return with_type("text/event-stream", server.open());
    }
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(id) = message.get("id").filter(|_| message.get("method").is_some()) else {
        return status(StatusCode::ACCEPTED);
    };
    match message["method"].as_str() {
        Some("initialize") => {
            let result = json!({ "protocolVersion": "2025-06-18", "capabilities": {} });
            let mut response =
                json_answer(&json!({ "jsonrpc": "2.0", "id": id, "result": result }));
            let session = format!("session-{}", server.sent.lock().len());
            response.headers_mut().insert("mcp-session-id", session.parse().unwrap());
            response
        }
        Some("server/discover") if server.old.load(std::sync::atomic::Ordering::Relaxed) => {
            json_answer(
                &json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "no" } }),
            )
        }
        Some("server/discover") => json_answer(&json!({ "jsonrpc": "2.0", "id": id, "result": {
            "resultType": "complete", "supportedVersions": ["2026-07-28", "2025-11-25"], "capabilities": {},
        } })),
        Some("tools/list") => tools(message["params"]["cursor"].as_str(), id),
        Some("tasks/get") => {
            let task = message["params"]["taskId"].as_str().unwrap();
            let result = task_state(task, server.done.lock().contains(task));
            json_answer(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
        }
        Some("tasks/result") => {
            json_answer(&json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [] } }))
        }
        Some("subscriptions/listen") => with_type("text/event-stream", server.open()),
        Some("tools/call") => tool(&server, message["params"]["name"].as_str().unwrap(), id).await,
        _ => json_answer(&json!({ "jsonrpc": "2.0", "id": id, "result": { "echo": message } })),
    }
}

/// A list of two tools in odd spelling, as the cursor says: in one piece, as events, or broken.
fn tools(cursor: Option<&str>, id: &Value) -> Response {
    let list = format!("{{\"vendor\":1.00,\"id\":{id},\"jsonrpc\":\"2.0\",\"result\":{LISTED}}}");
    match cursor {
        Some("events") => with_type(
            "text/event-stream",
            format!(": hello\n\nid: 7\ndata:\n\nevent: message\nid: 8\ndata: {list}\n\n"),
        ),
        Some("broken") => {
            json_answer(&json!({ "jsonrpc": "2.0", "id": id, "result": { "tools": {} } }))
        }
        Some("events_broken") => with_type(
            "text/event-stream",
            format!("data: {}\n\n", list.replace("\"id\"", "\"result\":1,\"id\"")),
        ),
        Some("hang") => with_type("text/event-stream", "id: 9\ndata:\n\n"),
        _ => with_type("application/json", list),
    }
}

pub const LISTED: &str = r#"{ "tools":[ {"name":"success", "x":1.0}, { "n\u0061me":"tool_error" , "x":[ ]} ],"nextCursor":"events","ttlMs":5,"cacheScope":"public"}"#;

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn task_state(task: &str, done: bool) -> Value {
    let result = json!({ "content": [], "isError": task == "sorry" });
    match (done, task) {
        (false, _) => json!({ "taskId": task, "status": "working" }),
        (true, "failed") => {
            json!({ "taskId": task, "status": "failed", "error": { "code": -1, "message": "" } })
        }
        (true, _) => json!({ "taskId": task, "status": "completed", "result": result }),
    }
}

/// Each tool is one way to answer.
async fn tool(server: &Server, name: &str, id: &Value) -> Response {
    let result = |result: Value| json!({ "jsonrpc": "2.0", "id": id, "result": result });
    let error = json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32602, "message": "no" } });
    match name {
        "success" => {
            json_answer(&result(json!({ "content": [], "structuredContent": { "unknown": 1 } })))
        }
        "tool_error" => json_answer(&result(json!({ "content": [], "isError": true }))),
        "protocol_error" => json_answer(&error),
        "error_with_status" => {
            let mut response = json_answer(&error);
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
        "input_required" => json_answer(&result(json!({ "resultType": "input_required" }))),
        "task" => json_answer(&result(json!({ "resultType": "task", "taskId": "t" }))),
        // `task_named_x` makes the task `x`.
        named if named.starts_with("task_named_") => {
            let id = &named["task_named_".len()..];
            json_answer(&result(json!({ "resultType": "task", "taskId": id })))
        }
        "task_that_failed" => {
            json_answer(&result(json!({ "resultType": "task", "taskId": "failed" })))
        }
        "task_with_error" => {
            json_answer(&result(json!({ "resultType": "task", "taskId": "sorry" })))
        }
        "old_task" => {
            json_answer(&result(json!({ "task": { "taskId": "t", "status": "working" } })))
        }
        "unknown_type" => json_answer(&result(json!({ "resultType": "later" }))),
        "other_id" => json_answer(&json!({ "jsonrpc": "2.0", "id": 424_242, "result": {} })),
        "not_json" => with_type("application/json", "oops"),
        "html" => with_type("text/html", "<p>"),
        "broken" => status(StatusCode::INTERNAL_SERVER_ERROR),
        "unauthorized" => status(StatusCode::UNAUTHORIZED),
        "gone" => status(StatusCode::NOT_FOUND),
        "empty" => status(StatusCode::ACCEPTED),
        "large" => json_answer(&result(json!({ "content": ["x".repeat(2 << 20)] }))),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(400)).await;
            json_answer(&result(json!({ "content": [] })))
        }
        "events" => {
            let progress =
                json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": {} });
            let text = format!(
                "id: 1\ndata: {progress}\n\n: still here\r\n\r\nevent: message\nid: 2\ndata: {}\n\n",
                result(json!({ "content": [] }))
            );
            with_type("text/event-stream; charset=utf-8", text)
        }
        "events_without_answer" => with_type("text/event-stream", "id: 1\ndata:\n\n"),
        "stream" => with_type("text/event-stream", server.open()),
        "never" => std::future::pending().await,
        "held" => {
            server.hold.cancelled().await;
            json_answer(&result(json!({ "content": [] })))
        }
        // `tokens_7` says that it took 7 tokens; what stands behind the line is put in as it is.
        tokens if tokens.starts_with("tokens_") => {
            let used = &tokens["tokens_".len()..];
            let meta = format!(r#"{{"usage":{{"tokens":{used}}}}}"#);
            let result = format!(r#"{{"content":[],"_meta":{meta}}}"#);
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
            with_type("application/json", body)
        }
        other => panic!("no tool {other}"),
    }
}
