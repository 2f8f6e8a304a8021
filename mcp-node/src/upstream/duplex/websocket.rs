//! A connection over WebSocket, in the subprotocol `mcp`: a message a frame of text.
//!
//! A server that shows no sign of life for a while is gone. Absent on purpose: compression.

use std::{sync::Arc, time::Duration};

use axum::http::{
    HeaderValue, Method, StatusCode, Uri,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use mcp_node_core::Refusal;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, Utf8Bytes, protocol::Role},
};

use super::{
    Session,
    way::{RemoteServer, on_one_line},
};
use crate::{
    access::Grant,
    wire::websocket::{self, SUBPROTOCOL},
};

/// After how long a silent server is asked whether it lives, and how often in vain.
const HEARTBEAT: Duration = Duration::from_secs(15);
const MAX_MISSED: u32 = 3;
/// How long the end of a connection may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Stream = WebSocketStream<TokioIo<Upgraded>>;

/// An open socket.
pub struct SocketConnection {
    stream: Stream,
}

impl SocketConnection {
    /// Opens a socket; `max_bytes` = the largest message.
    ///
    /// # Errors
    /// The server cannot be reached, or speaks something else.
    pub async fn open(
        remote: &RemoteServer,
        grant: Option<&Grant>,
        max_bytes: usize,
    ) -> Result<Self, Refusal> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Refusal::UpstreamUnreachable)?;
        let key = STANDARD.encode(random);
        let key = HeaderValue::try_from(key).expect("base64 is a header's value");
        let url = over_http(&remote.url).ok_or(Refusal::UpstreamUnreachable)?;
        let mut request = remote.request(Method::GET, &url, grant, Bytes::new());
        let said = [
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (UPGRADE, HeaderValue::from_static("websocket")),
            (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL)),
            (SEC_WEBSOCKET_KEY, key.clone()),
        ];
        request.headers_mut().extend(said);
        let response = remote.send(request).await?;
        let (status, headers) = (response.status(), response.headers());
        let is_accepted = headers
            .get(SEC_WEBSOCKET_ACCEPT)
            .is_some_and(|accepted| *accepted == websocket::accept_key(&key));
        let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL);
        let is_mcp = protocol.is_none_or(|protocol| protocol == SUBPROTOCOL);
        if status != StatusCode::SWITCHING_PROTOCOLS || !is_accepted || !is_mcp {
            tracing::warn!(%status, "The upstream opens no WebSocket for MCP");
            return Err(Refusal::UpstreamInvalid);
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| {
            tracing::warn!(%error, "The upstream's connection became no WebSocket");
            Refusal::UpstreamUnreachable
        })?;
        let (io, limits) = (TokioIo::new(upgraded), websocket::limits(max_bytes));
        let stream = WebSocketStream::from_raw_socket(io, Role::Client, Some(limits)).await;
        Ok(Self { stream })
    }

    /// Serves a session until it ends, or the socket does.
    pub async fn serve(self, session: &Arc<Session>, lines: mpsc::Receiver<Bytes>) {
        let (mut sink, frames) = self.stream.split();
        let heard = Mutex::new(Instant::now());
        tokio::select! {
            () = read(frames, session, &heard) => session.failed_to_start(),
            () = write(&mut sink, lines, &heard) => session.failed_to_start(),
            () = session.end.cancelled() => {}
        }
        drop(timeout(LAST_WORDS, sink.close()).await); // Whoever does not listen learns nothing.
    }
}

/// Hands on what the server says, until it says no more.
async fn read(mut frames: SplitStream<Stream>, session: &Session, heard: &Mutex<Instant>) {
    loop {
        let frame = frames.next().await;
        *heard.lock() = Instant::now();
        match frame {
            Some(Ok(Message::Text(text))) => session.take_line(on_one_line(text.into())).await,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => {
                return tracing::warn!("The upstream has closed its WebSocket");
            }
            Some(Ok(Message::Binary(_))) => {
                return tracing::warn!("The upstream sent a frame that is no text");
            }
            Some(Err(error)) => return tracing::warn!(%error, "The upstream's WebSocket broke off"),
        }
    }
}

/// Sends what is sent, and asks for a sign of life when the server is silent.
async fn write(
    sink: &mut SplitSink<Stream, Message>,
    mut lines: mpsc::Receiver<Bytes>,
    heard: &Mutex<Instant>,
) {
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            line = lines.recv() => {
                let Some(line) = line else { return };
                let line = line.slice(..line.trim_ascii_end().len());
                let Ok(text) = Utf8Bytes::try_from(line) else { continue };
                Message::Text(text)
            }
            _ = beats.tick() => {
                let silent = heard.lock().elapsed();
                if silent >= HEARTBEAT * MAX_MISSED {
                    return tracing::warn!("The upstream's WebSocket is silent");
                }
                if silent < HEARTBEAT {
                    continue;
                }
                Message::Ping(Bytes::new())
            }
        };
        match timeout(HEARTBEAT * MAX_MISSED, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::warn!(%error, "The upstream's WebSocket broke off"),
            Err(_) => return tracing::warn!("The upstream's WebSocket takes nothing any more"),
        }
    }
}

/// The address of a socket as that of the request that opens it.
fn over_http(url: &Uri) -> Option<Uri> {
    let scheme = match url.scheme_str()? {
        "ws" | "http" => "http",
        "wss" | "https" => "https",
        _ => return None,
    };
    let mut parts = url.clone().into_parts();
    parts.scheme = scheme.parse().ok();
    Uri::from_parts(parts).ok()
}
