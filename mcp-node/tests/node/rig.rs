//! NATS, a ledger, a node with its door, and a client: what most tests begin with.

use std::{collections::HashMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use mcp_node::{
    MeterSettings, Node, NodeSettings,
    access::Access,
    http::{
        AddressLimits, AddressSettings, DoorSettings, Endpoint, GatewayState, ListenSettings,
        SharedGateway, Tls, listen, listen_over, router,
    },
    labels::Labels,
    server::Upstream,
    spool::SpoolLimits,
    traces::Traces,
    upstream::{
        DuplexUpstream, HttpUpstream, Server as Behind, Signer, UpstreamHeaders, UpstreamSettings,
        stdio::ServerCommand,
    },
    wire::lanes::WorkerThreads,
};
use runtime::{http::Client, nats, nats::Nats};
use schemas::Record;
use serde_json::{Value, json};
use stack::Folder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::{Ledger, Placed},
    server::Server,
};

pub const SECRET: &str = "tb_test_key";
pub const MODERN: &str = "2026-07-28";

/// What stands around a node.
pub struct World {
    pub server: stack::Nats,
    pub nats: Nats,
    pub ledger: Ledger,
    pub folder: Folder,
}

impl World {
    pub async fn start() -> Self {
        let folder = Folder::temporary().unwrap();
        let server = stack::Nats::start(&folder).await.unwrap();
        let nats = nats::connect(&server.url(), "test").await.unwrap();
        let ledger = Ledger::start(&nats).await;
        Self { server, nats, ledger, folder }
    }

    pub fn spool(&self) -> NodeSettings {
        let spool_dir = self.folder.path().join("spool");
        NodeSettings {
            spool_dir,
            limits: SpoolLimits::default(),
            node_id: None,
            labels: Labels::default(),
        }
    }
}

/// How a test's upstream is set.
pub fn settings() -> UpstreamSettings {
    UpstreamSettings {
        request_timeout: Duration::from_secs(20),
        max_answer_bytes: 1 << 20,
        session_idle: Duration::from_secs(600),
        max_sessions: 4,
        ..UpstreamSettings::default()
    }
}

pub fn http_upstream(url: &str) -> Upstream {
    http_upstream_with(url, settings())
}

pub fn http_upstream_with(url: &str, settings: UpstreamSettings) -> Upstream {
    let http = HttpUpstream::new(url.parse::<Uri>().unwrap(), Duration::from_secs(5), settings);
    Upstream::new(Behind::Http(http), settings)
}

pub fn stamped_upstream(url: &str, stamp: UpstreamHeaders) -> Upstream {
    let (url, timeout) = (url.parse::<Uri>().unwrap(), Duration::from_secs(5));
    let http = HttpUpstream::stamped(url, timeout, settings(), stamp);
    Upstream::new(Behind::Http(http), settings())
}

pub fn stdio_upstream(program: &Path, args: Vec<String>) -> Upstream {
    stdio_upstream_with(program, args, settings())
}

pub fn stdio_upstream_with(
    program: &Path,
    args: Vec<String>,
    settings: UpstreamSettings,
) -> Upstream {
    let program = program.to_string_lossy().into_owned();
    let command = ServerCommand { program, args, hidden: vec![] };
    Upstream::new(Behind::Duplex(DuplexUpstream::of_command(command, settings)), settings)
}

/// A world with a node in it.
pub struct Rig {
    pub world: World,
    pub node: Node,
    pub upstream: Arc<Upstream>,
    access: Arc<Access>,
    signer: Option<Arc<Signer>>,
    address: SocketAddr,
    closing: CancellationToken,
}

impl Rig {
    pub async fn start(upstream: Upstream) -> Self {
        Self::start_in(World::start().await, upstream).await
    }

    pub async fn start_in(world: World, upstream: Upstream) -> Self {
        Self::start_with(world, upstream, Access::default()).await
    }

    /// With rules on who may do what.
    pub async fn start_with(world: World, upstream: Upstream, access: Access) -> Self {
        Self::start_signing(world, upstream, access, None).await
    }

    /// With tokens for the server.
    pub async fn start_signing(
        world: World,
        upstream: Upstream,
        access: Access,
        signer: Option<Arc<Signer>>,
    ) -> Self {
        Self::start_whole(world, upstream, MeterSettings::default(), access, signer).await
    }

    /// With a say in what is counted and bounded.
    pub async fn start_metering(world: World, upstream: Upstream, settings: MeterSettings) -> Self {
        Self::start_whole(world, upstream, settings, Access::default(), None).await
    }

    async fn start_whole(
        world: World,
        upstream: Upstream,
        settings: MeterSettings,
        access: Access,
        signer: Option<Arc<Signer>>,
    ) -> Self {
        let access = Arc::new(access);
        // A client of its own: a node shares no connection with the ledger.
        let nats = nats::connect(&world.server.url(), "node").await.unwrap();
        let node = Node::start_with(&world.spool(), settings, &nats).await.unwrap();
        let (address, upstream, closing) =
            open_door_with(&node, upstream, access.clone(), signer.clone()).await;
        Self { world, node, upstream, access, signer, address, closing }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.world.ledger
    }

    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn caller(&self, secret: &str) -> Caller {
        Caller::new(&self.url(), secret)
    }

    /// Opens a second door to which clients connect in another way.
    pub async fn open(&self, settings: ListenSettings) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = router(doorway(&self.node, &self.upstream, &self.access, &self.signer));
        tokio::spawn(listen(listener, routes, settings, self.closing.clone()));
        address
    }

    /// Opens a second door to which client addresses may do other things; its URL.
    pub async fn open_for(&self, addresses: AddressSettings) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let door = doorway(&self.node, &self.upstream, &self.access, &self.signer);
        let before = door.get().unwrap();
        let addresses = Arc::new(addresses);
        let limits = Arc::new(AddressLimits::new(addresses.clone()));
        let settings = DoorSettings { addresses, ..before.settings.clone() };
        let (meter, front) = (before.meter.clone(), before.front.clone());
        let (named, traces) = (HashMap::new(), Traces::default());
        let (access, signer) = (self.access.clone(), self.signer.clone());
        let limited = limits.clone();
        door.set(GatewayState { meter, front, named, access, signer, traces, limits, settings });
        let (lanes, closing) = (Arc::new(WorkerThreads::none()), self.closing.clone());
        let (routes, listening) = (router(door), listening());
        tokio::spawn(listen_over(listener, routes, listening, None, lanes, limited, closing));
        url
    }

    /// Opens a second door over TLS.
    pub async fn open_tls(&self, tls: Arc<Tls>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = router(doorway(&self.node, &self.upstream, &self.access, &self.signer));
        let closing = self.closing.clone();
        let lanes = Arc::new(WorkerThreads::start().unwrap());
        tokio::spawn(listen_over(
            listener,
            routes,
            listening(),
            Some(tls),
            lanes,
            Arc::default(),
            closing,
        ));
        address
    }

    /// Opens a second door that gives every request the key of `secret`, for clients that cannot.
    pub async fn open_keyed(&self, secret: &'static str) -> String {
        self.open_keyed_to(self.upstream.clone().into(), secret).await
    }

    /// As [`Rig::open_keyed`], to what stands elsewhere than behind the first door.
    pub async fn open_keyed_to(&self, front: Endpoint, secret: &'static str) -> String {
        let door = doorway_to(&self.node, front, &self.access, &self.signer);
        let keyed = router(door).layer(axum::middleware::map_request(
            move |mut request: axum::extract::Request| async move {
                request.headers_mut().insert("x-api-key", HeaderValue::from_static(secret));
                request
            },
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        tokio::spawn(listen(listener, keyed, listening(), self.closing.clone()));
        url
    }

    /// Stops the node in order and waits until the ledger has heard all of it.
    pub async fn stop(self) -> World {
        self.closing.cancel();
        self.upstream.stop().await;
        let spool = self.node.spool().clone();
        self.node.stop(Duration::from_secs(5), Duration::from_secs(10)).await;
        until("the ledger has read all", || self.world.ledger.has_all(&spool)).await;
        until("the ledger has settled every lease", || self.world.ledger.open_leases() == 0).await;
        self.world
    }

    /// The outcomes that were recorded, with their tools, sorted.
    pub fn outcomes(&self) -> Vec<(String, String)> {
        outcomes(&self.ledger().records())
    }
}

/// Opens a door of a node on a free port.
pub async fn open_door(
    node: &Node,
    upstream: Upstream,
) -> (SocketAddr, Arc<Upstream>, CancellationToken) {
    open_door_with(node, upstream, Arc::default(), None).await
}

async fn open_door_with(
    node: &Node,
    upstream: Upstream,
    access: Arc<Access>,
    signer: Option<Arc<Signer>>,
) -> (SocketAddr, Arc<Upstream>, CancellationToken) {
    let (upstream, closing) = (Arc::new(upstream), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = router(doorway(node, &upstream, &access, &signer));
    tokio::spawn(listen(listener, routes, listening(), closing.clone()));
    (address, upstream, closing)
}

fn listening() -> ListenSettings {
    ListenSettings {
        max_connections: 1_000,
        head_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(90),
    }
}

fn doorway(
    node: &Node,
    upstream: &Arc<Upstream>,
    access: &Arc<Access>,
    signer: &Option<Arc<Signer>>,
) -> SharedGateway {
    doorway_to(node, upstream.clone().into(), access, signer)
}

fn doorway_to(
    node: &Node,
    front: Endpoint,
    access: &Arc<Access>,
    signer: &Option<Arc<Signer>>,
) -> SharedGateway {
    let settings = DoorSettings {
        max_request_bytes: 5 << 20,
        body_timeout: Duration::from_secs(2),
        heartbeat: Duration::from_secs(15),
        origins: vec!["https://good.example".into()],
        hosts: vec![],
        addresses: Arc::default(),
        loopback: true,
    };
    let (meter, access, signer) = (node.meter().clone(), access.clone(), signer.clone());
    let (named, traces) = (HashMap::new(), Traces::default());
    let limits = Arc::new(AddressLimits::new(settings.addresses.clone()));
    SharedGateway::open(GatewayState {
        meter,
        front,
        named,
        access,
        signer,
        traces,
        limits,
        settings,
    })
}

pub fn outcomes(records: &[Placed]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = records
        .iter()
        .filter_map(|placed| match &placed.record {
            Record::Usage(event) => {
                let outcome = serde_json::to_value(event.outcome).unwrap();
                Some((event.tool.clone(), outcome.as_str().unwrap().to_owned()))
            }
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        for _ in 0..3_000 {
            if so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 30 s: {what} ({place})");
    }
}

/// A client with a key.
#[derive(Clone)]
pub struct Caller {
    client: Client,
    url: String,
    pub headers: HeaderMap,
}

impl Caller {
    pub fn new(url: &str, secret: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", secret.parse().unwrap());
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("accept", HeaderValue::from_static("application/json, text/event-stream"));
        Self { client: Client::new(Duration::from_secs(5), 64), url: url.to_owned(), headers }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    pub fn request(&self, method: Method, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = method;
        *request.uri_mut() = self.url.parse().unwrap();
        *request.headers_mut() = self.headers.clone();
        request
    }

    pub async fn send(&self, method: Method, body: impl Into<Bytes>) -> Response<Bytes> {
        let request = self.request(method, body);
        self.client.send(request, Duration::from_secs(30), 64 << 20).await.unwrap()
    }

    pub async fn stream(
        &self,
        method: Method,
        body: impl Into<Bytes>,
    ) -> Response<hyper::body::Incoming> {
        self.client.send_streaming(self.request(method, body)).await.unwrap()
    }

    pub async fn post(&self, body: impl Into<Bytes>) -> Response<Bytes> {
        self.send(Method::POST, body).await
    }

    pub async fn call(&self, id: u64, tool: &str, arguments: Value) -> Response<Bytes> {
        self.post(call(id, tool, arguments)).await
    }

    /// As a client of 2026-07-28 that asks `method` with these params.
    pub fn modern(&self, method: &str, params: Value) -> (Self, String) {
        let mut params = params;
        if params["_meta"].is_null() {
            params["_meta"] = meta(json!({}));
        }
        let mut caller =
            self.clone().with("mcp-protocol-version", MODERN).with("mcp-method", method);
        for target in ["name", "uri", "taskId"] {
            if let Some(target) = params[target].as_str() {
                caller = caller.with("mcp-name", target);
            }
        }
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        (caller, body.to_string())
    }

    /// Asks as a client of 2026-07-28; the status, and the message.
    pub async fn asked(&self, method: &str, params: Value) -> (u16, Value) {
        let (caller, body) = self.modern(method, params);
        let response = caller.post(body).await;
        (response.status().as_u16(), message(response.body()))
    }

    /// The status of a call, and its message: the last data of a stream, or the body.
    pub async fn called(&self, id: u64, tool: &str, arguments: Value) -> (u16, Value) {
        let response = self.call(id, tool, arguments).await;
        (response.status().as_u16(), message(response.body()))
    }

    /// Begins a session and returns a caller that names it.
    pub async fn initialized(self) -> Self {
        let response = self.post(initialize(json!({}))).await;
        assert_eq!(response.status(), 200, "{:?}", response.body());
        let session = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        let caller =
            self.with("mcp-session-id", &session).with("mcp-protocol-version", "2025-06-18");
        let told = caller.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        assert_eq!(told.status(), 202);
        caller
    }
}

/// What a request of 2026-07-28 says of its client.
pub fn meta(capabilities: Value) -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
    })
}

pub fn initialize(capabilities: Value) -> String {
    let params = json!({
        "protocolVersion": "2025-06-18",
        "capabilities": capabilities,
        "clientInfo": { "name": "test", "version": "1" },
    });
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string()
}

pub fn call(id: u64, tool: &str, arguments: Value) -> String {
    let params = json!({ "name": tool, "arguments": arguments });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string()
}

/// The last message of a body, be it JSON or a stream of events.
pub fn message(body: &[u8]) -> Value {
    messages(body).pop().unwrap_or_else(|| panic!("no message: {}", String::from_utf8_lossy(body)))
}

/// All messages of a body.
pub fn messages(body: &[u8]) -> Vec<Value> {
    if let Ok(value) = serde_json::from_slice(body) {
        return vec![value];
    }
    let text = std::str::from_utf8(body).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data.trim()).ok()).collect()
}

/// A rig in front of a server whose tools answer in every way.
pub async fn with_server() -> (Rig, Server) {
    let server = Server::start().await;
    (Rig::start(http_upstream(&server.url())).await, server)
}

/// The reason that a refusal gives.
pub fn reason(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["jsonrpc"], "2.0");
    body["error"]["data"]["reason"].as_str().unwrap().to_owned()
}
