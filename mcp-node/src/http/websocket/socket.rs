//! An open socket: frames of the client become messages of its channel, what the channel pushes becomes frames.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use mcp_node_core::Refusal;
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::super::{
    SharedGateway,
    channel::{Received, id_in},
};
use crate::{access::Grant, clock, request::Inbound, wire::answer, wire::websocket};

/// How many heartbeats a client may be silent for.
const MAX_MISSED: u32 = 3;
/// How long the end of a connection may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Stream = WebSocketStream<TokioIo<Upgraded>>;
/// Why a socket ends.
type Why = (CloseCode, &'static str);

/// What a socket needs to know.
pub struct Socket {
    pub doorway: SharedGateway,
    /// Who opened it, and what he said.
    pub inbound: Inbound,
    /// The key that the connection's certificate names.
    pub certificate: Option<KeyId>,
    /// Messages to the channel.
    pub messages: mpsc::Sender<Received>,
    /// What is pushed to the client, as long as the channel pushes.
    pub client: mpsc::WeakSender<Bytes>,
    pub heartbeat: Duration,
    /// The largest message. Unit: bytes.
    pub max_bytes: usize,
}

impl Socket {
    /// Serves it until the client, the channel or the node has had enough. Whoever pushes learns that it is over from
    /// `pushed`, which is closed then.
    pub async fn serve(self, upgraded: Upgraded, pushed: mpsc::Receiver<Bytes>) {
        let (io, limits) = (TokioIo::new(upgraded), websocket::limits(self.max_bytes));
        let stream = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
        let (sink, frames) = stream.split();
        let heard = Arc::new(Mutex::new(Instant::now()));
        let mut writer = Writer { sink, pushed, heard: heard.clone(), heartbeat: self.heartbeat };
        let why = tokio::select! {
            why = self.read(frames, &heard) => why,
            why = writer.write() => why,
        };
        writer.close(why).await;
    }

    /// Hands on what the client says, until it says no more.
    async fn read(self, mut frames: SplitStream<Stream>, heard: &Mutex<Instant>) -> Option<Why> {
        loop {
            let frame = frames.next().await;
            *heard.lock() = Instant::now();
            let text = match frame {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Binary(_))) => {
                    return Some((CloseCode::Unsupported, "A message is a frame of text."));
                }
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Err(Error::Capacity(_))) => {
                    return Some((CloseCode::Size, "The message is too large."));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, connection = self.inbound.connection, "A socket broke off");
                    return None;
                }
            };
            let body = Bytes::from(text);
            let refused = match self.received(&body) {
                Ok(received) => {
                    if self.messages.send(received).await.is_err() {
                        return Some((CloseCode::Away, "The session is over."));
                    }
                    continue;
                }
                Err(refused) => refused,
            };
            if let Some(client) = self.client.upgrade() {
                let error = answer::error(&refused.refusal, refused.id.as_deref(), clock::wall());
                drop(client.send(error.into()).await);
            }
            if refused.ends {
                return Some((CloseCode::Policy, "The key is refused."));
            }
        }
    }

    /// A message, of a caller that still may.
    fn received(&self, body: &Bytes) -> Result<Received, Refused> {
        let refused = |refusal: Refusal, ends: bool| {
            let id = id_in(body);
            Refused { refusal, id, ends }
        };
        let Some(door) = self.doorway.get() else { return Err(refused(Refusal::Starting, false)) };
        let shown = door.access.authenticate(&door.meter, &self.inbound.headers, self.certificate);
        let Grant { caller, scopes } = shown.map_err(|refusal| refused(refusal, true))?;
        if caller.state().key != self.inbound.caller.state().key {
            return Err(refused(Refusal::Unauthorized, true));
        }
        let inbound = Inbound { caller, scopes, ..self.inbound.clone() };
        Received::read(inbound, body.clone()).map_err(|refusal| refused(refusal, false))
    }
}

/// A message that goes nowhere.
struct Refused {
    refusal: Refusal,
    id: Option<String>,
    /// Nor will any other.
    ends: bool,
}

/// The way to the client.
struct Writer {
    sink: SplitSink<Stream, Message>,
    pushed: mpsc::Receiver<Bytes>,
    /// When the client was heard last.
    heard: Arc<Mutex<Instant>>,
    heartbeat: Duration,
}

impl Writer {
    /// Sends what is pushed, and asks for a sign of life when the client is silent.
    async fn write(&mut self) -> Option<Why> {
        let mut beats = tokio::time::interval(self.heartbeat);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                pushed = self.pushed.recv() => match pushed {
                    Some(message) => match Utf8Bytes::try_from(message) {
                        Ok(text) => Message::Text(text),
                        Err(_) => continue, // It is no JSON, so it is nobody's answer either.
                    },
                    None => return Some((CloseCode::Away, "The session is over.")),
                },
                _ = beats.tick() => {
                    let silent = self.heard.lock().elapsed();
                    if silent >= self.heartbeat * MAX_MISSED {
                        return Some((CloseCode::Policy, "The client is silent."));
                    }
                    if silent < self.heartbeat {
                        continue;
                    }
                    Message::Ping(Bytes::new())
                }
            };
            // A client that takes nothing is as good as gone.
            match timeout(self.heartbeat * MAX_MISSED, self.sink.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }

    /// Sends what was pushed already, says why nothing follows, and ends.
    async fn close(mut self, why: Option<Why>) {
        self.pushed.close();
        let ending = async {
            while let Some(message) = self.pushed.recv().await {
                if let Ok(text) = Utf8Bytes::try_from(message) {
                    self.sink.send(Message::Text(text)).await?;
                }
            }
            if let Some((code, reason)) = why {
                let frame = CloseFrame { code, reason: reason.into() };
                self.sink.send(Message::Close(Some(frame))).await?;
            }
            self.sink.close().await
        };
        drop(timeout(LAST_WORDS, ending).await); // Whoever does not listen learns nothing.
    }
}
