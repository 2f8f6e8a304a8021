//! The frames of a body that is a stream of events, one after the other, as they came.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header::CONTENT_TYPE},
};
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use mcp_node_core::sse::{FrameTooLarge, Splitter};

/// Whether an answer is a stream of events.
#[must_use]
pub fn is_events(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else { return false };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text/event-stream")
}

/// A stream on its way.
pub struct Frames<B = Body> {
    /// `None` = nothing more will come.
    from: Option<B>,
    splitter: Splitter,
    has_come: bool,
}

impl<B: axum::body::HttpBody<Data = Bytes> + Unpin + Send> Frames<B> {
    /// `max` = the largest frame that is held. Unit: bytes.
    pub fn of(body: B, max: usize) -> Self {
        Self { from: Some(body), splitter: Splitter::new(max), has_come: false }
    }

    /// The next whole frame; `None` = the stream is over, or broke off. What came behind the last whole frame is dropped:
    /// no client would hear it.
    ///
    /// # Errors
    /// A frame is too large: what follows cannot be told apart any more.
    pub async fn next(&mut self) -> Option<Result<Bytes, FrameTooLarge>> {
        loop {
            match self.splitter.next_frame() {
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) => {}
                Err(error) => {
                    self.end();
                    return Some(Err(error));
                }
            }
            let Some(Ok(frame)) = self.from.as_mut()?.frame().await else {
                self.end();
                return None;
            };
            if let Ok(chunk) = frame.into_data() {
                self.has_come |= !chunk.is_empty();
                self.splitter.push(&chunk);
            }
        }
    }

    /// Whether anything has come.
    pub fn has_come(&self) -> bool {
        self.has_come
    }

    /// Reads no further.
    pub fn end(&mut self) {
        self.from = None;
        self.splitter = Splitter::new(0);
    }

    /// The frames as a stream, which ends where one is too large.
    pub fn into_stream(self) -> impl Stream<Item = Bytes> + Send
    where
        B: 'static,
    {
        stream::unfold(self, |mut frames| async {
            match frames.next().await? {
                Ok(frame) => Some((frame, frames)),
                Err(error) => {
                    tracing::warn!(%error, "A stream of the upstream is cut");
                    None
                }
            }
        })
    }
}

/// A body of these frames.
pub fn body(frames: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(frames.map(Ok::<_, std::convert::Infallible>))
}
