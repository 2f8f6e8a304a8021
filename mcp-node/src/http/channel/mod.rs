//! A channel: one connection of a client for a whole session, over which messages go both ways, one at a time.
//!
//! HTTP+SSE of 2024-11-05 and WebSocket are such transports; both are thin around this. Each message of the client goes
//! the way of a POST to `/mcp` ([`post::serve_message`]), so that leave, records and refusals are the same; what comes
//! back, be it JSON or a stream, is pushed to the client message by message. Behind a channel is one session of the
//! front, of the old era: it begins with the channel's `initialize`, its own stream is opened here, and it ends with the
//! channel. A client that goes away cancels nothing: calls that run go on, count for what comes of them, and only then
//! the session ends. Absent on purpose: 2026-07-28, which these transports were not specified for.

mod hand_over;
mod listen;
mod received;
mod registry;
mod session;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use mcp_node_core::{Refusal, message::IdKey, refusal::LimitScope};
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use self::session::Session;
pub use self::{
    received::{Received, ReceivedKind, id_in, refuse_other_era},
    registry::{Channels, OpenChannel},
};
use super::{Endpoint, GatewayState, SharedGateway, post};
use crate::{
    clock,
    request::Inbound,
    upstream::ID_IN_USE,
    wire::{RequestId, answer},
};

/// Messages on their way to a client, or from it, before no more are taken.
pub const QUEUE: usize = 16;
/// The most requests of one channel that run at the same time.
const MAX_REQUESTS: usize = 128;

const HAS_BEGUN: Refusal = Refusal::InvalidRequest("This session has begun.");

/// One client's channel.
pub struct Channel {
    doorway: SharedGateway,
    /// The server that it is for; `None` = what is at `/mcp`.
    server: Option<String>,
    /// Messages to the client.
    client: mpsc::Sender<Bytes>,
    session: Mutex<Session>,
    /// Requests that run, and whether the client has cancelled them.
    running: Mutex<HashMap<IdKey, bool>>,
    /// The task that reads the session's own stream.
    listening: Mutex<Option<AbortHandle>>,
    /// Raised when there is no session any more.
    lost: CancellationToken,
}

impl Channel {
    /// A channel to the server that is named so, whose messages go to `client`.
    pub fn new(
        doorway: SharedGateway,
        server: Option<String>,
        client: mpsc::Sender<Bytes>,
    ) -> Arc<Self> {
        Arc::new(Self {
            doorway,
            server,
            client,
            session: Mutex::default(),
            running: Mutex::default(),
            listening: Mutex::default(),
            lost: CancellationToken::new(),
        })
    }

    /// Serves a channel until its client is gone, its session is lost, or the node stops and nothing runs.
    pub async fn run(self: Arc<Self>, mut messages: mpsc::Receiver<Received>, open: OpenChannel) {
        let mut running: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        // What has no answer is sent one after the other, and nothing overtakes it.
        let mut telling: Option<BoxFuture<'static, ()>> = None;
        loop {
            // What came first begins first: a request is on its way before the next message is looked at.
            tokio::select! {
                biased;
                Some(()) = running.next() => {}
                () = async { telling.as_mut().expect("it is there").await }, if telling.is_some() => {
                    telling = None;
                }
                () = self.client.closed() => break,
                () = self.lost.cancelled() => break,
                () = open.ending().cancelled(), if running.is_empty() && telling.is_none() => break,
                message = messages.recv(), if telling.is_none() => {
                    let Some(message) = message else { break };
                    match self.take(message).await {
                        Some(Work::Ask(work)) => running.push(work),
                        Some(Work::Tell(work)) => telling = Some(work),
                        None => {}
                    }
                }
            }
        }
        drop(messages);
        if let Some(telling) = telling {
            telling.await;
        }
        while running.next().await.is_some() {}
        self.end().await;
    }

    /// What is to be done for a message.
    async fn take(self: &Arc<Self>, received: Received) -> Option<Work> {
        let Received { mut inbound, body, what } = received;
        self.session.lock().put(&mut inbound);
        match what {
            ReceivedKind::Request { id, greets, calls } => {
                if let Err(refusal) = self.begin(&id, greets) {
                    // Its id may be another's, whose answer this is not.
                    let id = (refusal != ID_IN_USE).then_some(&*id.raw);
                    self.push(answer::error(&refusal, id, clock::wall()).into()).await;
                    return None;
                }
                let (channel, gone) = (self.clone(), self.client.clone());
                let serving = async move { channel.ask(inbound, body, id, greets).await };
                // As over Streamable HTTP: a call goes on without its client, anything else ends.
                let work = async move {
                    tokio::select! {
                        () = serving => {}
                        () = gone.closed(), if !calls => {}
                    }
                };
                Some(Work::Ask(work.boxed()))
            }
            ReceivedKind::Notice { cancels, initialized } => {
                if let Some(id) = cancels {
                    self.running.lock().entry(id).and_modify(|cancelled| *cancelled = true);
                }
                let channel = self.clone();
                Some(Work::Tell(
                    async move { channel.tell(inbound, body, initialized).await }.boxed(),
                ))
            }
            ReceivedKind::Refused(error) => {
                self.push(error).await;
                None
            }
        }
    }

    fn begin(&self, id: &RequestId, greets: bool) -> Result<(), Refusal> {
        let mut running = self.running.lock();
        if running.contains_key(&id.key) {
            return Err(ID_IN_USE);
        }
        if running.len() >= MAX_REQUESTS {
            let max = u32::try_from(MAX_REQUESTS).unwrap_or(u32::MAX);
            let whose = LimitScope::Connection;
            return Err(Refusal::TooManyRunning { max, node_max: None, whose });
        }
        if greets && !self.session.lock().greet() {
            return Err(HAS_BEGUN);
        }
        running.insert(id.key.clone(), false);
        Ok(())
    }

    /// Serves a request until its answer is pushed.
    async fn ask(&self, inbound: Inbound, body: Bytes, id: RequestId, greets: bool) {
        if let Some((door, front)) = self.front() {
            let response = post::serve_message(&door, &front, inbound.clone(), body).await;
            self.hand_over(response, &inbound, &id, greets).await;
        } else {
            self.refuse(&Refusal::SessionNotFound, &id).await;
        }
        self.running.lock().remove(&id.key);
    }

    /// Sends on what has no answer.
    async fn tell(self: &Arc<Self>, inbound: Inbound, body: Bytes, initialized: bool) {
        let Some((door, front)) = self.front() else { return };
        let response = post::serve_message(&door, &front, inbound.clone(), body).await;
        if !response.status().is_success() {
            tracing::debug!(status = %response.status(), "A notice of a client is lost");
        }
        if initialized && self.listening.lock().is_none() {
            let listening = tokio::spawn(self.clone().listen(inbound));
            *self.listening.lock() = Some(listening.abort_handle());
        }
    }

    /// Refuses a request, unless its client has cancelled it.
    async fn refuse(&self, refusal: &Refusal, id: &RequestId) {
        if !self.is_cancelled(id) {
            self.push(answer::error(refusal, Some(&id.raw), clock::wall()).into()).await;
        }
    }

    fn is_cancelled(&self, id: &RequestId) -> bool {
        self.running.lock().get(&id.key).copied().unwrap_or_default()
    }

    /// Pushes a message, waiting until there is room; a client that is gone gets nothing.
    async fn push(&self, message: Bytes) {
        drop(self.client.send(message).await);
    }

    fn front(&self) -> Option<(Arc<GatewayState>, Endpoint)> {
        let door = self.doorway.get()?;
        let front = door.front_at(self.server.as_deref())?;
        Some((door, front))
    }

    /// Ends the session.
    async fn end(&self) {
        if let Some(listening) = self.listening.lock().take() {
            listening.abort();
        }
        let ended = self.session.lock().take();
        if let (Some(inbound), Some((_, front))) = (ended, self.front())
            && let Err(refusal) = front.delete(&inbound).await
        {
            tracing::debug!(reason = refusal.reason(), "A session had ended already");
        }
    }
}

/// What is done for one message.
enum Work {
    /// It is answered, beside others.
    Ask(BoxFuture<'static, ()>),
    /// It goes on before anything that came behind it.
    Tell(BoxFuture<'static, ()>),
}
