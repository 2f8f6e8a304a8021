//! The session's own stream, on which its server says what is no answer, read for the channel's client.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;

use super::{super::own_stream, Channel, hand_over::StreamPosition};
use crate::{
    request::Inbound,
    wire::frames::{Frames, is_events},
};

/// How long to wait before a stream that broke off is opened again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Channel {
    /// Pushes what the stream says, and opens it again when it breaks off; returns if there is none.
    pub(super) async fn listen(self: Arc<Self>, mut inbound: Inbound) {
        let (mut place, mut pause) = (StreamPosition::default(), PAUSE);
        loop {
            let Some((door, front)) = self.front() else { return };
            place.put(&mut inbound.headers);
            let response = own_stream(&door, &front, &inbound).await;
            match response.status() {
                status if status.is_success() && is_events(response.headers()) => {
                    let mut frames = Frames::of(response.into_body(), front.max_answer_bytes());
                    while let Some(Ok(frame)) = frames.next().await {
                        pause = PAUSE;
                        if let Some(message) = place.read(&frame) {
                            self.push(message).await;
                        }
                    }
                }
                StatusCode::NOT_FOUND if self.session.lock().is_named() => {
                    self.lost.cancel();
                    return;
                }
                // The server has no such stream.
                status if status.is_client_error() || status.is_success() => return,
                _ => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
