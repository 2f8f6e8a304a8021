//! Histograms of what goes through the door: how long messages take, how large they and their answers are, and how long
//! connections last.
//!
//! What is measured is a posted message, whatever becomes of it, until the last byte of its answer was taken or its
//! client went away; but not `subscriptions/listen`, which lasts as long as its client likes. The handles are resolved
//! once: a process installs its recorder of metrics before it listens.

use std::{
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::Method,
};
use hyper::body::{Frame, Incoming, SizeHint};
use metrics::{Histogram, Unit, describe_histogram, histogram};

const REQUEST_DURATION: &str = "mcp_request_duration_seconds";
const REQUEST_SIZE: &str = "mcp_request_size_bytes";
const RESPONSE_SIZE: &str = "mcp_response_size_bytes";
const CONNECTION_DURATION: &str = "mcp_connection_duration_seconds";

struct Histograms {
    request_duration: Histogram,
    request_size: Histogram,
    response_size: Histogram,
    connection_duration: Histogram,
}

static HISTOGRAMS: LazyLock<Histograms> = LazyLock::new(|| {
    describe_histogram!(
        REQUEST_DURATION,
        Unit::Seconds,
        "Time from the head of a posted message to the last byte of its answer."
    );
    describe_histogram!(REQUEST_SIZE, Unit::Bytes, "Size of the body of a posted message.");
    describe_histogram!(RESPONSE_SIZE, Unit::Bytes, "Size of the body of an answer.");
    describe_histogram!(CONNECTION_DURATION, Unit::Seconds, "Lifetime of a client connection.");
    Histograms {
        request_duration: histogram!(REQUEST_DURATION),
        request_size: histogram!(REQUEST_SIZE),
        response_size: histogram!(RESPONSE_SIZE),
        connection_duration: histogram!(CONNECTION_DURATION),
    }
});

/// Notes how long a connection lasted.
pub fn connection_ended(lasted: Duration) {
    HISTOGRAMS.connection_duration.record(lasted);
}

/// One posted message, measured when it is dropped.
pub struct MeasuredMessage {
    began: Instant,
    size: Size,
    sent: u64,
}

/// The size of a request.
enum Size {
    KeyEntry(u64),
    /// It comes in chunks, which are counted.
    Counted(Arc<AtomicU64>),
}

impl MeasuredMessage {
    /// Begins to measure a request, if it is of those that are measured; the request with a body that any service takes.
    pub fn begin(request: Request<Incoming>) -> (Request, Option<Self>) {
        if !is_measured(&request) {
            return (request.map(Body::new), None);
        }
        let began = Instant::now();
        if let Some(bytes) = request.body().size_hint().exact() {
            return (
                request.map(Body::new),
                Some(Self { began, size: Size::KeyEntry(bytes), sent: 0 }),
            );
        }
        let bytes = Arc::new(AtomicU64::new(0));
        let size = Size::Counted(bytes.clone());
        let request = request.map(|body| Body::new(CountedBody { body, bytes }));
        (request, Some(Self { began, size, sent: 0 }))
    }

    /// A part of the answer leaves.
    pub fn sends(&mut self, data: &Bytes) {
        self.sent += data.len() as u64;
    }
}

fn is_measured(request: &Request<Incoming>) -> bool {
    let listens = request.headers().get("mcp-method");
    let listens = listens.is_some_and(|method| method.as_bytes() == b"subscriptions/listen");
    request.method() == Method::POST && request.uri().path().starts_with("/mcp") && !listens
}

impl Drop for MeasuredMessage {
    fn drop(&mut self) {
        let bytes = match &self.size {
            Size::KeyEntry(bytes) => *bytes,
            Size::Counted(bytes) => bytes.load(Relaxed),
        };
        HISTOGRAMS.request_duration.record(self.began.elapsed());
        HISTOGRAMS.request_size.record(bytes as f64);
        HISTOGRAMS.response_size.record(self.sent as f64);
    }
}

/// A body in chunks whose bytes are counted.
struct CountedBody {
    body: Incoming,
    bytes: Arc<AtomicU64>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
            self.bytes.fetch_add(data.map_or(0, |data| data.len() as u64), Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
