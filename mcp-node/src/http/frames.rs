//! The frames of a body that is a stream of events, one after the other, as they came.

use axum::{
    body::{Body, BodyDataStream, Bytes},
    http::{HeaderMap, header::CONTENT_TYPE},
};
use futures::{Stream, StreamExt, stream};
use mcp_node_core::sse::{FrameTooLarge, Splitter};

/// Whether an answer is a stream of events.
#[must_use]
pub fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// A stream on its way.
pub struct Frames {
    /// `None` = nothing more will come.
    from: Option<BodyDataStream>,
    splitter: Splitter,
}

impl Frames {
    /// `most` = the largest frame that is held. Unit: bytes.
    pub fn of(body: Body, most: usize) -> Self {
        Self { from: Some(body.into_data_stream()), splitter: Splitter::new(most) }
    }

    /// The next frame, the last of them perhaps without its end; `None` = the stream is over, or broke off.
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
            let from = self.from.as_mut()?;
            if let Some(Ok(chunk)) = from.next().await {
                self.splitter.push(&chunk);
                continue;
            }
            self.from = None;
            let rest = std::mem::replace(&mut self.splitter, Splitter::new(0)).rest();
            return (!rest.is_empty()).then_some(Ok(rest));
        }
    }

    /// Reads no further.
    pub fn end(&mut self) {
        self.from = None;
        self.splitter = Splitter::new(0);
    }

    /// The frames as a stream, which ends where one is too large.
    pub fn into_stream(self) -> impl Stream<Item = Bytes> + Send {
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
