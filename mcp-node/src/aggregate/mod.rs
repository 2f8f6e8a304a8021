//! Several servers as one: lists are one list, a call goes to the server that its name's prefix says.
//!
//! Each server stays behind its own [`Upstream`]: its era, sessions, breaker, what is counted and recorded are that
//! one's doing. Here is only what several need: which of them a message is for, and one answer of many. What a client
//! is refused or counted for goes by the names that it knows, with their prefixes. Absent on purpose: names of our own
//! for resources, whose addresses the servers mean as they are.

mod ask;
mod back;
mod greet;
mod lists;
mod owners;
mod sessions;
mod streams;
mod subscriptions;
mod turns;

use std::{
    collections::HashSet,
    sync::{Arc, Weak, atomic::AtomicU64},
};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::future::join_all;
use mcp_node_core::{
    Refusal,
    aggregate::{
        list::List,
        names,
        tag::{self, About},
    },
    message::{IdKey, Message, read},
    splice,
};
use parking_lot::Mutex;
use schemas::KeyId;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    ask::MemberError,
    back::Back,
    owners::{ItemKind, Owners},
    sessions::Session,
};
use crate::{
    bridge::messages::{self, TWICE},
    request::{Inbound, Kind, Post},
    server::Upstream,
    sessions::SessionMap,
    upstream::UpstreamSettings,
    wire::{FIRST_MODERN, answer, era},
};

/// What the new era does not have any more.
const GONE: [&str; 5] =
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];
/// What is another list when servers come and go.
const LISTS: [&str; 3] = ["tools", "prompts", "resources"];

/// One of the servers.
#[derive(Clone)]
pub struct Member {
    pub name: Arc<str>,
    /// Stands before the names of its tools and prompts. See [`names::is_prefix`].
    pub prefix: String,
    pub upstream: Arc<Upstream>,
}

/// What stays when the servers change.
pub struct SharedState {
    sessions: SessionMap<Session>,
    owners: Owners,
    /// Names of which it was said that two servers have them.
    told: Mutex<HashSet<String>>,
    /// Numbers what the node asks of its own.
    asked: AtomicU64,
    /// The servers as they are now; `None` = not yet, or no more.
    now: watch::Sender<Option<Weak<Aggregate>>>,
    stopping: CancellationToken,
}

impl Default for SharedState {
    fn default() -> Self {
        Self {
            sessions: SessionMap::new(metrics::gauge!("mcp_sessions_aggregated")),
            owners: Owners::default(),
            told: Mutex::default(),
            asked: AtomicU64::default(),
            now: watch::Sender::default(),
            stopping: CancellationToken::new(),
        }
    }
}

/// Several servers as one.
pub struct Aggregate {
    members: Vec<Member>,
    /// One name can be for two of them.
    may_clash: bool,
    settings: UpstreamSettings,
    kept: Arc<SharedState>,
}

impl Aggregate {
    /// These servers, in this order.
    #[must_use]
    pub fn new(members: Vec<Member>, settings: UpstreamSettings) -> Arc<Self> {
        let all = Self::over(members, settings, Arc::default());
        all.announce();
        all
    }

    /// Other servers or prefixes in the place of these; sessions stay, with the servers that stay.
    #[must_use]
    pub fn changed(
        self: &Arc<Self>,
        members: Vec<Member>,
        settings: UpstreamSettings,
    ) -> Arc<Self> {
        let same = |(one, two): (&Member, &Member)| {
            one.name == two.name
                && one.prefix == two.prefix
                && Arc::ptr_eq(&one.upstream, &two.upstream)
        };
        let as_many = members.len() == self.members.len();
        if as_many && settings == self.settings && members.iter().zip(&self.members).all(same) {
            return self.clone();
        }
        Self::over(members, settings, self.kept.clone())
    }

    fn over(members: Vec<Member>, settings: UpstreamSettings, kept: Arc<SharedState>) -> Arc<Self> {
        let prefixes: Vec<&str> = members.iter().map(|member| &*member.prefix).collect();
        let may_clash = names::may_clash(&prefixes);
        Arc::new(Self { members, may_clash, settings, kept })
    }

    /// Tells those who listen that these are the servers now; new requests must meet them already.
    pub fn announce(self: &Arc<Self>) {
        self.kept.now.send_if_modified(|now| {
            let is_news = now.as_ref().is_none_or(|now| now.as_ptr() != Arc::as_ptr(self));
            if is_news {
                *now = Some(Arc::downgrade(self));
            }
            is_news
        });
    }

    /// The largest answer: that of all servers. Unit: bytes.
    #[must_use]
    pub fn max_answer_bytes(&self) -> usize {
        self.settings.max_answer_bytes.saturating_mul(self.members.len())
    }

    /// The most sessions at a time.
    #[must_use]
    pub fn max_sessions(&self) -> usize {
        self.settings.max_sessions
    }

    /// Ends the streams that would never end by themselves; calls go on.
    pub fn end_streams(&self) {
        self.kept.stopping.cancel();
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| &*member.name == name)
    }

    fn back(
        &self,
        session: Option<&Arc<Session>>,
        member: &Member,
        key: KeyId,
        id: Option<IdKey>,
    ) -> Back {
        let (kept, server) = (self.kept.clone(), member.name.clone());
        let max = self.settings.max_answer_bytes;
        Back { kept, server, session: session.cloned(), key, id, max }
    }

    /// Serves a posted message.
    ///
    /// # Errors
    /// The session is not the caller's, the call was refused, or no server can be reached.
    pub async fn post(self: &Arc<Self>, post: Post) -> Result<Response, Refusal> {
        let session = self.kept.sessions.named_by(&post.inbound)?;
        let _held = session.as_ref().map(|session| session.in_use());
        let session = session.as_ref();
        match &post.kind {
            Kind::Answer => self.heard(session, &post).await,
            Kind::Notification { cancels } => self.told(session, &post, cancels.as_ref()).await,
            Kind::Request { method, target, .. } => {
                self.check_era(&post, method)?;
                let target = target.as_deref();
                self.request(session, &post, method, target).await
            }
        }
    }

    fn check_era(&self, post: &Post, method: &str) -> Result<(), Refusal> {
        if !post.inbound.is_modern() {
            return Ok(());
        }
        match era::version(&post.inbound.headers) {
            Some(FIRST_MODERN) if GONE.contains(&method) => Err(Refusal::MethodNotFound),
            Some(FIRST_MODERN) => Ok(()),
            version => Err(Refusal::UnsupportedVersion(version.unwrap_or_default().to_owned())),
        }
    }

    async fn request(
        self: &Arc<Self>,
        session: Option<&Arc<Session>>,
        post: &Post,
        method: &str,
        target: Option<&str>,
    ) -> Result<Response, Refusal> {
        let wanted = |what| target.map(|name| (what, name.to_owned()));
        if let Some(list) = List::of(method) {
            return self.list(session, post, list).await;
        }
        match method {
            "initialize" if session.is_none() => self.initialize(post).await,
            "initialize" => Err(Refusal::InvalidRequest("This session has begun.")),
            "server/discover" => self.discover(post).await,
            "subscriptions/listen" if post.inbound.is_modern() => self.listen(post).await,
            "ping" => Ok(done(post)),
            "logging/setLevel" => self.set_level(session, post).await,
            "tools/call" => self.named(session, post, ItemKind::Tool, target).await,
            "prompts/get" => self.named(session, post, ItemKind::Prompt, target).await,
            "completion/complete" => self.complete(session, post).await,
            "resources/read" => self.in_turn(session, post, wanted(ItemKind::Resource)).await,
            "resources/subscribe" | "resources/unsubscribe" => {
                let params = messages::params(&post.body).unwrap_or_default();
                let uri = messages::text(&params, "uri").map(|uri| (ItemKind::Resource, uri));
                self.in_turn(session, post, uri).await
            }
            task if task.starts_with("tasks/") => {
                self.in_turn(session, post, wanted(ItemKind::Task)).await
            }
            _ => self.in_turn(session, post, None).await,
        }
    }

    /// Sends a call of a tool, or a request for a prompt, to the server that its name is for, by that server's name.
    async fn named(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
        what: ItemKind,
        name: Option<&str>,
    ) -> Result<Response, Refusal> {
        let missing = Refusal::InvalidParams("`params.name` must be a text of 1 to 512 bytes.");
        let name = name.ok_or(missing)?;
        let Some((member, own)) = self.whose(session, post, what, name).await else {
            return Ok(unknown(post, what, name));
        };
        let mut sent = post.clone();
        sent.body = names::with_name(&post.body, own).ok_or(TWICE)?.into();
        if let Kind::Request { target, .. } = &mut sent.kind {
            *target = Some(own.to_owned());
        }
        if sent.inbound.headers.contains_key("mcp-name") {
            sent.inbound.headers.insert("mcp-name", era::mirroring(own));
        }
        self.forward(session, member, &sent).await
    }

    async fn complete(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
    ) -> Result<Response, Refusal> {
        match tag::completes(&post.body).map_err(|_| TWICE)? {
            Some(About::Prompt(name)) => {
                let whose = self.whose(session, post, ItemKind::Prompt, &name).await;
                let Some((member, own)) = whose else {
                    return Ok(unknown(post, ItemKind::Prompt, &name));
                };
                let mut sent = post.clone();
                sent.body = names::with_ref_name(&post.body, own).ok_or(TWICE)?.into();
                self.forward(session, member, &sent).await
            }
            Some(About::Resource(uri)) => {
                self.in_turn(session, post, Some((ItemKind::Resource, uri))).await
            }
            None => self.in_turn(session, post, None).await,
        }
    }

    /// Tells every server how to log; who logs nothing does not count.
    async fn set_level(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
    ) -> Result<Response, Refusal> {
        if let Some(session) = session {
            *session.level.lock() = Some(post.untraced());
        }
        let asking = self.members.iter().map(|member| self.answered(session, member, post));
        let mut first = None;
        for answered in join_all(asking).await {
            match answered {
                Ok(_) => return Ok(done(post)),
                Err(no) if first.as_ref().is_none_or(MemberError::is_none_here) => first = Some(no),
                Err(_) => {}
            }
        }
        first.map_or_else(|| Ok(done(post)), |no| no.answer(false))
    }

    /// The client has answered what a server asked: the id says which.
    async fn heard(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
    ) -> Result<Response, Refusal> {
        let accepted = Ok(StatusCode::ACCEPTED.into_response());
        let Ok(Message::Answer { id: Some(id), .. }) = read(&post.body) else { return accepted };
        let Some((server, own)) = tag::id_of(id.raw) else { return accepted };
        let Some(member) = self.member(&server) else { return accepted };
        let mut sent = post.clone();
        sent.body = splice::with_id(&post.body, &own).ok_or(TWICE)?.into();
        self.ask(session, member, &sent).await.map(stripped)
    }

    /// The client tells: what it cancels, the server that runs it; anything else, all.
    async fn told(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
        cancels: Option<&IdKey>,
    ) -> Result<Response, Refusal> {
        let runs = cancels.zip(session).and_then(|(id, session)| session.runs(id));
        let told = self
            .members
            .iter()
            .filter(|member| runs.as_ref().is_none_or(|runs| *runs == member.name));
        let telling = told.map(|member| async move {
            if let Some(session) = session
                && !session.has(&member.name).await
            {
                return; // It would hear of what it knows nothing about.
            }
            if let Err(refusal) = self.ask(session, member, post).await {
                tracing::debug!(
                    server = &*member.name,
                    reason = refusal.reason(),
                    "A notice is lost"
                );
            }
        });
        join_all(telling).await;
        Ok(StatusCode::ACCEPTED.into_response())
    }

    /// Ends a session.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub async fn delete(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        let missing = Refusal::InvalidRequest("The header Mcp-Session-Id is missing.");
        let session = self.kept.sessions.named_by(inbound)?.ok_or(missing)?;
        self.kept.sessions.remove(&session.id);
        self.end(&session).await;
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}

fn stripped(mut response: Response) -> Response {
    ask::strip(&mut response);
    response
}

fn done(post: &Post) -> Response {
    let Kind::Request { id, .. } = &post.kind else { return StatusCode::ACCEPTED.into_response() };
    answer::json(StatusCode::OK, messages::answer(&id.raw, "{}"))
}

/// A name that no server can have, as servers say it.
fn unknown(post: &Post, what: ItemKind, name: &str) -> Response {
    let Kind::Request { id, .. } = &post.kind else { return StatusCode::ACCEPTED.into_response() };
    let kind = if what == ItemKind::Tool { "tool" } else { "prompt" };
    let error = json!({ "code": -32602, "message": format!("Unknown {kind}: {name}") });
    let body = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.raw);
    answer::json(StatusCode::OK, body)
}
