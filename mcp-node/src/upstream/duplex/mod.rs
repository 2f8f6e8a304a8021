//! A server behind a channel of messages both ways, one a session: a child process, or a connection of HTTP+SSE
//! (2024-11-05) or WebSocket.
//!
//! A channel has one client, as its server's author expects: its requests, its samplings and its state never mix with
//! another caller's. The session's id is ours. A channel that breaks ends its session, whose calls are free then.
//! Absent on purpose: the revision without sessions (2026-07-28 and later), whose clients come through the bridge; and
//! what a channel is (`super::stdio`, `sse`, `websocket`).

mod post;
mod session;
mod sse;
mod streams;
mod way;
mod websocket;

use std::{sync::Arc, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use mcp_node_core::Refusal;
use schemas::KeyId;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use self::session::QUEUE;
pub(crate) use self::session::{Pieces, Session};
pub use self::way::{RemoteServer, Transport};
use self::{
    streams::{ChannelAnswer, answered, takes_events},
    way::{ChannelTarget, OpenedChannel},
};
use super::{
    UpstreamSettings,
    breaker::CircuitBreaker,
    stdio::{ServerCommand, memory},
};
use crate::{
    access::Grant,
    call::{ClientEnd, Driver, PendingRecord, QuotaHints, Tasks},
    request::{Inbound, Kind, Post},
    sessions::SessionMap,
    wire::{RequestId, SESSION},
};

/// How often sessions are looked at.
const SWEEP: Duration = Duration::from_millis(500);

/// The way to a server, and the channels that are open.
#[derive(Clone)]
pub struct DuplexUpstream {
    shared: Arc<Shared>,
}

struct Shared {
    way: ChannelTarget,
    settings: UpstreamSettings,
    sessions: SessionMap<Session>,
    tasks: Arc<Tasks>,
    /// Whether another channel is opened.
    starts: Arc<CircuitBreaker>,
    stopping: CancellationToken,
    open: TaskTracker,
}

impl DuplexUpstream {
    /// Children of `command`. Must be called within the runtime.
    #[must_use]
    pub fn of_command(command: ServerCommand, settings: UpstreamSettings) -> Self {
        let starts = CircuitBreaker::of_starts(&command.program);
        Self::over(ChannelTarget::Child(command), starts, settings)
    }

    /// Connections to a server elsewhere. Must be called within the runtime.
    #[must_use]
    pub fn of_remote(remote: RemoteServer, settings: UpstreamSettings) -> Self {
        let name = remote.url.authority().map_or("", |authority| authority.as_str());
        let starts = CircuitBreaker::of_server(name, settings.breaker);
        Self::over(ChannelTarget::RemoteServer(Arc::new(remote)), starts, settings)
    }

    fn over(way: ChannelTarget, starts: Arc<CircuitBreaker>, settings: UpstreamSettings) -> Self {
        let shared = Shared {
            way,
            settings,
            sessions: SessionMap::new(metrics::gauge!("mcp_sessions")),
            tasks: Arc::default(),
            starts,
            stopping: CancellationToken::new(),
            open: TaskTracker::new(),
        };
        let upstream = Self { shared: Arc::new(shared) };
        let (swept, stopping) = (upstream.clone(), upstream.shared.stopping.clone());
        tokio::spawn(async move { stopping.run_until_cancelled(swept.sweep()).await });
        upstream
    }

    /// Whether the server speaks this transport to a caller: a channel can be opened.
    pub(crate) async fn speaks(&self, grant: &Grant) -> bool {
        self.shared.way.open(Some(grant), &self.shared.settings).await.is_ok()
    }

    /// Serves a posted message.
    ///
    /// # Errors
    /// There is no such session of this caller, the call was refused, or the channel is gone.
    pub async fn post(&self, post: Post) -> Result<Response, Refusal> {
        match &post.kind {
            Kind::Request { id, method, .. }
                if method == "initialize" && post.inbound.session().is_none() =>
            {
                self.initialize(&post, id).await
            }
            Kind::Request { id, .. } => {
                let session = self.session(&post.inbound)?;
                session.check_free(&id.key)?;
                self.request(&post, id, &session).await
            }
            Kind::Notification { cancels } => {
                let session = self.session(&post.inbound)?;
                session.write(&post.body).await?;
                if let Some(id) = cancels {
                    session.cancel(id);
                }
                Ok(StatusCode::ACCEPTED.into_response())
            }
            Kind::Answer => {
                self.session(&post.inbound)?.write(&post.body).await?;
                Ok(StatusCode::ACCEPTED.into_response())
            }
        }
    }

    async fn request(
        &self,
        post: &Post,
        id: &RequestId,
        session: &Arc<Session>,
    ) -> Result<Response, Refusal> {
        let poll = post.asks_for_task(&self.shared.tasks);
        let permit = post.admit().await?;
        let hints = permit.as_ref().map(QuotaHints::of).unwrap_or_default();
        let owed = PendingRecord::new(permit, poll, &self.shared.tasks);
        let deadline = Instant::now() + self.shared.settings.request_timeout;
        let streams = takes_events(&post.inbound);
        let asked = session.request(id, &post.body, streams, deadline).await?;
        let Pieces { pieces, cancelled } = asked;
        let (client, response) = ClientEnd::new(hints);
        let source = ChannelAnswer::new(session, id, pieces);
        let id = id.clone();
        let driver = Driver { owed, id, client, source, gone_cancels: false, cancelled, deadline };
        tokio::spawn(driver.run());
        response.await.map_err(|_| Refusal::UpstreamUnreachable)
    }

    /// Opens the session's own stream.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub fn get(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        let session = self.session(inbound)?;
        let (waited, messages) = session.open_stream();
        Ok(streams::own_stream(waited, messages, session.end.clone()))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub fn delete(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        self.session(inbound)?.close("deleted");
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// Ends all sessions and waits until every channel is closed, and every child gone.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        let all = self.shared.sessions.all();
        all.iter().for_each(|session| session.close("stopped"));
        self.shared.open.close();
        self.shared.open.wait().await;
    }

    fn session(&self, inbound: &Inbound) -> Result<Arc<Session>, Refusal> {
        let missing = Refusal::InvalidRequest("The header Mcp-Session-Id is missing.");
        self.shared.sessions.named_by(inbound)?.ok_or(missing)
    }

    /// Begins a session; it stays if the server takes it and the client is still there.
    async fn initialize(&self, post: &Post, id: &RequestId) -> Result<Response, Refusal> {
        let session = self.begin(Some(&post.inbound.grant())).await?;
        let guard = session.end.clone().drop_guard();
        let deadline = Instant::now() + self.shared.settings.request_timeout;
        let streams = takes_events(&post.inbound);
        let Pieces { pieces, .. } = session.request(id, &post.body, streams, deadline).await?;
        let (mut response, begun) = answered(id, pieces).await;
        if begun {
            guard.disarm();
            let id = HeaderValue::from_str(&session.id).expect("an id of ours is hexadecimal");
            response.headers_mut().insert(SESSION, id);
        }
        Ok(response)
    }

    /// Opens a channel for a session of a caller; `None` = the node itself.
    pub(crate) async fn begin(&self, grant: Option<&Grant>) -> Result<Arc<Session>, Refusal> {
        if self.shared.stopping.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let key = grant.map_or(KeyId(uuid::Uuid::nil()), |grant| grant.caller.state().key);
        let limits = self.shared.settings.sessions();
        // Before the channel is opened: what ends for it makes room for its child.
        close_for_room(&self.shared.sessions.make_room(key, limits)?);
        let mut passage = self.shared.starts.enter(None)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Refusal::UpstreamUnreachable)?;
        let id = format!("{:032x}", u128::from_be_bytes(random));
        let opened = self.shared.way.open(grant, &self.shared.settings).await;
        let opened = opened.inspect_err(|_| passage.unreachable())?;
        let (input, lines) = mpsc::channel(QUEUE);
        let session = Session::new(id, key, input, opened.group(), passage);
        let room = self.shared.sessions.insert(session.clone(), limits);
        if room.is_err() {
            session.close("no room");
        }
        self.shared.open.spawn(self.clone().look_after(session.clone(), opened, lines));
        close_for_room(&room?);
        Ok(session)
    }

    /// Serves a session's channel until it is gone.
    async fn look_after(
        self,
        session: Arc<Session>,
        opened: OpenedChannel,
        lines: mpsc::Receiver<Bytes>,
    ) {
        opened.serve(&session, lines, self.shared.settings.max_answer_bytes).await;
        session.close("closed");
        session.fail_all();
        self.shared.sessions.remove(&session.id);
    }

    async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            let all = self.shared.sessions.all();
            for session in all {
                if session.sweep(now, self.shared.settings.session_idle) {
                    tracing::info!("A session was idle for long: it ends");
                    session.close("idle");
                }
            }
            if let Some(max) = self.shared.settings.max_child_bytes {
                self.end_the_large(max).await;
            }
        }
    }

    /// Ends children that hold more memory than they may.
    async fn end_the_large(&self, max: u64) {
        let groups = match tokio::task::spawn_blocking(memory::by_group).await {
            Ok(Ok(groups)) => groups,
            Ok(Err(error)) => return tracing::error!(%error, "Cannot see what memory servers use"),
            Err(error) => return tracing::error!(%error, "Cannot see what memory servers use"),
        };
        for session in self.shared.sessions.all() {
            let held = session.group.and_then(|group| groups.get(&group)).copied();
            if let Some(bytes) = held.filter(|bytes| *bytes > max && !session.end.is_cancelled()) {
                tracing::warn!(bytes, max, "A server uses more memory than it may: it ends");
                session.kill("memory");
            }
        }
    }
}

/// Ends the sessions that make room for another.
fn close_for_room(ended: &[Arc<Session>]) {
    ended.iter().for_each(|session| session.close("made room"));
}
