//! What one server sends back, on its way to the client: the server's questions and events get ids that find it again.
//!
//! Answers pass as they are. What they tell of the server is noted: which call has ended, which task was made there.

use std::{borrow::Cow, sync::Arc};

use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use mcp_node_core::{
    Refusal,
    aggregate::tag::{self, EventId},
    billable,
    message::{IdKey, Message, read},
    sse, task,
};
use schemas::{KeyId, Outcome};

use super::{
    SharedState,
    ask::{strip, whole},
    owners::ItemKind,
    sessions::Session,
};
use crate::wire::frames::{self, Frames, is_events};

/// One answer on its way.
pub struct Back {
    pub kept: Arc<SharedState>,
    pub server: Arc<str>,
    pub session: Option<Arc<Session>>,
    pub key: KeyId,
    /// The request's id; `None` = a resumed stream, which may hold the answer to any.
    pub id: Option<IdKey>,
    /// The largest answer, or event of a stream. Unit: bytes.
    pub max: usize,
}

impl Back {
    /// The answer as the client gets it.
    ///
    /// # Errors
    /// It broke off, or is too large.
    pub async fn of(self, mut response: Response) -> Result<Response, Refusal> {
        strip(&mut response);
        if is_events(response.headers()) {
            let (head, body) = response.into_parts();
            let in_use = self.session.as_ref().map(|session| session.in_use());
            let frames = Frames::of(body, self.max).into_stream();
            let frames = frames.map(move |frame| {
                let _held = &in_use;
                self.frame(&frame)
            });
            return Ok(Response::from_parts(head, frames::body(frames)));
        }
        let (head, body) = response.into_parts();
        let body = whole(Response::new(body), self.max).await?;
        self.note(&body);
        Ok(Response::from_parts(head, body.into()))
    }

    fn frame(&self, frame: &Bytes) -> Bytes {
        let told = match sse::data(frame) {
            Some(data) => {
                self.note(&data);
                message(&self.server, frame, &data)
            }
            None => Cow::Borrowed(&frame[..]),
        };
        let event = |own: &str| EventId::Of(self.server.to_string(), own.to_owned()).written();
        Bytes::copy_from_slice(&sse::with_ids(&told, event))
    }

    fn note(&self, message: &[u8]) {
        let Ok(Message::Answer { id: Some(id), answer }) = read(message) else { return };
        if let Some(session) = &self.session {
            session.ended(&id.key());
        }
        if billable::outcome(answer) == Outcome::TaskCreated
            && self.id.as_ref().is_none_or(|asked| *asked == id.key())
            && let Some(made) = task::created(message)
        {
            self.kept.owners.learn(self.key, ItemKind::Task, made, &self.server);
        }
    }
}

/// A frame whose data is a message of this server, as the client gets it.
pub fn message<'a>(server: &str, frame: &'a [u8], data: &[u8]) -> Cow<'a, [u8]> {
    match tag::message(server, data) {
        Cow::Borrowed(_) => Cow::Borrowed(frame),
        Cow::Owned(message) => Cow::Owned(sse::with_data(frame, &message)),
    }
}
