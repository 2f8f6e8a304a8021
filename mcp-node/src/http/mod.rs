//! The door: `/mcp` over HTTP, and the older transports `/sse` and `/ws`. Who calls is known before a byte of the body is
//! read; what is called, before a byte goes upstream.
//!
//! The way of a call: `enter` (origin, key) → `post` (body, message, checks) → an upstream, which admits it by
//! [`Post::admit`] once it knows the session, forwards it, and answers. Over TLS or not is the listener's matter.
//! `sse_transport` and `websocket` hand each message of theirs to `post` by way of a `channel`.

mod activity;
mod addresses;
mod as_result;
mod changes;
mod channel;
mod connection;
mod cors;
mod doorway;
mod framing;
mod front;
mod heartbeat;
mod listen;
mod measure;
mod not_found;
mod post;
mod socket;
mod sse_transport;
mod tls;
mod websocket;
mod well_known;

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{
        Extensions, HeaderMap, HeaderValue, Method, StatusCode,
        header::{ALLOW, CONNECTION, HOST},
        request::Parts,
    },
    response::{IntoResponse, Response},
    routing::{MethodRouter, any},
};
use mcp_node_core::Refusal;
use schemas::KeyId;

use self::activity::Activity;
pub use self::{
    addresses::{AddressLimits, AddressSettings},
    doorway::SharedGateway,
    front::Endpoint,
    listen::{ClientAddress, ClientKey, ConnectionId, ListenSettings, listen, listen_over},
    tls::{Tls, TlsError, TlsFiles},
};
use crate::{
    access::{Access, Grant},
    meter::Meter,
    request::Inbound,
    server::Upstream,
    traces::Traces,
    upstream::Signer,
    wire::{answer, era},
};

/// What the door needs to know.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// The largest body. Unit: bytes.
    pub max_request_bytes: usize,
    /// How long a body may take to come.
    pub body_timeout: Duration,
    /// After how long a quiet stream shows that it lives.
    pub heartbeat: Duration,
    /// Origins that browsers may call from, as they write them: `https://example.com`.
    pub origins: Vec<String>,
    /// Names that this node may be called by, without port; empty = any.
    pub hosts: Vec<String>,
    /// What client addresses may do.
    pub addresses: Arc<AddressSettings>,
    /// Only this machine reaches the node: then it may be called by, and from, this machine's own names besides, and
    /// by no others, so that no page of another site can reach it through a name that leads here.
    pub loopback: bool,
}

/// The door of one node.
pub struct GatewayState {
    pub meter: Meter,
    /// What is at `/mcp`.
    pub front: Endpoint,
    /// The servers at `/mcp/{name}`.
    pub named: HashMap<String, Arc<Upstream>>,
    pub access: Arc<Access>,
    /// Who signs the tokens that the server gets.
    pub signer: Option<Arc<Signer>>,
    pub traces: Traces,
    /// What happened from which client address; one for all doors that follow each other.
    pub limits: Arc<AddressLimits>,
    pub settings: DoorSettings,
}

impl GatewayState {
    /// What is at an address with this name, or at that without any.
    #[must_use]
    pub fn front_at(&self, name: Option<&str>) -> Option<Endpoint> {
        match name {
            Some(name) => self.named.get(name).cloned().map(Endpoint::from),
            None => Some(self.front.clone()),
        }
    }
}

/// The routes of a door. A slash at the end changes nothing.
pub fn router(door: SharedGateway) -> Router {
    let routes = Router::new().fallback(enter_nowhere);
    let routes = served_at(routes, "/mcp", any(enter));
    let routes = served_at(routes, "/mcp/{name}", any(enter_named));
    let routes = routes.merge(sse_transport::router()).merge(websocket::router());
    routes.merge(well_known::router()).with_state(door)
}

/// The routes with one more, with and without a slash at the end.
fn served_at(
    routes: Router<SharedGateway>,
    path: &str,
    by: MethodRouter<SharedGateway>,
) -> Router<SharedGateway> {
    routes.route(path, by.clone()).route(&format!("{path}/"), by)
}

/// The door alone, at whatever path it is put.
pub(crate) fn service(door: SharedGateway) -> Router {
    Router::new().fallback(any(enter)).with_state(door)
}

async fn enter(State(door): State<SharedGateway>, request: Request) -> Response {
    let Some(door) = door.get() else { return answer::refuse(&Refusal::Starting, None) };
    let front = Some(door.front.clone());
    go_through(&door, front, request).await
}

async fn enter_named(
    State(door): State<SharedGateway>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let Some(door) = door.get() else { return answer::refuse(&Refusal::Starting, None) };
    let front = door.front_at(Some(&name));
    go_through(&door, front, request).await
}

async fn enter_nowhere(State(door): State<SharedGateway>, request: Request) -> Response {
    let Some(door) = door.get() else { return answer::refuse(&Refusal::Starting, None) };
    go_through(&door, None, request).await
}

/// Serves a request by what stands at its path; `None` = nothing does.
async fn go_through(door: &GatewayState, front: Option<Endpoint>, request: Request) -> Response {
    let serving = |head, body| async move {
        match front {
            Some(front) => serve(door, &front, head, body).await,
            None => not_found::not_found(door, &head),
        }
    };
    guarded(door, request, serving).await
}

/// Serves a request as every transport is served: only for allowed addresses, origins and hosts, with heartbeats on its
/// streams, and with the address of the issuer where it is refused.
async fn guarded<Serving: Future<Output = Response>>(
    door: &GatewayState,
    request: Request,
    serve: impl FnOnce(Parts, Body) -> Serving,
) -> Response {
    let (mut head, body) = request.into_parts();
    if let Err(refusal) = framing::take_target(head.uri.authority(), &mut head.headers) {
        return answer::refuse(&refusal, None);
    }
    let addresses = &door.settings.addresses;
    let peer = head.extensions.get().map(|ClientAddress(peer)| *peer);
    let client = peer.map(|peer| addresses.client(peer, &head.headers));
    if let Err(refusal) = addresses.check(client) {
        return answer::refuse(&refusal, None);
    }
    if let Some(client) = client.filter(|_| client != peer) {
        head.extensions.insert(ClientAddress(client));
    }
    let origin = match cors::check(&head.headers, &door.settings) {
        Ok(origin) => origin,
        Err(refusal) => return answer::refuse(&refusal, None),
    };
    let mut response = if head.method == Method::OPTIONS {
        cors::preflight(&head.headers)
    } else {
        let host = head.headers.get(HOST).cloned();
        let activity = head.extensions.get::<Arc<Activity>>().cloned();
        let response = serve(head, body).await;
        let mut response = heartbeat::keep(response, door.settings.heartbeat, activity);
        if let Some(resource) = &door.access.resource {
            resource.point_to(host.as_ref(), response.headers_mut());
        }
        response
    };
    if let Some(origin) = origin {
        cors::allow(response.headers_mut(), origin);
    }
    response
}

/// The key that the certificate of a request's connection names.
fn certificate(extensions: &Extensions) -> Option<KeyId> {
    extensions.get().map(|ClientKey(key)| *key)
}

/// The request's caller.
///
/// # Errors
/// As for [`Access::authenticate`], and `TooManyUnauthorized`; any other than that is logged.
fn authenticate(
    door: &GatewayState,
    headers: HeaderMap,
    extensions: &Extensions,
) -> Result<Inbound, Refusal> {
    let connection = extensions.get().map_or(0, |ConnectionId(number)| *number);
    let client = extensions.get().map(|ClientAddress(address)| *address);
    match door.access.authenticate(&door.meter, &headers, certificate(extensions)) {
        Ok(Grant { caller, scopes }) => Ok(Inbound { caller, scopes, headers, connection, client }),
        Err(refusal) => {
            let refusal = door.limits.count_refused(client, &headers, refusal);
            // No line of the log for a client that floods the door: it would fill the disk, too.
            if !matches!(refusal, Refusal::TooManyUnauthorized { .. }) {
                let labels = door.meter.labels();
                tracing::info!(
                    tenant = labels.tenant.as_deref(),
                    organization = labels.organization.as_deref(),
                    client = client.map(tracing::field::display),
                    connectionId = connection,
                    status = refusal.reason(),
                    "Request refused"
                );
            }
            Err(refusal)
        }
    }
}

/// The answer to a request that is refused at the door; a client that shows too many wrong secrets loses its connection.
/// `id` = the request's, where it could be read.
fn refused(refusal: &Refusal, id: Option<&str>) -> Response {
    let mut response = answer::refuse(refusal, id);
    if matches!(refusal, Refusal::TooManyUnauthorized { .. }) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn serve(door: &GatewayState, front: &Endpoint, head: Parts, body: Body) -> Response {
    let Parts { method, headers, extensions, .. } = head;
    let allowed = if era::is_modern(&headers) { "POST" } else { "POST, GET, DELETE" };
    if !allowed.split(", ").any(|allowed| method == allowed) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, allowed)]).into_response();
    }
    let inbound = match authenticate(door, headers, &extensions) {
        Ok(inbound) => inbound,
        Err(refusal) => {
            let floods = matches!(refusal, Refusal::TooManyUnauthorized { .. });
            let id = if method == Method::POST && !floods { post::id_in(body).await } else { None };
            return refused(&refusal, id.as_deref());
        }
    };
    if method == Method::POST {
        return post::serve(door, front, inbound, body).await;
    }
    if method == Method::DELETE {
        let ended = front.delete(&inbound).await;
        return ended.unwrap_or_else(|refusal| answer::refuse(&refusal, None));
    }
    own_stream(door, front, &inbound).await
}

/// Opens a session's own stream.
async fn own_stream(door: &GatewayState, front: &Endpoint, inbound: &Inbound) -> Response {
    let max = front.max_answer_bytes();
    let stream = match (front.get(inbound).await, door.access.shown(&inbound.grant(), false)) {
        // A resumed stream may hold the answer to a `tools/list`.
        (Ok(stream), Some(shown)) => shown.of(stream, None, max).await,
        (Ok(stream), None) => stream,
        (Err(refusal), _) => return answer::refuse(&refusal, None),
    };
    changes::told(stream, &inbound.caller, None, max)
}
