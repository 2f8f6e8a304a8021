//! Streams that say nothing for long show that they live: a comment, which no client takes for a message.
//!
//! Between two events alone, never within one; every other byte stays. Costs nothing while something is said, and no
//! timer before a stream is quiet for the first time. A client that sends no more is sent one at once: if it has gone,
//! its system says so.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::header::CONTENT_TYPE,
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;

const BEAT: Bytes = Bytes::from_static(b": \n\n");
/// What ends an event.
const ENDS: [&[u8]; 3] = [b"\n\n", b"\r\n\r\n", b"\r\r"];
const LONGEST_END: usize = 4;

/// A response whose body, if it is a stream of events, beats whenever it was quiet for so long; `activity` = of its
/// connection, where that is known.
pub fn keep(response: Response, every: Duration, activity: Option<Arc<Activity>>) -> Response {
    let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    if !kind.is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
        return response;
    }
    response.map(|body| Body::new(Beating { body, every, activity, quiet: None, tail: Vec::new() }))
}

struct Beating {
    body: Body,
    every: Duration,
    activity: Option<Arc<Activity>>,
    /// Since when nothing came.
    quiet: Option<Pin<Box<Sleep>>>,
    /// The last bytes that came; empty = none yet.
    tail: Vec<u8>,
}

impl Beating {
    fn came(&mut self, data: &[u8]) {
        self.quiet = None;
        self.tail.extend_from_slice(&data[data.len().saturating_sub(LONGEST_END)..]);
        let known = self.tail.len().saturating_sub(LONGEST_END);
        self.tail.drain(..known);
    }

    fn is_between_events(&self) -> bool {
        self.tail.is_empty() || ENDS.iter().any(|end| self.tail.ends_with(end))
    }
}

impl HttpBody for Beating {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref))
            {
                let data = data.cloned().unwrap_or_default();
                self.came(&data);
            }
            return Poll::Ready(frame);
        }
        if self.is_between_events()
            && let Some(activity) = self.activity.as_ref().filter(|activity| activity.is_in_doubt())
        {
            activity.tested();
            return Poll::Ready(Some(Ok(Frame::data(BEAT))));
        }
        let every = self.every;
        loop {
            let quiet = self.quiet.get_or_insert_with(|| Box::pin(sleep(every)));
            if quiet.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.quiet = None;
            if self.is_between_events() {
                return Poll::Ready(Some(Ok(Frame::data(BEAT))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    use super::*;

    const EVERY: Duration = Duration::from_millis(5);

    fn stream_of(kind: &'static str) -> (mpsc::Sender<&'static str>, Response) {
        let (sender, texts) = mpsc::channel(1);
        let next = |mut texts: mpsc::Receiver<&'static str>| async {
            let text = texts.recv().await?;
            Some((text, texts))
        };
        let texts = stream::unfold(texts, next).map(Ok::<_, std::convert::Infallible>);
        let mut response = Response::new(Body::from_stream(texts));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        (sender, keep(response, EVERY, None))
    }

    #[tokio::test]
    async fn a_quiet_stream_beats_between_its_events_and_never_within_one() {
        let (sender, mut response) = stream_of("text/event-stream; charset=utf-8");
        let mut next = async || {
            let frame = response.body_mut().frame().await?;
            Some(frame.unwrap().into_data().unwrap())
        };
        assert_eq!(next().await.unwrap(), BEAT, "before the first event");
        tokio::spawn(async move {
            for part in ["data: 1\n", "data: 2\r", "\n\r", "\n"] {
                sender.send(part).await.unwrap();
                tokio::time::sleep(EVERY * 4).await;
            }
        });
        let mut seen = vec![];
        while let Some(frame) = next().await {
            seen.push(frame);
        }
        seen.retain({
            let mut begun = false;
            move |frame| {
                begun = begun || frame != &BEAT;
                begun
            }
        });
        let event: Vec<u8> = seen.iter().take(4).flat_map(|part| part.to_vec()).collect();
        assert_eq!(event, b"data: 1\ndata: 2\r\n\r\n");
        assert!(seen.len() > 4 && seen[4..].iter().all(|frame| frame == &BEAT), "and behind it");
    }

    #[tokio::test]
    async fn what_is_no_stream_of_events_stays_as_it_is() {
        let (sender, response) = stream_of("application/json");
        tokio::spawn(async move {
            tokio::time::sleep(EVERY * 4).await;
            sender.send("{}").await.unwrap();
        });
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
    }
}
