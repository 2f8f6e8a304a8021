//! One connection of a client: its requests one after the other, and a watchdog that ends it when it is idle for too
//! long or does not send the head of a request in time.
//!
//! A request may turn the connection into something else (a WebSocket): then neither the watchdog nor the socket's probes
//! look at it any more, and whoever has it keeps it [`HeldOpen`].

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{
        HeaderValue, Version,
        header::{CONNECTION, HeaderName, UPGRADE},
    },
    response::Response,
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use schemas::KeyId;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt;

use super::{
    activity::{Activity, ConnectionAction, Running, Timeouts},
    framing,
    listen::{ClientAddress, ClientKey, ConnectionId},
    measure::{MeasuredMessage, connection_ended},
    socket::{OverTcp, WatchedSocket},
};
use crate::wire::{answer, era};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Who is at the other end.
#[derive(Clone, Copy)]
pub struct Client {
    pub number: ConnectionId,
    pub address: ClientAddress,
    /// The key that its certificate names.
    pub key: Option<KeyId>,
}

/// Keeps a connection among those that are open, and that a stop waits for, when it is no HTTP any more.
#[derive(Clone)]
pub(super) struct HeldOpen(#[expect(dead_code, reason = "held, not read")] Arc<Counted>);

/// A connection that is no HTTP any more, as it is counted.
struct Counted {
    _token: TaskTrackerToken,
    _lifetime: Arc<Lifetime>,
}

/// How long a connection lasts, whatever goes over it.
struct Lifetime(Instant);

impl HeldOpen {
    fn among(open: &TaskTracker, lifetime: &Arc<Lifetime>) -> Self {
        metrics::gauge!("mcp_connections").increment(1);
        Self(Arc::new(Counted { _token: open.token(), _lifetime: lifetime.clone() }))
    }
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        connection_ended(self.0.elapsed());
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("mcp_connections").decrement(1);
    }
}

/// Serves the requests of one connection, one of the `open`, until its client ends it, `stop` comes or it takes too long.
pub async fn serve_requests(
    stream: impl OverTcp + Send + 'static,
    router: Router,
    client: Client,
    timeouts: Timeouts,
    open: TaskTracker,
    stop: CancellationToken,
) {
    let lifetime = Arc::new(Lifetime(Instant::now()));
    let activity = Arc::new(Activity::new());
    let socket = WatchedSocket::new(stream, activity.clone());
    let keep_alive = keep_alive_hint(timeouts);
    let service = service_fn(|mut request: Request<Incoming>| {
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(HeldOpen::among(&open, &lifetime));
        }
        let keep_alive = keep_alive.clone();
        serve_request(router.clone(), client, activity.clone(), keep_alive, request)
    });
    let mut http = http1::Builder::new();
    http.half_close(true);
    let serving = http.serve_connection(TokioIo::new(socket), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let mut watchdog = std::pin::pin!(tokio::time::sleep(timeouts.head.min(timeouts.idle)));
    let mut closing = false;
    let ended = loop {
        // What has come is looked at first: a request that comes at the last moment is served.
        tokio::select! {
            biased;
            ended = &mut serving => break ended,
            () = stop.cancelled(), if !closing => {
                closing = true;
                serving.as_mut().graceful_shutdown();
            }
            () = &mut watchdog => match activity.verdict(timeouts, Instant::now()) {
                ConnectionAction::Wait(until) => {
                    activity.doubt_again();
                    watchdog.as_mut().reset(until.into());
                }
                ConnectionAction::Idle if !closing => {
                    closing = true;
                    serving.as_mut().graceful_shutdown();
                    watchdog.as_mut().reset((Instant::now() + timeouts.head).into());
                }
                ConnectionAction::Idle => break Ok(()),
                ConnectionAction::SlowHead => {
                    metrics::counter!("mcp_slow_heads_total").increment(1);
                    break Ok(());
                }
            },
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, connection = client.number.0, "A connection broke off");
    }
}

/// How long the client may keep the connection without a word, in whole seconds; `None` = less than one.
fn keep_alive_hint(timeouts: Timeouts) -> Option<HeaderValue> {
    let seconds = timeouts.idle.as_secs();
    let hint = (seconds > 0).then(|| format!("timeout={seconds}"))?;
    Some(hint.parse().expect("letters and digits are a header's value"))
}

async fn serve_request(
    router: Router,
    client: Client,
    activity: Arc<Activity>,
    keep_alive: Option<HeaderValue>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, std::convert::Infallible> {
    let (mut request, measured) = MeasuredMessage::begin(request);
    let modern = era::is_modern(request.headers());
    let running = activity.begin(modern, request.version() >= Version::HTTP_11);
    let mut response = match framing::check(&mut request) {
        Ok(()) => {
            let extensions = request.extensions_mut();
            extensions.insert(client.number);
            extensions.insert(client.address);
            extensions.insert(activity);
            if let Some(key) = client.key {
                extensions.insert(ClientKey(key));
            }
            router.oneshot(request).await?
        }
        Err(refusal) => {
            let mut response = answer::refuse(&refusal, None);
            // Where the next request begins is what nobody can be sure of.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    if let Some(keep_alive) = keep_alive
        && !response.headers().contains_key(CONNECTION)
    {
        response.headers_mut().insert(KEEP_ALIVE, keep_alive);
    }
    Ok(response.map(|body| Answer { body, measured, _running: running }))
}

/// The body of an answer; its request runs as long as it is there.
struct Answer {
    body: Body,
    measured: Option<MeasuredMessage>,
    _running: Running,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let (Some(Ok(frame)), Some(measured)) = (&frame, &mut self.measured)
            && let Some(data) = frame.data_ref()
        {
            measured.sends(data);
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
