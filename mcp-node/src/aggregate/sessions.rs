//! Sessions of clients with all servers: each bound to the key that began it, with a session of its own at each server.
//!
//! A server that has forgotten its part is greeted again with the client's own first words. Bounded as the sessions of
//! one server are: in number, and by how long nobody used them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
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
    request::{Inbound, Post},
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

    fn is_idle(&self, max: Duration) -> bool {
        Arc::strong_count(&self.uses) == 1 && self.used.lock().elapsed() >= max
    }
}

/// All sessions.
#[derive(Default)]
pub struct Sessions {
    by_id: Mutex<HashMap<String, Arc<Session>>>,
}

impl Sessions {
    /// The session that a request names; `None` = it names none.
    ///
    /// # Errors
    /// There is no such session, or it is another key's: the same answer to both.
    pub fn of(&self, inbound: &Inbound) -> Result<Option<Arc<Session>>, Refusal> {
        let Some(id) = inbound.session() else { return Ok(None) };
        let found = self.by_id.lock().get(id).cloned();
        let key = inbound.caller.state().key;
        let session = found.filter(|session| session.key == key).ok_or(Refusal::SessionNotFound)?;
        *session.used.lock() = Instant::now();
        Ok(Some(session))
    }

    /// Takes in a session.
    ///
    /// # Errors
    /// There are `max` already.
    pub fn add(&self, session: Arc<Session>, max: usize) -> Result<(), Refusal> {
        let mut by_id = self.by_id.lock();
        if by_id.len() >= max {
            return Err(Refusal::TooManySessions);
        }
        by_id.insert(session.id.clone(), session);
        measure(by_id.len());
        Ok(())
    }

    /// Gives up a session.
    pub fn remove(&self, id: &str) {
        let mut by_id = self.by_id.lock();
        by_id.remove(id);
        measure(by_id.len());
    }

    /// Gives up those that nobody used for so long, and returns them.
    pub fn take_idle(&self, max: Duration) -> Vec<Arc<Session>> {
        let mut by_id = self.by_id.lock();
        let idle = by_id.extract_if(|_, session| session.is_idle(max));
        let idle: Vec<Arc<Session>> = idle.map(|(_, session)| session).collect();
        measure(by_id.len());
        idle
    }
}

fn measure(open: usize) {
    metrics::gauge!("mcp_sessions_aggregated").set(u32::try_from(open).unwrap_or(u32::MAX));
}
