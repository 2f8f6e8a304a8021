//! HTTP+SSE of 2024-11-05: `GET /sse` is the client's stream, whose first event names where it posts its messages.
//!
//! `/sse/{name}` and `/messages/{name}` lead to one of several servers. A stream is a [`channel`](super::channel) and a
//! session; it belongs to the key that opened it. A message is taken by 202, and its answer or refusal comes on the
//! stream; what is no message, or has no key or no session, is refused by the answer to its POST.

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{Method, StatusCode, Uri, header::ALLOW, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use mcp_node_core::Refusal;
use tokio::sync::mpsc;

use super::{
    Endpoint, GatewayState, SharedGateway, authenticate,
    channel::{Channel, QUEUE, Received, refuse_other_era},
    guarded,
    not_found::not_found,
    post, refused, served_at,
};
use crate::wire::{answer, frames};

/// The routes of the transport.
pub fn router() -> Router<SharedGateway> {
    let routes = served_at(Router::new(), "/sse", any(open));
    let routes = served_at(routes, "/sse/{name}", any(open));
    let routes = served_at(routes, "/messages", any(send));
    served_at(routes, "/messages/{name}", any(send))
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
        stream(doorway, door, &front, server, head)
    };
    guarded(door, request, opening).await
}

/// Opens a stream.
fn stream(
    doorway: &SharedGateway,
    door: &GatewayState,
    front: &Endpoint,
    server: Option<String>,
    head: Parts,
) -> Response {
    if head.method != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")]).into_response();
    }
    let inbound = match authenticate(door, head.headers, &head.extensions) {
        Ok(inbound) => inbound,
        Err(refusal) => return refused(&refusal, None),
    };
    if let Some(refused) = refuse_other_era(&inbound.headers) {
        return refused;
    }
    let (to, messages) = mpsc::channel(QUEUE);
    let key = inbound.caller.state().key;
    let (channels, max) = (&doorway.channels, front.max_sessions());
    let open = match channels.open("sse", key, server.clone(), Some(to), max) {
        Ok(open) => open,
        Err(refusal) => return answer::refuse(&refusal, None),
    };
    let path = server.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
    let endpoint = format!("event: endpoint\ndata: /messages{path}?sessionId={}\n\n", open.id());
    let (client, pushed) = mpsc::channel(QUEUE);
    tokio::spawn(Channel::new(doorway.clone(), server, client).run(messages, open));
    let pushed = stream::unfold(pushed, |mut pushed: mpsc::Receiver<Bytes>| async {
        let message = pushed.recv().await?;
        Some((event(&message), pushed))
    });
    let events = stream::once(async { Bytes::from(endpoint) }).chain(pushed);
    answer::events(frames::body(events))
}

/// A message as an event. A line break in it can only stand between its parts, and becomes a space.
fn event(message: &[u8]) -> Bytes {
    let space = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    let line: Vec<u8> = message.iter().map(space).collect();
    answer::event(&line).into()
}

async fn send(
    State(doorway): State<SharedGateway>,
    server: Option<Path<String>>,
    request: Request,
) -> Response {
    let Some(door) = doorway.get() else { return answer::refuse(&Refusal::Starting, None) };
    let server = server.map(|Path(name)| name);
    let (doorway, door) = (&doorway, &*door);
    let sending = |head, body| async move {
        let taken = take(doorway, door, server.as_deref(), head, body).await;
        taken.unwrap_or_else(|refusal| refused(&refusal, None))
    };
    guarded(door, request, sending).await
}

/// Takes a message for a stream.
async fn take(
    doorway: &SharedGateway,
    door: &GatewayState,
    server: Option<&str>,
    head: Parts,
    body: Body,
) -> Result<Response, Refusal> {
    if head.method != Method::POST {
        return Ok((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST")]).into_response());
    }
    let inbound = authenticate(door, head.headers, &head.extensions)?;
    let missing = Refusal::InvalidRequest("The query names no `sessionId`.");
    let id = session_id(&head.uri).ok_or(missing)?;
    let messages = doorway.channels.find(id, inbound.caller.state().key, server)?;
    let body = post::whole(body, &inbound.headers, door).await?;
    let received = Received::read(inbound, body)?;
    // A stream that has just ended takes no more.
    messages.send(received).await.map_err(|_| Refusal::SessionNotFound)?;
    Ok((StatusCode::ACCEPTED, "Accepted").into_response())
}

/// The session that a request is for, under either of the names that SDKs gave it.
fn session_id(uri: &Uri) -> Option<&str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| matches!(*name, "sessionId" | "session_id"));
    let (_, id) = named.next()?;
    named.next().is_none().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_once() {
        let check = |uri: &'static str, id: Option<&str>| {
            assert_eq!(session_id(&Uri::from_static(uri)), id, "{uri}");
        };
        check("/messages?sessionId=a1", Some("a1"));
        check("/messages/x?a=b&session_id=a1", Some("a1"));
        check("/messages", None);
        check("/messages?sessionId", None);
        check("/messages?sessionId=a1&sessionId=a2", None);
    }

    #[test]
    fn a_message_is_one_line_of_an_event() {
        assert_eq!(event(b"{\r\n\"a\": 1\n}"), "event: message\ndata: {  \"a\": 1 }\n\n");
    }
}
