//! The client's end of a call that is followed by a task: first the head of its answer, then frames.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::stream;
use tokio::sync::{mpsc, oneshot};

use super::QuotaHints;

/// Frames on their way to one client before the upstream is read no further.
pub const FRAMES: usize = 16;

/// A client, as long as it listens.
pub struct ClientEnd {
    head: Option<oneshot::Sender<Response>>,
    frames: Option<mpsc::Sender<Bytes>>,
    /// What it is told with its answer.
    pub hints: QuotaHints,
}

impl ClientEnd {
    pub fn new(hints: QuotaHints) -> (Self, oneshot::Receiver<Response>) {
        let (head, response) = oneshot::channel();
        (Self { head: Some(head), frames: None, hints }, response)
    }

    /// Answers whole, if nothing was answered yet.
    pub fn respond(&mut self, mut response: Response) {
        if response.status().is_success() {
            self.hints.put(response.headers_mut());
        }
        if let Some(head) = self.head.take() {
            drop(head.send(response)); // Given back only when the client is gone.
        }
    }

    /// Answers with a head; frames follow.
    pub fn begin(&mut self, head: Response<()>) {
        let (sender, frames) = mpsc::channel(FRAMES);
        let (parts, ()) = head.into_parts();
        self.frames = Some(sender);
        self.respond(Response::from_parts(parts, body(frames)));
    }

    /// Sends a frame, waiting until the client takes it; a client that is gone gets nothing.
    pub async fn send(&mut self, frame: Bytes) {
        if let Some(frames) = &self.frames
            && !frame.is_empty()
            && frames.send(frame).await.is_err()
        {
            self.frames = None;
        }
    }

    /// Whether a head was answered, and perhaps more.
    pub fn has_begun(&self) -> bool {
        self.head.is_none()
    }

    /// Whether it went away before all was said.
    pub fn is_gone(&self) -> bool {
        match (&self.head, &self.frames) {
            (Some(head), _) => head.is_closed(),
            (None, Some(frames)) => frames.is_closed(),
            (None, None) => true,
        }
    }

    /// Returns when it went away.
    pub async fn gone(&mut self) {
        match (&mut self.head, &self.frames) {
            (Some(head), _) => head.closed().await,
            (None, Some(frames)) => frames.closed().await,
            (None, None) => {}
        }
    }

    /// Says nothing more.
    pub fn end(&mut self) {
        self.frames = None;
    }
}

/// A body of the frames that are sent; it ends with the sender.
pub fn body(frames: mpsc::Receiver<Bytes>) -> Body {
    Body::from_stream(stream::unfold(frames, |mut frames| async {
        let frame = frames.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), frames))
    }))
}
