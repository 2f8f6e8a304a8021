//! Connections of clients: how many there may be, and an end in order. What goes over one is the matter of
//! [`super::connection`].
//!
//! Absent on purpose: HTTP/2 (one connection a client is cheap enough).

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode};
use mcp_node_core::Refusal;
use schemas::KeyId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    activity::Timeouts,
    addresses::AddressLimits,
    connection::{Client, serve_requests},
    tls::Tls,
};
use crate::{
    clock,
    wire::{answer, lanes::WorkerThreads},
};

/// How long to wait when the system gives no connection: most often it is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one that is too many is heard.
const TURN_AWAY: Duration = Duration::from_secs(1);
/// How many of those are heard at a time.
const MAX_TURNED_AWAY: usize = 256;

/// How clients may connect.
#[derive(Clone, Copy, Debug)]
pub struct ListenSettings {
    /// The most connections at a time.
    pub max_connections: usize,
    /// How long the head of a request may take, from its first byte; also a TLS handshake, and a new connection until
    /// its first request.
    pub head_timeout: Duration,
    /// How long a connection may stay without a request, from the end of the last answer.
    pub idle_timeout: Duration,
}

/// The number of a connection, from 1, unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub u64);

/// The address that a request's connection came from, an IPv4-mapped IPv6 address as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The API key that the certificate of a request's connection names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKey(pub KeyId);

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
    let lanes = Arc::new(WorkerThreads::none());
    listen_over(listener, router, settings, None, lanes, Arc::default(), stop).await
}

/// As [`listen`], over TLS if there is any, on lanes if there are any, within the limits of client addresses.
///
/// # Errors
/// None as of now.
pub async fn listen_over(
    listener: TcpListener,
    router: Router,
    settings: ListenSettings,
    tls: Option<Arc<Tls>>,
    lanes: Arc<WorkerThreads>,
    limits: Arc<AddressLimits>,
    stop: CancellationToken,
) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let open = TaskTracker::new();
    while let Some(taken) = stop.run_until_cancelled(listener.accept()).await {
        // It is served by another runtime than the one that took it.
        let taken = taken.and_then(|(connection, peer)| Ok((connection.into_std()?, peer.ip())));
        let (connection, address) = match taken {
            Ok((connection, peer)) => (connection, ClientAddress(peer.to_canonical())),
            Err(error) => {
                tracing::warn!(%error, "Cannot take a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let admitted = if open.len() >= settings.max_connections {
            Err(Refusal::TooManyConnections)
        } else {
            limits.count_connection(address.0)
        };
        if let Err(refusal) = admitted {
            metrics::counter!("mcp_connections_refused_total").increment(1);
            // With TLS no response can be sent before the handshake, and the handshake is the load being shed.
            if tls.is_none() {
                turn_away(connection, refusal);
            }
            continue;
        }
        let number = ConnectionId(NUMBER.fetch_add(1, Ordering::Relaxed));
        let client = Client { number, address, key: None };
        let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
        let among = open.clone();
        lanes.spawn(&open, async move {
            metrics::gauge!("mcp_connections").increment(1);
            match TcpStream::from_std(connection) {
                Ok(connection) => {
                    serve(connection, router, client, settings, tls, among, stop).await;
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
    client: Client,
    settings: ListenSettings,
    tls: Option<Arc<Tls>>,
    open: TaskTracker,
    stop: CancellationToken,
) {
    // A frame of a stream must not wait for the next.
    if let Err(error) = connection.set_nodelay(true) {
        tracing::debug!(%error, "A connection delays small writes");
    }
    let timeouts = Timeouts { head: settings.head_timeout, idle: settings.idle_timeout };
    let Some(tls) = tls else {
        return serve_requests(connection, router, client, timeouts, open, stop).await;
    };
    let handshake = tokio::time::timeout(timeouts.head, tls.accept(connection));
    match stop.run_until_cancelled(handshake).await {
        Some(Ok(Ok((stream, key)))) => {
            serve_requests(stream, router, Client { key, ..client }, timeouts, open, stop).await;
        }
        Some(Ok(Err(error))) => {
            metrics::counter!("mcp_tls_failed_total").increment(1);
            tracing::debug!(%error, connection = client.number.0, "TLS handshake failed");
        }
        Some(Err(_)) | None => {}
    }
}

/// Answers a connection that is not taken, and closes it; one that is beyond [`MAX_TURNED_AWAY`] is closed at once.
fn turn_away(connection: std::net::TcpStream, refusal: Refusal) {
    static TURNED_AWAY: Semaphore = Semaphore::const_new(MAX_TURNED_AWAY);
    let Ok(permit) = TURNED_AWAY.try_acquire() else { return };
    tokio::spawn(async move {
        if let Ok(connection) = TcpStream::from_std(connection) {
            // Whoever does not listen learns nothing.
            drop(tokio::time::timeout(TURN_AWAY, refuse(connection, &refusal)).await);
        }
        drop(permit);
    });
}

async fn refuse(mut connection: TcpStream, refusal: &Refusal) -> io::Result<()> {
    let now = clock::wall();
    let body = answer::error(refusal, None, now);
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let seconds = refusal.retry_after_ms(now).unwrap_or_default().div_ceil(1_000);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: {seconds}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // A client that is answered before it has asked, or cut off while it asks, would not see the answer.
    let mut thrown_away = vec![0; 16 * 1024];
    let _ = connection.read(&mut thrown_away).await?;
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(&body).await?;
    connection.shutdown().await?;
    while connection.read(&mut thrown_away).await? > 0 {}
    Ok(())
}
