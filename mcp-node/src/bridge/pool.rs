//! Conversations that have begun and that nobody uses, by key and by what its client can do.
//!
//! One call at a time has a conversation to itself, so whatever the server says meanwhile belongs to that call, and no
//! id or progress token of two clients can meet. The one that was used last goes first: a client that calls one tool
//! after the other stays with one session. Absent on purpose: conversations whose call did not end; they are ended.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use mcp_node_core::{
    Refusal,
    message::{Message, read},
};
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::time::Instant;

use super::{
    Era,
    link::{Conversation, Link, wire_id},
};
use crate::{
    access::Grant,
    request::Post,
    upstream::{Server, UpstreamSettings},
    wire::RequestId,
};

type PoolKey = (KeyId, String);

/// Conversations with one server.
pub struct Pool {
    server: Arc<Server>,
    settings: UpstreamSettings,
    idle: Mutex<HashMap<PoolKey, Vec<PooledLink>>>,
    open: AtomicUsize,
}

struct PooledLink {
    link: Link,
    era: Era,
    hello: Bytes,
    asked: AtomicU64,
    since: Instant,
}

/// A conversation in use. Dropped, it is ended; see [`Pooled::give_back`].
pub struct Pooled {
    pool: Arc<Pool>,
    place: PoolKey,
    held: Option<PooledLink>,
    /// It is open, but another's now.
    given_back: bool,
}

impl Pool {
    pub fn new(server: &Arc<Server>, settings: UpstreamSettings) -> Arc<Self> {
        let (idle, open) = (Mutex::default(), AtomicUsize::new(0));
        Arc::new(Self { server: server.clone(), settings, idle, open })
    }

    /// A conversation for a caller whose client can do so and so (JSON).
    ///
    /// # Errors
    /// There are too many, or the server does not begin one.
    pub async fn take(
        self: &Arc<Self>,
        grant: &Grant,
        capabilities: &str,
        era: Era,
    ) -> Result<Pooled, Refusal> {
        let place = (grant.caller.state().key, capabilities.to_owned());
        if let Some(mut held) = self.idle_one(&place) {
            held.link = held.link.speaking_for(grant);
            return Ok(Pooled { pool: self.clone(), place, held: Some(held), given_back: false });
        }
        self.make_room().await;
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        // From here on it is counted, and dropping it counts it off.
        let mut pooled = Pooled { pool: self.clone(), place, held: None, given_back: false };
        if before >= self.settings.max_sessions {
            return Err(Refusal::TooManySessions);
        }
        let begun = Conversation::begin(&self.server, Some(grant), capabilities, Some(era)).await?;
        let Conversation { link, era, hello } = begun;
        pooled.held =
            Some(PooledLink { link, era, hello, asked: AtomicU64::new(1), since: Instant::now() });
        Ok(pooled)
    }

    /// A conversation for a request's client.
    ///
    /// # Errors
    /// As for [`Pool::take`].
    pub async fn conversation(self: &Arc<Self>, post: &Post, era: Era) -> Result<Pooled, Refusal> {
        let message = read(&post.body)?;
        let capabilities = match &message {
            Message::Request { about, .. } => about.meta.capabilities.unwrap_or("{}"),
            _ => "{}",
        };
        self.take(&post.inbound.grant(), capabilities, era).await
    }

    fn idle_one(&self, place: &PoolKey) -> Option<PooledLink> {
        let mut idle = self.idle.lock();
        let held = idle.get_mut(place)?;
        while let Some(found) = held.pop() {
            if found.link.is_alive() {
                return Some(found);
            }
            self.open.fetch_sub(1, Ordering::AcqRel);
        }
        idle.remove(place);
        None
    }

    /// Ends what was idle for long; when there are too many, all that is idle.
    async fn make_room(&self) {
        let full = self.open.load(Ordering::Acquire) >= self.settings.max_sessions;
        let max = self.settings.session_idle;
        let mut ended = vec![];
        self.idle.lock().retain(|_, held| {
            let is_old =
                |held: &PooledLink| full || held.since.elapsed() >= max || !held.link.is_alive();
            let (old, kept): (Vec<PooledLink>, Vec<PooledLink>) = held.drain(..).partition(is_old);
            *held = kept;
            ended.extend(old);
            !held.is_empty()
        });
        for held in ended {
            self.open.fetch_sub(1, Ordering::AcqRel);
            held.link.close().await;
        }
    }

    /// Ends all that is idle.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        for held in idle.into_values().flatten() {
            self.open.fetch_sub(1, Ordering::AcqRel);
            held.link.close().await;
        }
    }
}

impl Pooled {
    fn held(&self) -> &PooledLink {
        self.held.as_ref().expect("it is held until it is given back or dropped")
    }

    pub fn link(&self) -> &Link {
        &self.held().link
    }

    pub fn era(&self) -> Era {
        self.held().era
    }

    /// The server's answer to our greeting.
    pub fn hello(&self) -> &Bytes {
        &self.held().hello
    }

    /// An id that no request of this conversation had.
    pub fn next_id(&self) -> RequestId {
        wire_id(self.held().asked.fetch_add(1, Ordering::Relaxed))
    }

    /// The request has ended: the next may have it.
    pub fn give_back(mut self) {
        if let Some(mut held) = self.held.take() {
            held.since = Instant::now();
            self.pool.idle.lock().entry(self.place.clone()).or_default().push(held);
        }
        self.given_back = true;
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.given_back {
            return;
        }
        self.pool.open.fetch_sub(1, Ordering::AcqRel);
        if let Some(held) = self.held.take() {
            tokio::spawn(async move { held.link.close().await });
        }
    }
}
