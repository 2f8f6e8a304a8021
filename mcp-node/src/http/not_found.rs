//! The answer to a request for what is not served, which says what is.

use axum::{
    http::{StatusCode, request::Parts},
    response::Response,
};
use mcp_node_core::Refusal;
use serde_json::json;

use super::{GatewayState, certificate};
use crate::{clock, wire::answer};

/// The most paths that are listed.
const MAX_LISTED: usize = 100;

/// Where each transport is; behind `/mcp`, those of older clients.
const PATHS: [&str; 4] = ["/mcp", "/sse", "/messages", "/ws"];

/// Says what is served: to callers with a key by name, to others by the form of it.
pub fn not_found(door: &GatewayState, head: &Parts) -> Response {
    let mut served = PATHS.map(str::to_owned).to_vec();
    let certificate = certificate(&head.extensions);
    if door.access.authenticate(&door.meter, &head.headers, certificate).is_ok() {
        let mut names: Vec<_> = door.named.keys().collect();
        names.sort_unstable();
        served.extend(names.into_iter().take(MAX_LISTED).map(|name| format!("/mcp/{name}")));
    } else if !door.named.is_empty() {
        served.push("/mcp/{name}".to_owned());
    }
    if !door.named.is_empty() {
        served.extend(PATHS[1..].iter().map(|path| format!("{path}/{{name}}")));
    }
    listing(&served)
}

fn listing(served: &[String]) -> Response {
    let refusal = Refusal::UnknownPath;
    let message =
        format!("{} MCP is served at {}.", refusal.message(clock::wall()), served.join(", "));
    let data = json!({ "reason": refusal.reason(), "served": served });
    let error = json!({ "code": refusal.code(), "message": message, "data": data });
    let body = json!({ "jsonrpc": "2.0", "id": null, "error": error });
    answer::json(StatusCode::NOT_FOUND, body.to_string())
}
