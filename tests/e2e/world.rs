//! One Tollbook for one test, with its own parts and data.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use plant::{Demo, Plant, PlantSettings, provision};
use runtime::http::Client;
use serde_json::{Value, json};
use stack::Folder;
use tokio::time::{Instant, sleep};

/// How long numbers may take to agree: a bound for a machine in trouble, not a measure.
pub const TIMEOUT: Duration = Duration::from_secs(180);

pub async fn plant(settings: PlantSettings) -> Plant {
    let folder = Folder::temporary().unwrap();
    let settings = PlantSettings { fsync: false, ..settings };
    Plant::start(&folder, settings, |_| {})
        .await
        .unwrap_or_else(|error| panic!("{}", error.report()))
}

/// A plant with a tenant that has subscribed.
pub async fn subscribed(settings: PlantSettings, quota: u64) -> (Plant, Demo) {
    let plant = plant(settings).await;
    let demo =
        provision(&plant, "Acme", quota).await.unwrap_or_else(|error| panic!("{}", error.report()));
    (plant, demo)
}

/// Waits until `holds`; panics with `claim` when it does not in time.
pub async fn eventually<F: Future<Output = bool>>(claim: &str, mut holds: impl FnMut() -> F) {
    let give_up = Instant::now() + TIMEOUT;
    while !holds().await {
        assert!(Instant::now() < give_up, "{claim}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A hand-written MCP client, for what the official one would not send.
pub struct RawClient {
    client: Client,
    url: String,
    headers: Vec<(String, String)>,
}

impl RawClient {
    pub fn new(plant: &Plant, node: usize) -> Self {
        Self {
            client: Client::default(),
            url: plant.addresses.nodes[node].clone(),
            headers: Vec::new(),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub async fn post(&self, body: impl Into<Bytes>) -> Response<Bytes> {
        let mut request = Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        self.client.send(request, Duration::from_secs(30), 32 << 20).await.unwrap()
    }

    pub async fn rpc(&self, id: u64, method: &str, params: Value) -> Response<Bytes> {
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.post(body.to_string()).await
    }

    /// Begins a session as `secret` and returns a client that goes on in it.
    pub async fn session(self, secret: &str) -> Self {
        let client = self.header("x-api-key", secret);
        let hello = json!({ "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": { "name": "raw", "version": "1" } });
        let answer = client.rpc(0, "initialize", hello).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        let client = match answer.headers().get("mcp-session-id") {
            Some(session) => client.header("mcp-session-id", session.to_str().unwrap()),
            None => client,
        };
        let client = client.header("mcp-protocol-version", "2025-11-25");
        client
            .post(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string())
            .await;
        client
    }

    pub async fn echo(&self, id: u64) -> Response<Bytes> {
        self.rpc(id, "tools/call", json!({ "name": "echo", "arguments": { "message": "hi" } }))
            .await
    }
}

/// The JSON-RPC message in an answer, whether it came as JSON or as an SSE stream.
pub fn message(answer: &Response<Bytes>) -> Value {
    let text = std::str::from_utf8(answer.body()).unwrap();
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let mut messages = data.filter_map(|data| serde_json::from_str::<Value>(data.trim()).ok());
    messages
        .rfind(|message| message.get("id").is_some())
        .unwrap_or_else(|| panic!("no message in {text}"))
}
