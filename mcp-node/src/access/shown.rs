//! What a caller is shown of the server's tools: answers on their way to it, without those that it may not call.
//!
//! It stands between every way that answers come (HTTP or a child, in one piece or in a stream, through the bridge or
//! not) and the client. What cannot be read for certain does not go out.

use std::{borrow::Cow, sync::Arc};

use axum::{body::Body, http::StatusCode, response::Response};
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Limited};
use mcp_node_core::{
    Refusal, gate,
    message::{Answer, Message, read},
    sse,
    tool_list::{Unreadable, filtered},
};

use super::{Access, Grant};
use crate::{
    clock,
    wire::{
        answer,
        frames::{self, Frames, is_events},
    },
};

/// What one request is shown.
pub struct ToolListFilter {
    access: Arc<Access>,
    grant: Grant,
    /// The client's revision has hints for caches.
    modern: bool,
}

impl ToolListFilter {
    pub(super) fn new(access: Arc<Access>, grant: Grant, modern: bool) -> Self {
        Self { access, grant, modern }
    }

    /// The answer to a `tools/list` with this id, or a session's own stream (`None`), which may hold one. `max` = the
    /// largest answer, or event of a stream. Unit: bytes.
    pub async fn of(self, response: Response, id: Option<String>, max: usize) -> Response {
        let events = is_events(response.headers());
        let (head, body) = response.into_parts();
        if events {
            let outgoing = Outgoing { shown: self, id, frames: Frames::of(body, max) };
            return Response::from_parts(head, outgoing.into_body());
        }
        match self.whole(body, head.status, max).await {
            Ok(body) => Response::from_parts(head, body.into()),
            Err(refusal) => answer::refuse(&refusal, id.as_deref()),
        }
    }

    async fn whole(&self, body: Body, status: StatusCode, max: usize) -> Result<Bytes, Refusal> {
        let body = Limited::new(body, max).collect().await.map_err(|error| {
            tracing::warn!(%error, "A list of tools broke off, or is too large");
            Refusal::UpstreamInvalid
        })?;
        let body = body.to_bytes();
        match self.message(&body) {
            Ok(Cow::Owned(message)) => Ok(message.into()),
            Ok(Cow::Borrowed(_)) => Ok(body),
            // What the server's HTTP layer says of a failure is no list.
            Err(Unreadable) if !status.is_success() && read(&body).is_err() => Ok(body),
            Err(Unreadable) if body.is_empty() => Ok(body),
            Err(Unreadable) => {
                tracing::warn!("A list of tools cannot be read");
                Err(Refusal::UpstreamInvalid)
            }
        }
    }

    /// One message; only answers are changed.
    fn message<'a>(&self, message: &'a [u8]) -> Result<Cow<'a, [u8]>, Unreadable> {
        match read(message) {
            Ok(Message::Answer { answer: Answer::Result { .. } | Answer::Unclear, .. }) => {
                let state = self.grant.caller.state();
                let may = |tool: &str| {
                    gate::check_tool(&state, tool).is_ok()
                        && gate::check_scope(&self.access.needs, self.grant.held(&state), tool)
                            .is_ok()
                };
                filtered(message, may, self.modern)
            }
            Ok(_) => Ok(Cow::Borrowed(message)),
            Err(_) => Err(Unreadable),
        }
    }
}

/// A stream on its way.
struct Outgoing {
    shown: ToolListFilter,
    id: Option<String>,
    frames: Frames,
}

impl Outgoing {
    fn into_body(self) -> Body {
        frames::body(stream::unfold(self, |mut outgoing| async {
            let frame = outgoing.next().await?;
            Some((frame, outgoing))
        }))
    }

    async fn next(&mut self) -> Option<Bytes> {
        match self.frames.next().await? {
            Ok(frame) => Some(self.frame(frame)),
            Err(error) => {
                tracing::warn!(%error, "A stream of the upstream is cut");
                self.cut()
            }
        }
    }

    fn frame(&mut self, frame: Bytes) -> Bytes {
        let Some(data) = sse::data(&frame).filter(|data| !data.is_empty()) else { return frame };
        match self.shown.message(&data) {
            Ok(Cow::Borrowed(_)) => frame.clone(),
            Ok(Cow::Owned(message)) => sse::with_data(&frame, &message).into(),
            Err(Unreadable) => {
                tracing::warn!("A message on a stream cannot be read: the stream is cut");
                self.cut().unwrap_or_default()
            }
        }
    }

    /// Ends the stream; who waits for an answer on it is told.
    fn cut(&mut self) -> Option<Bytes> {
        self.frames.end();
        let id = self.id.as_deref()?;
        let error = answer::error(&Refusal::UpstreamInvalid, Some(id), clock::wall());
        Some(answer::event(&error).into())
    }
}
