//! A message that came over a channel, and what the channel must know of it.

use axum::{
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::Response,
};
use bytes::Bytes;
use mcp_node_core::{
    Message, Refusal,
    message::{Id, IdKey, read},
};

use serde_json::{json, value::RawValue};

use crate::{
    clock,
    request::Inbound,
    wire::{FIRST_MODERN, RequestId, SESSION, answer, era},
};

/// One message of a client.
pub struct Received {
    pub inbound: Inbound,
    pub body: Bytes,
    pub what: ReceivedKind,
}

/// What it is.
pub enum ReceivedKind {
    Request {
        id: RequestId,
        /// It is an `initialize`.
        greets: bool,
        /// It calls a tool.
        calls: bool,
    },
    /// It has no answer.
    Notice {
        /// The request that it cancels.
        cancels: Option<IdKey>,
        /// It says that the client is ready.
        initialized: bool,
    },
    /// It is answered by this error, and goes nowhere.
    Refused(Bytes),
}

impl Received {
    /// Reads a message, of a caller that is known.
    ///
    /// # Errors
    /// It is no message.
    pub fn read(mut inbound: Inbound, body: Bytes) -> Result<Self, Refusal> {
        let what = what(&inbound, &body)?;
        let headers = &mut inbound.headers;
        headers.remove(SESSION);
        headers.remove("last-event-id");
        let both = HeaderValue::from_static("application/json, text/event-stream");
        headers.insert(ACCEPT, both);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self { inbound, body, what })
    }
}

fn what(inbound: &Inbound, body: &[u8]) -> Result<ReceivedKind, Refusal> {
    let message = read(body)?;
    if let Some(version) = modern(inbound, &message) {
        let id = if let Message::Request { id, .. } = &message { Some(id.raw) } else { None };
        return Ok(ReceivedKind::Refused(unsupported(version, id).into()));
    }
    Ok(match message {
        Message::Request { id, method, tool, .. } => ReceivedKind::Request {
            id: RequestId::from(&id),
            greets: method == "initialize",
            calls: tool.is_some(),
        },
        Message::Notification { method, cancels } => ReceivedKind::Notice {
            cancels: cancels.as_ref().map(Id::key),
            initialized: method == "notifications/initialized",
        },
        Message::Answer { .. } => ReceivedKind::Notice { cancels: None, initialized: false },
    })
}

/// The revision that a message is written in, if that is one that these transports do not have.
fn modern(inbound: &Inbound, message: &Message<'_>) -> Option<String> {
    let said = match message {
        Message::Request { about, .. } => about.meta.version.as_deref(),
        Message::Notification { .. } | Message::Answer { .. } => None,
    };
    let named = era::version(&inbound.headers);
    said.or(named).filter(|version| *version >= FIRST_MODERN).map(str::to_owned)
}

/// Refuses to open a channel in a revision that these transports do not have.
pub fn refuse_other_era(headers: &HeaderMap) -> Option<Response> {
    let version = era::version(headers).filter(|version| *version >= FIRST_MODERN)?;
    Some(answer::json(StatusCode::BAD_REQUEST, unsupported(version.to_owned(), None)))
}

/// `unsupported_version`, with the revisions that these transports have.
fn unsupported(version: String, id: Option<&str>) -> Vec<u8> {
    let refusal = Refusal::UnsupportedVersion(version);
    let mut data = answer::data(&refusal, clock::wall());
    let old: Vec<&str> =
        answer::VERSIONS.into_iter().filter(|version| *version < FIRST_MODERN).collect();
    data["supported"] = json!(old);
    let message = "HTTP+SSE and WebSocket serve the revisions before 2026-07-28 only.";
    let error = json!({ "code": refusal.code(), "message": message, "data": data });
    format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.unwrap_or("null")).into_bytes()
}

/// The id of a message that is refused, if it can be read.
pub fn id_in(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return None; // A list would be read member by member.
    }
    let id = serde_json::from_slice::<Named<'_>>(body).ok()?.id?.get();
    let is_id =
        id.starts_with('"') || id.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_text_or_a_number() {
        assert_eq!(id_in(br#"{"id":7,"method":1}"#).as_deref(), Some("7"));
        assert_eq!(id_in(br#"{"id":"a"}"#).as_deref(), Some("\"a\""));
        for none in [&b"{\"id\":null}"[..], b"{\"id\":{}}", b"{}", b"[1]", b"{"] {
            assert_eq!(id_in(none), None);
        }
    }

    #[test]
    fn the_new_era_is_refused_with_the_revisions_that_there_are() {
        let error = unsupported("2026-07-28".into(), Some("1"));
        let error: serde_json::Value = serde_json::from_slice(&error).unwrap();
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-32022)));
        let supported = &error["error"]["data"]["supported"];
        assert_eq!(supported, &json!(["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]));
        assert_eq!(error["error"]["data"]["requested"], "2026-07-28");
    }
}
