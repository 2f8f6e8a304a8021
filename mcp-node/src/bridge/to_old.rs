//! Clients of 2026-07-28 in front of a server that speaks only older revisions, and of any server over stdio.
//!
//! Each request has a conversation with the server to itself (see [`Pool`]); it is begun with what the client says it
//! can do, so the server asks only what can be answered.

use std::sync::Arc;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use mcp_node_core::{
    Refusal,
    message::{Message, read},
    splice,
};
use schemas::Outcome;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Era, messages,
    parked::{Lot, Parked},
    pool::{Pool, Pooled},
    running::Running,
    subscriptions,
};
use crate::{
    http::{FIRST_MODERN, Kind, Post, RequestId, VERSION, answer},
    upstream::{Piece, Server, Tasks, UpstreamSettings, client::Client, told::Told},
};

/// What the new era does not have any more.
const GONE: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// What cannot be edited without a doubt is not edited.
const TWICE: Refusal =
    Refusal::InvalidRequest("A member that decides what is done stands more than once.");

/// The bridge of one server.
pub struct ToOld {
    pub(super) pool: Arc<Pool>,
    lot: Lot,
    tasks: Arc<Tasks>,
    settings: UpstreamSettings,
    pub(super) stopping: CancellationToken,
}

/// A request that the server works on.
struct Begun {
    conversation: Pooled,
    pieces: mpsc::Receiver<Piece>,
    wire: RequestId,
    /// By what name the server tells of its progress.
    token: Option<String>,
}

impl ToOld {
    pub fn new(server: &Arc<Server>, settings: UpstreamSettings) -> Self {
        let pool = Pool::new(server, settings);
        let (lot, tasks) = (Lot::default(), Arc::default());
        Self { pool, lot, tasks, settings, stopping: CancellationToken::new() }
    }

    /// Serves a posted message, for a server of this era.
    ///
    /// # Errors
    /// The method or revision is not one that can be served, the call was refused, or the server cannot be reached.
    pub async fn post(&self, post: Post, era: Era) -> Result<Response, Refusal> {
        let Kind::Request { id, method, .. } = &post.kind else {
            return Ok(StatusCode::ACCEPTED.into_response());
        };
        let version = post.inbound.headers.get(VERSION).and_then(|version| version.to_str().ok());
        if version != Some(FIRST_MODERN) {
            return Err(Refusal::UnsupportedVersion(version.unwrap_or_default().to_owned()));
        }
        let old = era == Era::Old;
        match method.as_str() {
            "server/discover" if old => self.discover(&post, id, era).await,
            "subscriptions/listen" if old => subscriptions::listen(self, &post, id, era).await,
            gone if GONE.contains(&gone) => Err(Refusal::MethodNotFound),
            tasks if old && tasks.starts_with("tasks/") => Err(Refusal::MethodNotFound),
            _ => self.call(post, era).await,
        }
    }

    /// Ends streams that would never end by themselves.
    pub fn end_streams(&self) {
        self.stopping.cancel();
    }

    /// Ends every conversation that no call has.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.lot.clear();
        self.pool.close().await;
    }

    /// A conversation for the request's client.
    pub(super) async fn conversation(&self, post: &Post, era: Era) -> Result<Pooled, Refusal> {
        let message = read(&post.body)?;
        let capabilities = match &message {
            Message::Request { about, .. } => about.meta.capabilities.unwrap_or("{}"),
            _ => "{}",
        };
        self.pool.take(&post.inbound.grant(), capabilities, era).await
    }

    async fn discover(&self, post: &Post, id: &RequestId, era: Era) -> Result<Response, Refusal> {
        let conversation = self.conversation(post, era).await?;
        let told = messages::discovered(&id.raw, conversation.hello());
        conversation.give_back();
        told.map(|told| answer::json(StatusCode::OK, told)).ok_or(Refusal::UpstreamInvalid)
    }

    async fn call(&self, post: Post, era: Era) -> Result<Response, Refusal> {
        let Kind::Request { id, method, .. } = post.kind.clone() else {
            return Err(Refusal::InvalidRequest("Only a request can be called."));
        };
        let (permit, asked) = (post.admit().await?, post.asks_for_task(&self.tasks));
        let told = permit.as_ref().map(Told::of).unwrap_or_default();
        let deadline = self.deadline(&method);
        let begun = match self.begin(&post, &id, era, deadline).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(again)) => {
                settle(permit, Outcome::InputRequired)?;
                return Ok(answer::json(StatusCode::OK, again));
            }
            Err(refusal) => {
                let timeout = refusal == Refusal::UpstreamTimeout;
                settle(permit, if timeout { Outcome::Timeout } else { Outcome::UpstreamError })?;
                return Err(refusal);
            }
        };
        let (client, response) = Client::new(told);
        let Begun { conversation, pieces, wire, token } = begun;
        let running = Running {
            conversation,
            pieces,
            wire,
            token,
            client_token: messages::progress_token(&post.body),
            id,
            key: post.inbound.caller.state().key,
            method,
            permit,
            asked,
            tasks: self.tasks.clone(),
            lot: self.lot.clone(),
            client,
            logs: wants_logs(&post.body),
            streaming: false,
            deadline,
        };
        tokio::spawn(running.run());
        response.await.map_err(|_| Refusal::UpstreamUnreachable)
    }

    /// Until when an answer must be there; a stream of subscriptions has no end of its own.
    fn deadline(&self, method: &str) -> Instant {
        const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);
        let patience =
            if method == "subscriptions/listen" { YEAR } else { self.settings.request_patience };
        Instant::now() + patience
    }

    /// Begins the request, or goes on with one that waited. `Ok(Err(..))` = what it waits for has not come yet.
    async fn begin(
        &self,
        post: &Post,
        id: &RequestId,
        era: Era,
        deadline: Instant,
    ) -> Result<Result<Begun, Bytes>, Refusal> {
        let key = post.inbound.caller.state().key;
        let params = messages::params(&post.body).unwrap_or_default();
        if let Some(state) = messages::text(&params, "requestState").filter(|_| era == Era::Old) {
            let parked = self.lot.take(&state, key)?;
            let Some(answers) =
                parked.answers(messages::object(&params, "inputResponses").as_ref())
            else {
                let request = parked.request(&state).to_string();
                self.lot.put_back(state, parked);
                return Ok(Err(messages::answer(&id.raw, &request)));
            };
            for answer in answers {
                parked.conversation.link().tell(answer).await?;
            }
            let Parked { conversation, pieces, wire, token, .. } = parked;
            return Ok(Ok(Begun { conversation, pieces, wire, token }));
        }
        // A session that the server has forgotten is begun anew, once: it cannot have run the request.
        for _ in 0..2 {
            let begun = self.ask(post, era, deadline).await?;
            if let Some(begun) = begun {
                return Ok(Ok(begun));
            }
        }
        Err(Refusal::UpstreamInvalid)
    }

    /// Asks in a conversation of the pool; `None` = the server does not know it any more.
    async fn ask(
        &self,
        post: &Post,
        era: Era,
        deadline: Instant,
    ) -> Result<Option<Begun>, Refusal> {
        let Kind::Request { method, target, .. } = &post.kind else { return Ok(None) };
        let conversation = self.conversation(post, era).await?;
        let wire = conversation.next_id();
        let body = splice::with_id(&post.body, &wire.raw);
        let body = body.and_then(|body| match era {
            Era::Old => messages::aged(&body),
            Era::New => Some(body),
        });
        let body = body.ok_or(TWICE)?;
        let new = (era == Era::New).then_some((method.as_str(), target.as_deref()));
        let link = conversation.link().within(&post.traced);
        let mut pieces = link.ask(&wire, body.into(), new, deadline).await?;
        // The first piece says whether the session is there.
        let first = tokio::time::timeout_at(deadline, pieces.recv()).await;
        match first.map_err(|_| Refusal::UpstreamTimeout)? {
            Some(Piece::Refused(Refusal::SessionNotFound)) => Ok(None),
            Some(first) => {
                let token = messages::progress_token(&post.body);
                Ok(Some(Begun { pieces: before(first, pieces), conversation, wire, token }))
            }
            None => Err(Refusal::UpstreamUnreachable),
        }
    }
}

/// The pieces, with one before them.
fn before(first: Piece, mut rest: mpsc::Receiver<Piece>) -> mpsc::Receiver<Piece> {
    let (to, pieces) = mpsc::channel(crate::upstream::FRAMES);
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(piece) = next {
            if to.send(piece).await.is_err() {
                return;
            }
            next = tokio::select! {
                piece = rest.recv() => piece,
                () = to.closed() => return,
            };
        }
    });
    pieces
}

fn wants_logs(body: &[u8]) -> bool {
    let params = messages::params(body);
    let meta = params.as_ref().and_then(|params| messages::object(params, "_meta"));
    meta.is_some_and(|meta| meta.contains_key(messages::META_LOG_LEVEL))
}

fn settle(permit: Option<crate::Permit>, outcome: Outcome) -> Result<(), Refusal> {
    let Some(permit) = permit else { return Ok(()) };
    permit.settle(outcome, 0).map_err(|_| Refusal::CannotRecord)
}
