//! One posted message: its body, what it says, and leave to forward it.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header::CONTENT_LENGTH},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use mcp_node_core::{
    Message, Refusal,
    message::{IdKey, read},
    mirror,
};

use super::{Door, Inbound, answer};
use crate::{
    meter::{Call, Meter, Permit},
    upstream::Upstream,
};

/// A request's id: as it was written, and by its value.
#[derive(Clone, Debug)]
pub struct RequestId {
    pub raw: String,
    pub key: IdKey,
}

/// What was posted.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `tool` is there for `tools/call` and nothing else.
    Request {
        id: RequestId,
        method: String,
        tool: Option<String>,
    },
    Notification {
        cancels: Option<IdKey>,
    },
    /// The client's answer to a request of the server.
    Answer,
}

/// One posted message, ready to go on.
pub struct Post {
    pub inbound: Inbound,
    /// The bytes as they came: what was checked is what is forwarded.
    pub body: Bytes,
    pub kind: Kind,
    meter: Meter,
}

impl Post {
    /// Takes leave for this message: `None` = it needs none, since it calls no tool.
    ///
    /// # Errors
    /// See [`Meter::admit`].
    pub async fn admit(&self) -> Result<Option<Permit>, Refusal> {
        let Kind::Request { tool: Some(tool), .. } = &self.kind else { return Ok(None) };
        let call = Call { method: "tools/call", tool, bytes_in: self.body.len() as u64 };
        self.meter.admit(&self.inbound.caller, call).await.map(Some)
    }
}

/// Serves a POST.
pub(super) async fn serve(door: &Door, inbound: Inbound, body: Body) -> Response {
    let body = match whole(body, &inbound.headers, door).await {
        Ok(body) => body,
        Err(refusal) => return answer::refuse(&refusal, None),
    };
    let kind = match read(&body).and_then(|message| kind(&message, &inbound.headers)) {
        Ok(kind) => kind,
        Err(refusal) => return answer::refuse(&refusal, None),
    };
    let id = match &kind {
        Kind::Request { id, .. } => Some(id.raw.clone()),
        Kind::Notification { .. } | Kind::Answer => None,
    };
    let post = Post { inbound, body, kind, meter: door.meter.clone() };
    let answered = match &*door.upstream {
        Upstream::Http(upstream) => upstream.post(post).await,
        Upstream::Stdio(upstream) => upstream.post(post).await,
    };
    answered.unwrap_or_else(|refusal| answer::refuse(&refusal, id.as_deref()))
}

/// How many times the largest body is read at most of one that is too large.
const THROWN_AWAY: usize = 4;

/// The whole body, within its limits of size and time.
///
/// What is too large is read on and thrown away, within bounds: a client that still writes would see its connection
/// break instead of the answer.
async fn whole(mut body: Body, headers: &HeaderMap, door: &Door) -> Result<Bytes, Refusal> {
    let (most, patience) = (door.settings.max_request_bytes, door.settings.body_patience);
    match tokio::time::timeout(patience, within(&mut body, headers, most)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => {
            // Whether it ends in time or not, it was too large.
            let thrown_away = throw_away(body, most.saturating_mul(THROWN_AWAY));
            drop(tokio::time::timeout(patience, thrown_away).await);
            Err(Refusal::RequestTooLarge(most))
        }
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::InvalidRequest("The body did not come in time.")),
    }
}

/// The body if it has at most so many bytes; `None` = it says or shows that it has more.
async fn within(
    body: &mut Body,
    headers: &HeaderMap,
    most: usize,
) -> Result<Option<Bytes>, Refusal> {
    let said =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|said| said > most) {
        return Ok(None);
    }
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(Some(body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok(None),
        Err(_) => Err(Refusal::InvalidRequest("The body broke off.")),
    }
}

async fn throw_away(mut body: Body, mut left: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// What the message is; headers that repeat it must agree.
fn kind(message: &Message<'_>, headers: &HeaderMap) -> Result<Kind, Refusal> {
    match message {
        Message::Request { id, method, tool } => {
            mirrors(headers, "mcp-method", method)?;
            if let Some(tool) = tool {
                mirrors(headers, "mcp-name", tool)?;
            }
            let id = RequestId { raw: id.raw.to_owned(), key: id.key() };
            Ok(Kind::Request {
                id,
                method: method.to_string(),
                tool: tool.as_deref().map(str::to_owned),
            })
        }
        Message::Notification { method, cancels } => {
            mirrors(headers, "mcp-method", method)?;
            Ok(Kind::Notification {
                cancels: cancels.as_ref().map(mcp_node_core::message::Id::key),
            })
        }
        Message::Answer { .. } => Ok(Kind::Answer),
    }
}

fn mirrors(headers: &HeaderMap, name: &str, body: &str) -> Result<(), Refusal> {
    let values = headers.get_all(name).iter().map(axum::http::HeaderValue::as_bytes);
    mirror::check(values, body, |text| STANDARD.decode(text).ok())
}
