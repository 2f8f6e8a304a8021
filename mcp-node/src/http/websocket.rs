//! WebSocket: `GET /ws` becomes a channel with a message a frame, as text, in the subprotocol `mcp`.
//!
//! Keys are taken from the request's headers alone, as at `/mcp`: what stands in a URL ends in logs. They are looked at
//! again with every message, so a key that is revoked is refused on an open socket too. A client that shows no sign of
//! life for three heartbeats is gone. Absent on purpose: compression, and binary frames.

mod handshake;
mod socket;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{Method, StatusCode, header::ALLOW, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
};
use mcp_node_core::Refusal;
use tokio::sync::mpsc;

use self::socket::Socket;
use super::{
    ClientKey, Endpoint, GatewayState, SharedGateway, authenticate,
    channel::{Channel, QUEUE, refuse_other_era},
    connection::HeldOpen,
    guarded,
    not_found::not_found,
    refused, served_at,
};
use crate::wire::answer;

/// Headers that were meant for one message, which the request of a socket is not.
const OF_ONE: [&str; 5] =
    ["mcp-method", "mcp-name", "idempotency-key", "mcp-session-id", "last-event-id"];

/// The routes of the transport.
pub fn router() -> Router<SharedGateway> {
    let routes = served_at(Router::new(), "/ws", any(open));
    served_at(routes, "/ws/{name}", any(open))
}

async fn open(
    State(doorway): State<SharedGateway>,
    server: Option<Path<String>>,
    request: Request,
) -> Response {
    let Some(door) = doorway.get() else { return answer::refuse(&Refusal::Starting, None) };
    let server = server.map(|Path(name)| name);
    let front = door.front_at(server.as_deref());
    let (doorway, door) = (&doorway, &*door);
    let opening = |head: Parts, _| async move {
        let Some(front) = front else { return not_found(door, &head) };
        upgrade(doorway, door, &front, server, head)
            .unwrap_or_else(|refusal| refused(&refusal, None))
    };
    guarded(door, request, opening).await
}

/// Answers the handshake, and serves the socket from then on.
fn upgrade(
    doorway: &SharedGateway,
    door: &GatewayState,
    front: &Endpoint,
    server: Option<String>,
    head: Parts,
) -> Result<Response, Refusal> {
    if head.method != Method::GET {
        return Ok((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")]).into_response());
    }
    let Parts { headers, mut extensions, .. } = head;
    let mut inbound = authenticate(door, headers, &extensions)?;
    let accepted = match handshake::accept(&inbound.headers) {
        Ok(accepted) => accepted,
        Err(handshake::Unfit::Version) => return Ok(handshake::other_version()),
        Err(handshake::Unfit::Request(what)) => return Err(Refusal::InvalidRequest(what)),
    };
    if let Some(refused) = refuse_other_era(&inbound.headers) {
        return Ok(refused);
    }
    let no_upgrade = Refusal::InvalidRequest("This connection cannot become a WebSocket.");
    let upgrade = extensions.remove::<hyper::upgrade::OnUpgrade>().ok_or(no_upgrade)?;
    let key = inbound.caller.state().key;
    let (channels, max) = (&doorway.channels, front.max_sessions());
    let open = channels.open("websocket", key, server.clone(), None, max)?;
    let ((to, messages), (client, pushed)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    for name in OF_ONE {
        inbound.headers.remove(name);
    }
    let socket = Socket {
        doorway: doorway.clone(),
        inbound,
        certificate: extensions.get().map(|ClientKey(key)| *key),
        messages: to,
        client: client.downgrade(),
        heartbeat: door.settings.heartbeat,
        max_bytes: door.settings.max_request_bytes,
    };
    let channel = Channel::new(doorway.clone(), server, client);
    let held: Option<HeldOpen> = extensions.remove();
    tokio::spawn(async move {
        let _held = held;
        match upgrade.await {
            Ok(upgraded) => {
                let serving = tokio::spawn(channel.run(messages, open));
                socket.serve(upgraded, pushed).await;
                drop(serving.await); // What runs goes on without its client.
            }
            Err(error) => tracing::debug!(%error, "A connection became no WebSocket"),
        }
    });
    Ok(accepted)
}
