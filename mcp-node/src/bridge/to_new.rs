//! Clients of older revisions in front of a server that speaks 2026-07-28 alone.
//!
//! The session is ours: the server knows none. What the client said of itself at the beginning is said again with every
//! request; what the server needs (`input_required`) is asked of the client in the middle of its call, as it expects.
//! One call of the client is one call, however many rounds the server needs: it is recorded once, at its end.

mod modern_call;
mod session;

use std::sync::Arc;

use axum::{
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use mcp_node_core::{
    Refusal,
    message::{Message, read},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{modern_call::ModernCall, session::Session};
use super::{Era, link::Conversation, messages};
use crate::{
    call::{ClientEnd, Driver, PendingRecord, QuotaHints, Tasks},
    request::{Inbound, Kind, Post},
    sessions::SessionMap,
    upstream::{Server, UpstreamSettings},
    wire::{RequestId, SESSION, answer},
};

/// The bridge of one server.
pub struct ModernServerAdapter {
    server: Arc<Server>,
    settings: UpstreamSettings,
    tasks: Arc<Tasks>,
    sessions: SessionMap<Session>,
    stopping: CancellationToken,
}

impl ModernServerAdapter {
    pub fn new(server: &Arc<Server>, settings: UpstreamSettings) -> Self {
        let sessions = SessionMap::new(metrics::gauge!("mcp_sessions_bridged"));
        let tasks = Arc::default();
        Self {
            server: server.clone(),
            settings,
            tasks,
            sessions,
            stopping: CancellationToken::new(),
        }
    }

    /// Whether the session that a request names was begun here.
    pub fn has(&self, inbound: &Inbound) -> bool {
        inbound.session().is_some_and(|id| self.sessions.has(id))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// There are too many, or the server cannot be reached.
    pub async fn initialize(&self, post: &Post, id: &RequestId) -> Result<Response, Refusal> {
        self.sweep().await;
        let key = post.inbound.caller.state().key;
        let limits = self.settings.sessions();
        close(self.sessions.make_room(key, limits)?).await;
        let said = messages::params(&post.body).unwrap_or_default();
        let raw =
            |name: &str, other: &str| said.get(name).map_or(other, |raw| raw.get()).to_owned();
        let capabilities = raw("capabilities", "{}");
        let client = said.get("clientInfo").map(|raw| raw.get());
        let grant = post.inbound.grant();
        let opened =
            Conversation::begin(&self.server, Some(&grant), &capabilities, Some(Era::New)).await?;
        let version = messages::text(&said, "protocolVersion").unwrap_or_default();
        let told = messages::initialized(&id.raw, &opened.hello, &version);
        let told = told.ok_or(Refusal::UpstreamInvalid)?;
        let session = Session::new(key, opened.link, messages::meta(&capabilities, client))?;
        let mut response = answer::json(StatusCode::OK, told);
        let name = HeaderValue::from_str(&session.id).expect("an id of ours is hexadecimal");
        response.headers_mut().insert(SESSION, name);
        match self.sessions.insert(session.clone(), limits) {
            Ok(ended) => close(ended).await,
            Err(refusal) => {
                session.close().await;
                return Err(refusal);
            }
        }
        Ok(response)
    }

    /// Serves a message of a session.
    ///
    /// # Errors
    /// There is no such session of this caller, or the call was refused.
    pub async fn post(&self, post: Post) -> Result<Response, Refusal> {
        let session = self.session(&post.inbound)?;
        match &post.kind {
            Kind::Answer => {
                if let Ok(Message::Answer { id: Some(id), .. }) = read(&post.body) {
                    session.heard(&id.key(), post.body.clone());
                }
                Ok(StatusCode::ACCEPTED.into_response())
            }
            Kind::Notification { cancels } => {
                if let Some(id) = cancels {
                    session.cancel(id);
                }
                Ok(StatusCode::ACCEPTED.into_response())
            }
            Kind::Request { id, method, target, .. } => {
                let done = answer::json(StatusCode::OK, messages::answer(&id.raw, "{}"));
                match method.as_str() {
                    "ping" => Ok(done),
                    "logging/setLevel" => {
                        session.set_level(&post.body)?;
                        Ok(done)
                    }
                    "resources/subscribe" => {
                        session.subscribe(target_uri(&post)?, true);
                        Ok(done)
                    }
                    "resources/unsubscribe" => {
                        session.subscribe(target_uri(&post)?, false);
                        Ok(done)
                    }
                    _ => {
                        let (id, method, target) = (id.clone(), method.clone(), target.clone());
                        self.call(session, post, id, method, target).await
                    }
                }
            }
        }
    }

    async fn call(
        &self,
        session: Arc<Session>,
        post: Post,
        id: RequestId,
        method: String,
        target: Option<String>,
    ) -> Result<Response, Refusal> {
        let cancelled = session.begin(&id.key)?;
        let permit = match post.admit().await {
            Ok(permit) => permit,
            Err(refusal) => {
                session.end(&id.key);
                return Err(refusal);
            }
        };
        let hints = permit.as_ref().map(QuotaHints::of).unwrap_or_default();
        let owed = PendingRecord::new(permit, None, &self.tasks);
        let (client, response) = ClientEnd::new(hints);
        let deadline = Instant::now() + self.settings.request_timeout;
        let link = session.link.speaking_for(&post.inbound.grant()).within(&post.traced);
        let what = (method, target);
        let source = ModernCall::new(session, link, post.body, id.clone(), what, deadline);
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
        Ok(session.stream(self.stopping.child_token()))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub async fn delete(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        let session = self.session(inbound)?;
        self.sessions.remove(&session.id);
        session.close().await;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// Ends streams that would never end by themselves.
    pub fn end_streams(&self) {
        self.stopping.cancel();
    }

    /// Ends all sessions.
    pub async fn stop(&self) {
        self.stopping.cancel();
        close(self.sessions.take_all()).await;
    }

    fn session(&self, inbound: &Inbound) -> Result<Arc<Session>, Refusal> {
        self.sessions.named_by(inbound)?.ok_or(Refusal::SessionNotFound)
    }

    /// Ends sessions that nobody used for long, or whose server is gone.
    async fn sweep(&self) {
        close(self.sessions.take_idle(self.settings.session_idle)).await;
    }
}

async fn close(ended: Vec<Arc<Session>>) {
    for session in ended {
        session.close().await;
    }
}

fn target_uri(post: &Post) -> Result<String, Refusal> {
    let uri = messages::params(&post.body).and_then(|params| messages::text(&params, "uri"));
    uri.ok_or(Refusal::InvalidParams("`params.uri` must name a resource."))
}
