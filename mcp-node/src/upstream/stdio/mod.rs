//! A server that speaks over standard input and output: one child process a session.
//!
//! A child has one client, as its author expects: its requests, its samplings and its state never mix with another
//! caller's. Such servers know no sessions of their own; the id is ours. Absent on purpose: the revision without
//! sessions (2026-07-28 and later), whose clients come through the bridge.

mod child;
mod lines;
mod memory;
mod session;
mod streams;

use std::{collections::HashMap, process::ExitStatus, sync::Arc, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use mcp_node_core::Refusal;
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::child::ServerCommand;
pub(crate) use self::session::{Pieces, Session};
use self::{
    child::{Started, until_gone},
    lines::{log_lines, read_lines, write_lines},
    session::QUEUE,
    streams::{ChildAnswer, answered, takes_events},
};
use super::{UpstreamSettings, breaker::CircuitBreaker};
use crate::{
    call::{ClientEnd, Driver, InFlightCall, Owed, QuotaHints, Tasks},
    http::{Inbound, Kind, Post, RequestId, SESSION},
};

/// How often sessions are looked at.
const SWEEP: Duration = Duration::from_millis(500);
/// How long the output of a child that is gone is read on.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The command and its running children.
#[derive(Clone)]
pub struct StdioUpstream {
    shared: Arc<Shared>,
}

struct Shared {
    command: ServerCommand,
    settings: UpstreamSettings,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    tasks: Arc<Tasks>,
    /// Whether another child is started.
    starts: Arc<CircuitBreaker>,
    stopping: CancellationToken,
    children: TaskTracker,
}

impl StdioUpstream {
    /// Children of `command`. Must be called within the runtime.
    #[must_use]
    pub fn new(command: ServerCommand, settings: UpstreamSettings) -> Self {
        let starts = CircuitBreaker::of_starts(&command.program);
        let shared = Shared {
            command,
            settings,
            sessions: Mutex::default(),
            tasks: Arc::default(),
            starts,
            stopping: CancellationToken::new(),
            children: TaskTracker::new(),
        };
        let upstream = Self { shared: Arc::new(shared) };
        let (swept, stopping) = (upstream.clone(), upstream.shared.stopping.clone());
        tokio::spawn(async move { stopping.run_until_cancelled(swept.sweep()).await });
        upstream
    }

    /// Serves a posted message.
    ///
    /// # Errors
    /// There is no such session of this caller, the call was refused, or the child is gone.
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
        let owed = match (permit, poll) {
            (Some(permit), _) => {
                Owed::Call(Arc::new(InFlightCall::new(permit, &self.shared.tasks, false)))
            }
            (None, Some(poll)) => Owed::Task(poll),
            (None, None) => Owed::Nothing,
        };
        let deadline = Instant::now() + self.shared.settings.request_patience;
        let streams = takes_events(&post.inbound);
        let asked = session.request(id, &post.body, streams, deadline).await?;
        let Pieces { pieces, cancelled } = asked;
        let (client, response) = ClientEnd::new(hints);
        let source = ChildAnswer::new(session, id, pieces);
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

    /// Ends all sessions and waits until every child is gone.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        let all: Vec<_> = self.shared.sessions.lock().values().cloned().collect();
        all.iter().for_each(|session| session.close("stopped"));
        self.shared.children.close();
        self.shared.children.wait().await;
    }

    fn session(&self, inbound: &Inbound) -> Result<Arc<Session>, Refusal> {
        let id = inbound
            .session()
            .ok_or(Refusal::InvalidRequest("The header Mcp-Session-Id is missing."))?;
        let found = self.shared.sessions.lock().get(id).cloned();
        let key = inbound.caller.state().key;
        found
            .filter(|session| session.key == key && !session.end.is_cancelled())
            .ok_or(Refusal::SessionNotFound)
    }

    /// Begins a session; it stays if the server takes it and the client is still there.
    async fn initialize(&self, post: &Post, id: &RequestId) -> Result<Response, Refusal> {
        let session = self.begin(post.inbound.caller.state().key).await?;
        let guard = session.end.clone().drop_guard();
        let deadline = Instant::now() + self.shared.settings.request_patience;
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

    /// Starts a child for a session of a key.
    pub(crate) async fn begin(&self, key: KeyId) -> Result<Arc<Session>, Refusal> {
        if self.shared.stopping.is_cancelled() {
            return Err(Refusal::Draining);
        }
        if self.shared.sessions.lock().len() >= self.shared.settings.max_sessions {
            return Err(Refusal::TooManySessions);
        }
        let mut passage = self.shared.starts.enter(None)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Refusal::UpstreamUnreachable)?;
        let id = format!("{:032x}", u128::from_be_bytes(random));
        let started = self.shared.command.start().await.map_err(|error| {
            tracing::error!(%error, program = self.shared.command.program, "Cannot start the server");
            passage.unreachable();
            metrics::counter!("mcp_child_ends_total", "why" => "not_started").increment(1);
            Refusal::UpstreamUnreachable
        })?;
        let (input, lines) = mpsc::channel(QUEUE);
        metrics::counter!("mcp_child_starts_total").increment(1);
        let session = Session::new(id.clone(), key, input, started.child.id(), passage);
        self.shared.sessions.lock().insert(id, session.clone());
        count(1.0);
        self.shared.children.spawn(self.clone().look_after(session.clone(), started, lines));
        Ok(session)
    }

    /// Serves a session's child until it is gone.
    async fn look_after(
        self,
        session: Arc<Session>,
        started: Started,
        lines: mpsc::Receiver<Bytes>,
    ) {
        let Started { child, stdin, stdout, stderr } = started;
        let end = session.end.clone();
        // Its input closes as soon as the session ends: that is how a server is asked to go.
        let writing =
            tokio::spawn(end.clone().run_until_cancelled_owned(write_lines(stdin, lines)));
        let most = self.shared.settings.max_answer_bytes;
        let mut reading = {
            let session = session.clone();
            tokio::spawn(end.clone().run_until_cancelled_owned(async move {
                read_lines(stdout, most, &session).await;
                session.close(SILENT);
            }))
        };
        tokio::spawn(log_lines(stderr));
        let (status, by_itself) = until_gone(child, end.clone(), session.at_once.clone()).await;
        let why = ended_why(session.why(), status, by_itself);
        // Its last words may still lie in the pipe, which has an end now that the whole group is gone.
        let read = tokio::time::timeout(LAST_WORDS, &mut reading).await;
        end.cancel();
        let failed = [writing.await.err(), read.ok().and_then(Result::err)];
        for task in failed.into_iter().flatten() {
            tracing::error!(%task, "A task of a session has failed");
        }
        if matches!(why, "exited" | "crashed" | "memory") {
            session.failed_to_start();
        }
        metrics::counter!("mcp_child_ends_total", "why" => why).increment(1);
        session.fail_all();
        self.shared.sessions.lock().remove(&session.id);
        count(-1.0);
    }

    async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            let all: Vec<_> = self.shared.sessions.lock().values().cloned().collect();
            for session in all {
                if session.sweep(now, self.shared.settings.session_idle) {
                    tracing::info!("A session was idle for long: it ends");
                    session.close("idle");
                }
            }
            if let Some(most) = self.shared.settings.max_child_bytes {
                self.end_the_large(most).await;
            }
        }
    }

    /// Ends children that hold more memory than they may.
    async fn end_the_large(&self, most: u64) {
        let groups = match tokio::task::spawn_blocking(memory::by_group).await {
            Ok(Ok(groups)) => groups,
            Ok(Err(error)) => return tracing::error!(%error, "Cannot see what memory servers use"),
            Err(error) => return tracing::error!(%error, "Cannot see what memory servers use"),
        };
        for session in self.shared.sessions.lock().values() {
            let held = session.group.and_then(|group| groups.get(&group)).copied();
            if let Some(bytes) = held.filter(|bytes| *bytes > most && !session.end.is_cancelled()) {
                tracing::warn!(bytes, most, "A server uses more memory than it may: it ends");
                session.kill("memory");
            }
        }
    }
}

/// Shows how many children there are, of this server and the others; each is a session.
fn count(change: f64) {
    metrics::gauge!("mcp_sessions").increment(change);
    metrics::gauge!("mcp_children").increment(change);
}

/// What a child says whose output has ended.
const SILENT: &str = "silent";

/// Why a child is gone, in one word.
fn ended_why(
    said: Option<&'static str>,
    status: Option<ExitStatus>,
    by_itself: bool,
) -> &'static str {
    match said {
        Some(why) if why != SILENT => why,
        None if !by_itself => "closed",
        _ if status.is_some_and(|status| status.success()) => "exited",
        _ => "crashed",
    }
}
