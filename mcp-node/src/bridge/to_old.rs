//! Clients of 2026-07-28 in front of a server that speaks only older revisions, and of any server over stdio.
//!
//! Each request has a conversation with the server to itself (see [`Pool`]); it is begun with what the client says it
//! can do, so the server asks only what can be answered.

use std::sync::Arc;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use mcp_node_core::Refusal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Era, legacy_call::LegacyCall, messages, parked::PendingInputs, pool::Pool, subscriptions,
};
use crate::{
    call::{ClientEnd, Driver, PendingRecord, QuotaHints, Tasks},
    request::{Kind, Post},
    upstream::{Server, UpstreamSettings},
    wire::{FIRST_MODERN, RequestId, VERSION, answer},
};

/// What the new era does not have any more.
const GONE: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// The bridge of one server.
pub struct LegacyServerAdapter {
    pub(super) pool: Arc<Pool>,
    lot: PendingInputs,
    tasks: Arc<Tasks>,
    settings: UpstreamSettings,
    pub(super) stopping: CancellationToken,
}

impl LegacyServerAdapter {
    pub fn new(server: &Arc<Server>, settings: UpstreamSettings) -> Self {
        let pool = Pool::new(server, settings);
        let (lot, tasks) = (PendingInputs::default(), Arc::default());
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

    async fn discover(&self, post: &Post, id: &RequestId, era: Era) -> Result<Response, Refusal> {
        let conversation = self.pool.conversation(post, era).await?;
        let told = messages::discovered(&id.raw, conversation.hello());
        conversation.give_back();
        told.map(|told| answer::json(StatusCode::OK, told)).ok_or(Refusal::UpstreamInvalid)
    }

    async fn call(&self, post: Post, era: Era) -> Result<Response, Refusal> {
        let Kind::Request { id, method, .. } = post.kind.clone() else {
            return Err(Refusal::InvalidRequest("Only a request can be called."));
        };
        let (permit, poll) = (post.admit().await?, post.asks_for_task(&self.tasks));
        let hints = permit.as_ref().map(QuotaHints::of).unwrap_or_default();
        let owed = PendingRecord::new(permit, poll, &self.tasks);
        let deadline = self.deadline(&method);
        let source = LegacyCall::new(&self.pool, &self.lot, era, deadline, post);
        let source = source.expect("a request was looked at above");
        let (client, response) = ClientEnd::new(hints);
        let cancelled = CancellationToken::new();
        let driver = Driver { owed, id, client, source, gone_cancels: true, cancelled, deadline };
        tokio::spawn(driver.run());
        response.await.map_err(|_| Refusal::UpstreamUnreachable)
    }

    /// Until when an answer must be there; a stream of subscriptions has no end of its own.
    fn deadline(&self, method: &str) -> Instant {
        const YEAR: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);
        let timeout =
            if method == "subscriptions/listen" { YEAR } else { self.settings.request_timeout };
        Instant::now() + timeout
    }
}
