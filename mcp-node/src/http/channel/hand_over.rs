//! What comes back for one request, pushed to the client message by message.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderValue, response::Parts},
    response::Response,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use mcp_node_core::{
    Message, Refusal,
    message::{Answer, read},
    sse,
};

use super::{super::own_stream, Channel};
use crate::{
    request::Inbound,
    wire::{
        RequestId,
        frames::{Frames, is_events},
    },
};

/// How often a stream that broke off before the answer is asked for again in vain.
const MAX_RESUMES: u32 = 5;
/// How long to wait before it is asked for again, unless the server says otherwise; and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LAST_EVENT: &str = "last-event-id";

/// Where a stream stands.
#[derive(Default)]
pub struct StreamPosition {
    /// The last event that has an id.
    pub last: Option<HeaderValue>,
    /// How long the server wants its clients to wait.
    pause: Option<Duration>,
}

impl StreamPosition {
    /// Takes note of a frame, and returns its message.
    pub fn read(&mut self, frame: &[u8]) -> Option<Bytes> {
        if let Some(id) = sse::field(frame, b"id") {
            self.last = HeaderValue::from_bytes(id).ok().filter(|id| !id.is_empty());
        }
        let pause =
            sse::field(frame, b"retry").and_then(|ms| std::str::from_utf8(ms).ok()?.parse().ok());
        if let Some(ms) = pause {
            self.pause = Some(Duration::from_millis(ms).min(LONGEST_PAUSE));
        }
        let is_message = sse::is_message(frame);
        let data = sse::data(frame).filter(|data| is_message && !data.trim_ascii().is_empty())?;
        Some(Bytes::copy_from_slice(&data))
    }

    /// Asks for what comes behind it.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.remove(LAST_EVENT);
        if let Some(last) = &self.last {
            headers.insert(LAST_EVENT, last.clone());
        }
    }
}

impl Channel {
    /// Pushes what came back for a request, to its answer; without one the client gets an error.
    pub(super) async fn hand_over(
        &self,
        response: Response,
        inbound: &Inbound,
        id: &RequestId,
        greets: bool,
    ) {
        let asked = PendingRequest { inbound, id, greets };
        let (head, body) = response.into_parts();
        if !is_events(&head.headers) {
            let max = self.max_answer_bytes();
            let whole = Limited::new(body, max).collect().await.map(|body| body.to_bytes());
            return match whole {
                Ok(message) if matches!(read(&message), Ok(Message::Answer { .. })) => {
                    self.answer(&head, message, &asked).await;
                }
                _ => self.unanswered(&asked, &Refusal::UpstreamInvalid).await,
            };
        }
        let mut place = StreamPosition::default();
        let (mut body, mut resumes) = (body, 0);
        loop {
            let mut frames = Frames::of(body, self.max_answer_bytes());
            while let Some(Ok(frame)) = frames.next().await {
                resumes = 0;
                let Some(message) = place.read(&frame) else { continue };
                if is_answer(&message, id) {
                    return self.answer(&head, message, &asked).await;
                }
                self.push(message).await;
            }
            // The server may have meant to go on elsewhere, as its clients do.
            let goes_on = resumes < MAX_RESUMES && !self.is_cancelled(id);
            let resumed = if goes_on { self.resumed(inbound, &place).await } else { None };
            let Some(resumed) = resumed else {
                return self.unanswered(&asked, &Refusal::UpstreamUnreachable).await;
            };
            (body, resumes) = (resumed.into_body(), resumes + 1);
        }
    }

    /// The stream behind its last event; `None` = there is none, or nobody to read it.
    async fn resumed(&self, inbound: &Inbound, place: &StreamPosition) -> Option<Response> {
        place.last.as_ref()?;
        tokio::select! {
            () = tokio::time::sleep(place.pause.unwrap_or(PAUSE)) => {}
            () = self.client.closed() => return None,
        }
        let (door, front) = self.front()?;
        let mut inbound = inbound.clone();
        place.put(&mut inbound.headers);
        let response = own_stream(&door, &front, &inbound).await;
        (response.status().is_success() && is_events(response.headers())).then_some(response)
    }

    /// Pushes the answer. What it means for the session is known before the client has it.
    async fn answer(&self, head: &Parts, message: Bytes, asked: &PendingRequest<'_>) {
        let failed = matches!(read(&message), Ok(Message::Answer { answer: Answer::Error, .. }));
        if asked.greets && failed {
            self.session.lock().refused();
        } else if asked.greets {
            self.session.lock().begun(asked.inbound, &head.headers, &message);
        }
        let is_lost = head.status == 404 && failed && is_session_lost(&message);
        if head.status.is_success() || !self.is_cancelled(asked.id) {
            self.push(message).await;
        }
        if is_lost && self.session.lock().is_named() {
            self.lost.cancel();
        }
    }

    async fn unanswered(&self, asked: &PendingRequest<'_>, refusal: &Refusal) {
        if asked.greets {
            self.session.lock().refused();
        }
        self.refuse(refusal, asked.id).await;
    }

    pub(super) fn max_answer_bytes(&self) -> usize {
        self.front().map_or(0, |(_, front)| front.max_answer_bytes())
    }
}

/// The request that waits.
struct PendingRequest<'a> {
    inbound: &'a Inbound,
    id: &'a RequestId,
    greets: bool,
}

fn is_answer(message: &[u8], id: &RequestId) -> bool {
    matches!(read(message), Ok(Message::Answer { id: Some(found), .. }) if found.key() == id.key)
}

/// Whether an error is the node's own for a session that is no more.
fn is_session_lost(error: &[u8]) -> bool {
    let error: Option<serde_json::Value> = serde_json::from_slice(error).ok();
    error.is_some_and(|error| error["error"]["code"] == Refusal::SessionNotFound.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_where_the_stream_stands_and_holds_a_message_or_none() {
        let mut place = StreamPosition::default();
        assert_eq!(place.read(b"id: 7\nretry: 50\ndata: \n\n"), None, "no message, but a place");
        assert_eq!(place.last.as_ref().unwrap(), "7");
        assert_eq!(place.pause, Some(Duration::from_millis(50)));
        assert_eq!(place.read(b": quiet\n\n"), None);
        assert_eq!(place.read(b"event: ping\ndata: {}\n\n"), None, "an event of another kind");
        assert_eq!(place.read(b"event: message\ndata: {}\n\n").unwrap(), "{}");
        assert_eq!(place.read(b"id:8\r\ndata:{\r\ndata:}\r\n\r\n").unwrap(), "{\n}");
        assert_eq!(place.last.as_ref().unwrap(), "8");
    }
}
