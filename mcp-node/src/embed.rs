//! The node within a server written in Rust: a tower layer around the service that speaks MCP.
//!
//! The layer is the door and all behind it ([`crate::http`], [`crate::upstream`]); only the way to the server is a call
//! instead of a connection. So keys, quotas, leases, what counts, refusals and both eras are the gateway's own, to the
//! byte. `examples/embed.rs` shows it with `rmcp`. Absent on purpose: listening, which the server does itself.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    http::{Request, Response, Uri},
};
use bytes::Bytes;
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use mcp_node_core::breaker::BreakerSettings;

use crate::{
    access::Access,
    http::{DoorSettings, GatewayState, SharedGateway, service},
    node::Node,
    server::Upstream,
    traces::Traces,
    upstream::{HttpUpstream, Server, UpstreamHeaders, UpstreamSettings},
};

/// How a server is metered. The defaults are those of the gateway (its README).
#[derive(Clone, Debug)]
pub struct MeteredSettings {
    pub door: DoorSettings,
    pub upstream: UpstreamSettings,
    /// What the server sees as its own address; many check its host.
    pub url: Uri,
    /// The server is told the caller's tenant, project and key in headers.
    pub identity: bool,
}

impl Default for MeteredSettings {
    fn default() -> Self {
        Self {
            door: DoorSettings {
                max_request_bytes: 5 << 20,
                body_timeout: Duration::from_secs(10),
                heartbeat: Duration::from_secs(15),
                origins: Vec::new(),
                hosts: Vec::new(),
                addresses: Arc::default(),
                loopback: true,
            },
            // A server within this process is always there.
            upstream: UpstreamSettings {
                breaker: BreakerSettings { failures: 0, ..BreakerSettings::default() },
                ..UpstreamSettings::default()
            },
            url: Uri::from_static("http://localhost/mcp"),
            identity: true,
        }
    }
}

/// The layer: what is under it is served to callers with a key, within its quotas, and counted.
///
/// ```ignore
/// let node = Node::start(&NodeSettings::new("spool"), &nats).await?;
/// let app = Router::new().nest_service("/mcp", Metered::by(&node).layer(mcp_service));
/// ```
#[derive(Clone)]
pub struct Metered {
    meter: crate::meter::Meter,
    settings: MeteredSettings,
}

impl Metered {
    /// Metered by this node, as the gateway does it by default.
    #[must_use]
    pub fn by(node: &Node) -> Self {
        Self::with(node, MeteredSettings::default())
    }

    /// Metered by this node, with settings.
    #[must_use]
    pub fn with(node: &Node, settings: MeteredSettings) -> Self {
        Self { meter: node.meter().clone(), settings }
    }
}

impl<S, B> Layer<S> for Metered
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Serves whatever path it is put at.
    type Service = Router;

    fn layer(&self, server: S) -> Router {
        let MeteredSettings { door, upstream: settings, url, identity } = self.settings.clone();
        let local = server.map_response(|response: Response<B>| response.map(Body::new));
        let local = BoxCloneSyncService::new(local);
        let stamp = UpstreamHeaders { identity, ..UpstreamHeaders::default() };
        let http = HttpUpstream::local(local, url, settings, stamp);
        let opened = GatewayState {
            meter: self.meter.clone(),
            front: Arc::new(Upstream::new(Server::Http(http), settings)).into(),
            named: HashMap::new(),
            access: Arc::new(Access::default()),
            signer: None,
            traces: Traces::default(),
            limits: Arc::default(),
            settings: door,
        };
        service(SharedGateway::open(opened))
    }
}
