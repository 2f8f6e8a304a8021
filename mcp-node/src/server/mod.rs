//! The server behind this node, for clients of either era: the way to it, and the bridge to its era.
//!
//! Absent on purpose: which of several servers a request is for (the door knows), and how a call is driven.

mod older;

use std::sync::Arc;

use axum::{body::Body, http::StatusCode, response::Response};
use bytes::BytesMut;
use futures::{StreamExt, stream};
use mcp_node_core::{
    Refusal,
    message::{Answer, Message, read},
    sse::{self, Splitter},
};

use self::older::LegacyTransport;
use crate::{
    bridge::{Era, Eras, LegacyServerAdapter, ModernServerAdapter},
    request::{Inbound, Kind, Post},
    upstream::{Server, UpstreamSettings},
};

/// The server behind this node, for clients of either era.
pub struct Upstream {
    server: Arc<Server>,
    eras: Eras,
    to_old: LegacyServerAdapter,
    to_new: ModernServerAdapter,
    /// The largest answer. Unit: bytes.
    max: usize,
    max_sessions: usize,
    /// The same server, if it should turn out to speak the transport of 2024-11-05.
    older: Option<LegacyTransport>,
    /// What it is called where there are several.
    name: Option<Arc<str>>,
}

impl Upstream {
    /// A server, and its bridge.
    #[must_use]
    pub fn new(server: Server, settings: UpstreamSettings) -> Self {
        let server = Arc::new(server);
        let (to_old, to_new) = (
            LegacyServerAdapter::new(&server, settings),
            ModernServerAdapter::new(&server, settings),
        );
        let (max, max_sessions) = (settings.max_answer_bytes, settings.max_sessions);
        let (eras, older, name) = (Eras::default(), None, None);
        Self { server, eras, to_old, to_new, max, max_sessions, older, name }
    }

    /// The same, with a name to tell it from the other servers of its node.
    #[must_use]
    pub fn named(self, name: Option<&str>) -> Self {
        Self { name: name.map(Arc::from), ..self }
    }

    /// What it is called where there are several.
    #[must_use]
    pub fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    /// The largest answer, or event of a stream. Unit: bytes.
    #[must_use]
    pub fn max_answer_bytes(&self) -> usize {
        self.max
    }

    /// The most sessions at a time.
    #[must_use]
    pub fn max_sessions(&self) -> usize {
        self.max_sessions
    }

    /// Serves a posted message.
    ///
    /// # Errors
    /// The session is not the caller's, the call was refused, or the server cannot be reached.
    pub async fn post(&self, post: Post) -> Result<Response, Refusal> {
        if let Some(older) = self.is_older() {
            return older.post_boxed(post).await;
        }
        // What has no answer goes on: a client may still cancel what runs.
        if let (Server::Http(http), Kind::Request { .. }) = (&*self.server, &post.kind)
            && let Err(refusal) = http.check(post.inbound.caller.state().key)
        {
            post.refused(&refusal);
            return Err(refusal);
        }
        if post.inbound.is_modern() {
            let is_known = self.eras.known().is_some();
            let era = self.eras.of(&self.server).await?;
            if era == Era::Old
                && !is_known
                && let Some(older) = self.find_older(&post).await
            {
                return older.post_boxed(post).await;
            }
            return match (era, &*self.server) {
                (Era::New, Server::Http(http)) => http.post(post).await,
                (era, _) => self.to_old.post(post, era).await,
            };
        }
        if self.to_new.has(&post.inbound) {
            return self.to_new.post(post).await;
        }
        match &post.kind {
            Kind::Request { method, .. }
                if method == "initialize" && post.inbound.session().is_none() =>
            {
                self.initialize(post).await
            }
            _ => self.plain(post).await,
        }
    }

    async fn plain(&self, post: Post) -> Result<Response, Refusal> {
        match &*self.server {
            Server::Http(http) => http.post(post).await,
            Server::Duplex(duplex) => duplex.post(post).await,
        }
    }

    /// Begins a session of the old era. Only a server that refuses it is asked whether it speaks another.
    async fn initialize(&self, post: Post) -> Result<Response, Refusal> {
        let Kind::Request { id, .. } = post.kind.clone() else { return self.plain(post).await };
        let answered = self.plain(post.clone()).await;
        if older::is_asked(&answered)
            && let Some(older) = self.find_older(&post).await
        {
            return older.post_boxed(post).await;
        }
        let begun = match answered {
            Ok(response) => self.looked_at(response).await,
            Err(Refusal::UpstreamInvalid) => Err(Err(Refusal::UpstreamInvalid)),
            refused => return refused,
        };
        match begun {
            Ok(begun) => Ok(begun),
            Err(refused) => match self.eras.of(&self.server).await {
                Ok(Era::New) => self.to_new.initialize(&post, &id).await,
                _ => refused,
            },
        }
    }

    /// Whether a session has begun; if not, what the server said instead. The answer is read as far as it must be.
    async fn looked_at(&self, response: Response) -> Result<Response, Result<Response, Refusal>> {
        if response.status() == StatusCode::GATEWAY_TIMEOUT {
            return Ok(response); // It says nothing at all: another question would be another wait.
        }
        if !response.status().is_success() {
            return Err(Ok(response));
        }
        let (head, body) = response.into_parts();
        let (mut rest, mut seen) = (body.into_data_stream(), BytesMut::new());
        let failed = loop {
            let Some(Ok(chunk)) = rest.next().await else { break false };
            seen.extend_from_slice(&chunk);
            if let Some(failed) = is_error(&seen, self.max) {
                break failed;
            }
            if seen.len() > self.max {
                return Err(Err(Refusal::UpstreamInvalid));
            }
        };
        let whole = stream::iter([Ok(seen.freeze())]).chain(rest);
        let response = Response::from_parts(head, Body::from_stream(whole));
        if failed { Err(Ok(response)) } else { Ok(response) }
    }

    /// Opens a session's own stream.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub async fn get(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        if let Some(older) = self.is_older() {
            return older.get_boxed(inbound).await;
        }
        if self.to_new.has(inbound) {
            return self.to_new.get(inbound);
        }
        match &*self.server {
            Server::Http(http) => http.get(inbound).await,
            Server::Duplex(duplex) => duplex.get(inbound),
        }
    }

    /// Ends a session.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub async fn delete(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        if let Some(older) = self.is_older() {
            return older.delete_boxed(inbound).await;
        }
        if self.to_new.has(inbound) {
            return self.to_new.delete(inbound).await;
        }
        match &*self.server {
            Server::Http(http) => http.delete(inbound).await,
            Server::Duplex(duplex) => duplex.delete(inbound),
        }
    }

    /// Ends the streams that would never end by themselves; calls go on.
    pub fn end_streams(&self) {
        if let Some(older) = &self.older {
            older.upstream().end_streams();
        }
        self.to_old.end_streams();
        self.to_new.end_streams();
        match &*self.server {
            Server::Http(http) => http.stop(),
            Server::Duplex(_) => {} // They end with their sessions, which running calls need.
        }
    }

    /// Ends streams, sessions and children: the node stops.
    pub async fn stop(&self) {
        if let Some(older) = &self.older {
            older.upstream().stop_boxed().await;
        }
        self.to_old.stop().await;
        self.to_new.stop().await;
        match &*self.server {
            Server::Http(http) => http.stop(),
            Server::Duplex(duplex) => duplex.stop().await,
        }
    }
}

/// Whether the answer in a body, JSON or a stream, is an error; `None` = it is not there yet.
fn is_error(body: &[u8], max: usize) -> Option<bool> {
    let error = |message: &[u8]| match read(message) {
        Ok(Message::Answer { answer, .. }) => Some(answer == Answer::Error),
        _ => None,
    };
    let mut splitter = Splitter::new(max);
    splitter.push(body);
    let mut frames = std::iter::from_fn(|| splitter.next_frame().ok().flatten());
    error(body).or_else(|| frames.find_map(|frame| error(&sse::data(&frame)?)))
}
