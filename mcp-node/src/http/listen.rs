//! Connections of clients: how many there may be, how long the head of a request may take, and an end in order.
//!
//! A connection on which no head of a request comes in time is closed, be it slow on purpose or only idle: clients
//! open another. Absent on purpose: HTTP/2 (one connection a client is cheap enough).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use hyper::{body::Incoming, header::UPGRADE, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use mcp_node_core::Refusal;
use schemas::KeyId;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt;

use super::{answer, lanes::Lanes, tls::Tls};
use crate::clock;

/// How long to wait when the system gives no connection: most often it is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one that is too many is heard.
const TURNED_AWAY: Duration = Duration::from_secs(1);

/// How clients may connect.
#[derive(Clone, Copy, Debug)]
pub struct ListenSettings {
    /// The most connections at a time.
    pub most_connections: usize,
    /// How long the head of a request may take to come, from the end of the one before.
    pub head_patience: Duration,
}

/// The number of a connection, from 1, unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub u64);

/// The API key that the certificate of a request's connection names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKey(pub KeyId);

/// Keeps a connection among those that are open, and that a stop waits for, when it is no HTTP any more.
#[derive(Clone)]
pub(super) struct HeldOpen(#[expect(dead_code, reason = "held, not read")] Arc<Counted>);

/// A connection that is no HTTP any more, as it is counted.
struct Counted(#[expect(dead_code, reason = "held, not read")] TaskTrackerToken);

impl HeldOpen {
    fn among(open: &TaskTracker) -> Self {
        metrics::gauge!("mcp_connections").increment(1);
        Self(Arc::new(Counted(open.token())))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("mcp_connections").decrement(1);
    }
}

/// Serves `router` until `stop`; then no new connection is taken, running requests end, and this returns.
///
/// # Errors
/// None as of now: a failure to take a connection is waited out.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    settings: ListenSettings,
    stop: CancellationToken,
) -> io::Result<()> {
    listen_over(listener, router, settings, None, Arc::new(Lanes::none()), stop).await
}

/// As [`listen`], over TLS if there is any, on lanes if there are any.
///
/// # Errors
/// None as of now.
pub async fn listen_over(
    listener: TcpListener,
    router: Router,
    settings: ListenSettings,
    tls: Option<Arc<Tls>>,
    lanes: Arc<Lanes>,
    stop: CancellationToken,
) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let open = TaskTracker::new();
    while let Some(taken) = stop.run_until_cancelled(listener.accept()).await {
        // It is served by another runtime than the one that took it.
        let connection = match taken.and_then(|(connection, _)| connection.into_std()) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "Cannot take a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if open.len() >= settings.most_connections {
            metrics::counter!("mcp_connections_refused_total").increment(1);
            if tls.is_none() {
                // Over TLS nothing can be said before hands are shaken, which is what is too much.
                tokio::spawn(async move {
                    if let Ok(connection) = TcpStream::from_std(connection) {
                        turn_away(connection).await;
                    }
                });
            }
            continue;
        }
        let number = ConnectionId(NUMBER.fetch_add(1, Ordering::Relaxed));
        let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
        let among = open.clone();
        lanes.spawn(&open, async move {
            metrics::gauge!("mcp_connections").increment(1);
            match TcpStream::from_std(connection) {
                Ok(connection) => {
                    serve(connection, router, number, settings, tls, among, stop).await;
                }
                Err(error) => tracing::warn!(%error, "Cannot serve a connection"),
            }
            metrics::gauge!("mcp_connections").decrement(1);
        });
    }
    open.close();
    open.wait().await;
    Ok(())
}

async fn serve(
    connection: TcpStream,
    router: Router,
    number: ConnectionId,
    settings: ListenSettings,
    tls: Option<Arc<Tls>>,
    open: TaskTracker,
    stop: CancellationToken,
) {
    // A frame of a stream must not wait for the next.
    if let Err(error) = connection.set_nodelay(true) {
        tracing::debug!(%error, "A connection delays small writes");
    }
    if let Some(tls) = tls {
        let shaken = tokio::time::timeout(settings.head_patience, tls.accept(connection));
        match stop.run_until_cancelled(shaken).await {
            Some(Ok(Ok((stream, key)))) => {
                converse(stream, router, number, key, settings, open, stop).await;
            }
            Some(Ok(Err(error))) => {
                metrics::counter!("mcp_tls_failed_total").increment(1);
                tracing::debug!(%error, connection = number.0, "A client could not shake hands");
            }
            Some(Err(_)) | None => {}
        }
    } else {
        converse(connection, router, number, None, settings, open, stop).await;
    }
}

/// Serves the requests of one connection.
async fn converse(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    number: ConnectionId,
    key: Option<KeyId>,
    settings: ListenSettings,
    open: TaskTracker,
    stop: CancellationToken,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(number);
        if let Some(key) = key {
            request.extensions_mut().insert(ClientKey(key));
        }
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(HeldOpen::among(&open));
        }
        router.clone().oneshot(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(settings.head_patience);
    let serving = http.serve_connection(TokioIo::new(connection), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, connection = number.0, "A connection broke off");
    }
}

/// Says that there are too many, and closes.
async fn turn_away(mut connection: TcpStream) {
    let refusal = Refusal::TooManyConnections;
    let body = answer::error(&refusal, None, clock::wall());
    let head = format!(
        "HTTP/1.1 {} Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 10\r\nconnection: close\r\n\r\n",
        refusal.status(),
        body.len()
    );
    let said = tokio::time::timeout(TURNED_AWAY, async {
        // A client that is answered before it has asked, or cut off while it asks, would not see the answer.
        let mut thrown_away = vec![0; 16 * 1024];
        let _ = connection.read(&mut thrown_away).await?;
        connection.write_all(head.as_bytes()).await?;
        connection.write_all(&body).await?;
        connection.shutdown().await?;
        while connection.read(&mut thrown_away).await? > 0 {}
        Ok::<_, io::Error>(())
    });
    drop(said.await); // Whoever does not listen learns nothing.
}
