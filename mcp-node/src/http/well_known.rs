//! What anybody may read of this node: how to get a token for it (RFC 9728), and the public keys of the tokens that it
//! gives the server behind it.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{
        HeaderValue,
        header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, HOST},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use mcp_node_core::Refusal;
use serde_json::Value;

use super::{SharedGateway, cors};
use crate::{access::WELL_KNOWN, wire::answer};

/// How long a cache may keep it.
const KEPT: HeaderValue = HeaderValue::from_static("max-age=300");

pub fn router() -> Router<SharedGateway> {
    let below = format!("{WELL_KNOWN}/{{*path}}");
    let resources = Router::new().route(WELL_KNOWN, get(resource)).route(&below, get(resource));
    resources.route("/.well-known/jwks.json", get(keys))
}

async fn resource(State(door): State<SharedGateway>, request: Request) -> Response {
    let Some(door) = door.get() else { return answer::refuse(&Refusal::Starting, None) };
    // The document may name the host that the request names.
    if !cors::is_host_allowed(request.headers(), &door.settings) {
        return answer::refuse(&Refusal::HostNotAllowed, None);
    }
    let path = request.uri().path().strip_prefix(WELL_KNOWN).unwrap_or_default();
    let resource = door.access.resource.as_ref();
    shown(resource.and_then(|resource| resource.document(request.headers().get(HOST), path)))
}

async fn keys(State(door): State<SharedGateway>) -> Response {
    let Some(door) = door.get() else { return answer::refuse(&Refusal::Starting, None) };
    shown(door.signer.as_ref().map(|signer| signer.published()))
}

/// A document that any page may read.
fn shown(document: Option<Value>) -> Response {
    let Some(document) = document else { return answer::refuse(&Refusal::UnknownPath, None) };
    let headers =
        [(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")), (CACHE_CONTROL, KEPT)];
    (headers, Json(document)).into_response()
}
