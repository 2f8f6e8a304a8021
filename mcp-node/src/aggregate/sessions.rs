//! Sessions of clients with all servers: each bound to the key that began it, with a session of its own at each server.
//!
//! A server that has forgotten its part is greeted again with the client's own first words. Bounded as the sessions of
//! one server are: in number, and by how long nobody used them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use axum::http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, COOKIE},
};
use mcp_node_core::{Refusal, message::IdKey};
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    request::Post,
    sessions,
    wire::{FIRST_MODERN, SESSION, VERSION},
};

/// Calls of one session whose server is remembered.
const MAX_CALLS: usize = 1_024;
/// The first revision that knows the header of its name.
const FIRST_NAMED: &str = "2025-06-18";

/// Where one server stands in a session.
#[derive(Debug)]
pub struct MemberSession {
    /// The server's own id of the session; `None` = it needs none.
    pub id: Option<HeaderValue>,
    /// The revision that it has agreed to.
    pub version: Option<String>,
}

impl MemberSession {
    /// Puts it on a request to that server, in the place of what the client says of ours.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.remove(SESSION);
        headers.remove(VERSION);
        if let Some(id) = &self.id {
            headers.insert(SESSION, id.clone());
        }
        let version =
            self.version.as_deref().filter(|version| (FIRST_NAMED..FIRST_MODERN).contains(version));
        if let Some(version) = version.and_then(|version| HeaderValue::from_str(version).ok()) {
            headers.insert(VERSION, version);
        }
    }
}

/// A server's part of a session; locked while it begins, so that it begins once.
pub type Part = Arc<tokio::sync::Mutex<Option<Arc<MemberSession>>>>;

/// One session.
pub struct Session {
    pub id: String,
    pub key: KeyId,
    /// The client's first request.
    pub hello: Post,
    parts: Mutex<HashMap<Arc<str>, Part>>,
    calls: Mutex<Calls>,
    /// How the client wants servers to log, as it said it.
    pub level: Mutex<Option<Post>>,
    used: Mutex<Instant>,
    /// Held by all that keeps it from being idle.
    uses: Arc<()>,
    /// Raised when it is over.
    pub end: CancellationToken,
}

/// Which server runs a call.
#[derive(Default)]
struct Calls {
    by_id: HashMap<IdKey, Arc<str>>,
    order: VecDeque<IdKey>,
}

impl sessions::Session for Session {
    fn id(&self) -> &str {
        &self.id
    }

    fn key(&self) -> KeyId {
        self.key
    }

    fn is_alive(&self) -> bool {
        !self.end.is_cancelled()
    }

    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.uses) > 1
    }

    fn used(&self) -> Instant {
        *self.used.lock()
    }

    fn touch(&self) {
        *self.used.lock() = Instant::now();
    }
}

impl Session {
    /// A session that begins with this request.
    ///
    /// # Errors
    /// The machine has no randomness.
    pub fn try_new(hello: &Post) -> Result<Arc<Self>, Refusal> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Refusal::UpstreamUnreachable)?;
        let mut hello = hello.untraced();
        for proof in [AUTHORIZATION.as_str(), "x-api-key", COOKIE.as_str()] {
            hello.inbound.headers.remove(proof); // It was needed once.
        }
        Ok(Arc::new(Self {
            id: format!("{:032x}", u128::from_be_bytes(random)),
            key: hello.inbound.caller.state().key,
            hello,
            parts: Mutex::default(),
            calls: Mutex::default(),
            level: Mutex::default(),
            used: Mutex::new(Instant::now()),
            uses: Arc::default(),
            end: CancellationToken::new(),
        }))
    }

    pub fn part(&self, server: &Arc<str>) -> Part {
        self.parts.lock().entry(server.clone()).or_default().clone()
    }

    /// Whether it has begun at a server.
    pub async fn has(&self, server: &Arc<str>) -> bool {
        self.part(server).lock().await.is_some()
    }

    /// A server runs this call.
    pub fn began(&self, id: &IdKey, server: &Arc<str>) {
        let mut calls = self.calls.lock();
        if calls.by_id.insert(id.clone(), server.clone()).is_none() {
            calls.order.push_back(id.clone());
        }
        while calls.order.len() > MAX_CALLS
            && let Some(oldest) = calls.order.pop_front()
        {
            calls.by_id.remove(&oldest);
        }
    }

    /// The server that runs a call.
    pub fn runs(&self, id: &IdKey) -> Option<Arc<str>> {
        self.calls.lock().by_id.get(id).cloned()
    }

    /// The call is answered; says whether it ran.
    pub fn ended(&self, id: &IdKey) -> bool {
        let mut calls = self.calls.lock();
        let ran = calls.by_id.remove(id).is_some();
        if ran {
            calls.order.retain(|known| known != id);
        }
        ran
    }

    /// Keeps it from being idle.
    pub fn in_use(&self) -> Arc<()> {
        self.uses.clone()
    }
}
