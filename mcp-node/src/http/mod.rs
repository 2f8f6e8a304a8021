//! The door: `/mcp` over HTTP. Who calls is known before a byte of the body is read; what is called, before a byte
//! goes upstream.
//!
//! The way of a call: `enter` (origin, key) → `post` (body, message, checks) → an upstream, which admits it by
//! [`Post::admit`] once it knows the session, forwards it, and answers. Absent on purpose: TLS (a proxy's work).

pub mod answer;
mod caller;
mod cors;
mod post;

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header::ALLOW, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
    serve::ListenerExt,
};
use mcp_node_core::Refusal;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::post::{Kind, Post, RequestId};
use crate::{keys::Known, meter::Meter, upstream::Upstream};

/// The header that names a session.
pub const SESSION: &str = "mcp-session-id";
/// The header that names the protocol's revision.
pub const VERSION: &str = "mcp-protocol-version";
/// The first revision without sessions, where a client that goes away cancels its call.
const FIRST_MODERN: &str = "2026-07-28";

/// What the door needs to know.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// The largest body. Unit: bytes.
    pub max_request_bytes: usize,
    /// How long a body may take to come.
    pub body_patience: Duration,
    /// Origins that browsers may call from, as they write them: `https://example.com`.
    pub origins: Vec<String>,
}

/// The door of one node.
pub struct Door {
    pub meter: Meter,
    pub upstream: Arc<Upstream>,
    pub settings: DoorSettings,
}

/// A request whose caller is known.
pub struct Inbound {
    pub caller: Arc<Known>,
    pub headers: HeaderMap,
}

impl Inbound {
    /// The session that it names; one that is unreadable, or several, are the session ``, which nobody has.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        let mut named = self.headers.get_all(SESSION).iter();
        let first = named.next()?;
        Some(if named.next().is_some() { "" } else { first.to_str().unwrap_or_default() })
    }

    /// Whether it speaks a revision without sessions. One that names a session does not, whatever it says.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        let version = self.headers.get(VERSION).and_then(|version| version.to_str().ok());
        self.session().is_none() && version.is_some_and(|version| version >= FIRST_MODERN)
    }
}

/// A door that opens when it is set.
pub type Doorway = Arc<OnceLock<Door>>;

/// The routes of a door.
pub fn router(door: Doorway) -> Router {
    Router::new().route("/mcp", any(enter)).with_state(door)
}

/// Serves `router` until `stop`; then no new connection is taken and running requests end.
///
/// # Errors
/// Accepting connections fails for good.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // A frame of a stream must not wait for the next.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "A connection delays small writes");
        }
    });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn enter(State(door): State<Doorway>, request: Request) -> Response {
    let Some(door) = door.get() else { return answer::refuse(&Refusal::Starting, None) };
    let (head, body) = request.into_parts();
    let origin = match cors::check(&head.headers, &door.settings.origins) {
        Ok(origin) => origin,
        Err(refusal) => return answer::refuse(&refusal, None),
    };
    let mut response = if head.method == Method::OPTIONS {
        cors::preflight()
    } else {
        serve(door, head, body).await
    };
    if let Some(origin) = origin {
        cors::allow(response.headers_mut(), origin);
    }
    response
}

async fn serve(door: &Door, head: Parts, body: Body) -> Response {
    let Parts { method, headers, .. } = head;
    if ![Method::POST, Method::GET, Method::DELETE].contains(&method) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST, GET, DELETE")]).into_response();
    }
    let caller = match caller::secret(&headers).and_then(|secret| door.meter.authenticate(secret)) {
        Ok(caller) => caller,
        Err(refusal) => return answer::refuse(&refusal, None),
    };
    let inbound = Inbound { caller, headers };
    if method == Method::POST {
        return post::serve(door, inbound, body).await;
    }
    let answered = match &*door.upstream {
        Upstream::Http(upstream) if method == Method::GET => upstream.get(&inbound).await,
        Upstream::Http(upstream) => upstream.delete(&inbound).await,
        Upstream::Stdio(upstream) if method == Method::GET => upstream.get(&inbound),
        Upstream::Stdio(upstream) => upstream.delete(&inbound),
    };
    answered.unwrap_or_else(|refusal: Refusal| answer::refuse(&refusal, None))
}
