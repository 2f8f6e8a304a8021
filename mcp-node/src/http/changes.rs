//! Clients that listen are told when what they may call has changed: the key's list of tools, its scopes, its status.
//!
//! The notice is put between what the server says, on a session's own stream, and on subscriptions that include lists
//! of tools. Every other byte stays. Absent on purpose: rules of the node itself (`tool_scopes`), which a stream that
//! is open keeps to its end.

use std::sync::Arc;

use axum::{body::Bytes, response::Response};
use futures::stream;
use mcp_node_core::{
    message::{Message, read},
    sse,
};
use schemas::KeyState;

use crate::{
    bridge::messages,
    keys::KeyEntry,
    wire::{
        answer,
        frames::{self, Frames, is_events},
    },
};

const CHANGED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;

/// A stream that is told of changes.
struct ListeningStream {
    frames: Frames,
    known: Arc<KeyEntry>,
    /// As of what was told last.
    state: Arc<KeyState>,
    listening: Listening,
}

/// How the client listens.
enum Listening {
    /// On its session's own stream.
    Session,
    /// By a request with this id, which the server has not taken yet.
    Asked(String),
    /// By a request with this id.
    Subscribed(String),
    /// To other things.
    Never,
}

/// A stream that a client listens on; `asked` = the id of its `subscriptions/listen`, `None` = a session's own stream.
/// `max` = the largest event. Unit: bytes.
pub fn told(
    response: Response,
    known: &Arc<KeyEntry>,
    asked: Option<&str>,
    max: usize,
) -> Response {
    if !is_events(response.headers()) {
        return response;
    }
    let listening = asked.map_or(Listening::Session, |id| Listening::Asked(id.to_owned()));
    let (head, body) = response.into_parts();
    let (known, state) = (known.clone(), known.state());
    let told = ListeningStream { frames: Frames::of(body, max), known, state, listening };
    let frames = stream::unfold(told, |mut told| async {
        let frame = told.next().await?;
        Some((frame, told))
    });
    Response::from_parts(head, frames::body(frames))
}

impl ListeningStream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                biased;
                frame = self.frames.next() => return match frame? {
                    Ok(frame) => {
                        self.look(&frame);
                        Some(frame)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "A stream is cut");
                        None
                    }
                },
                state = changed(&self.known, &self.state) => {
                    self.state = state;
                    if let Some(notice) = self.notice() {
                        return Some(answer::event(&notice).into());
                    }
                }
            }
        }
    }

    /// What the server has taken of what the client asked for.
    fn look(&mut self, frame: &[u8]) {
        let Listening::Asked(id) = &mut self.listening else { return };
        let Some(data) = sse::data(frame) else { return };
        let Ok(Message::Notification { method, .. }) = read(&data) else { return };
        if method != "notifications/subscriptions/acknowledged" {
            return;
        }
        let params = messages::params(&data).unwrap_or_default();
        let taken = messages::object(&params, "notifications").unwrap_or_default();
        let tools = taken.get("toolsListChanged").is_some_and(|raw| raw.get() == "true");
        let id = std::mem::take(id);
        self.listening = if tools { Listening::Subscribed(id) } else { Listening::Never };
    }

    fn notice(&self) -> Option<Bytes> {
        match &self.listening {
            Listening::Session => Some(Bytes::from_static(CHANGED)),
            Listening::Subscribed(id) => messages::subscribed(CHANGED, id),
            Listening::Asked(_) | Listening::Never => None,
        }
    }
}

/// Returns when the key may call other things than it could; with its state then.
async fn changed(known: &KeyEntry, since: &KeyState) -> Arc<KeyState> {
    loop {
        let changed = known.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let state = known.state();
        if (&state.tools, &state.scopes, &state.status)
            != (&since.tools, &since.scopes, &since.status)
        {
            return state;
        }
        changed.await;
    }
}
