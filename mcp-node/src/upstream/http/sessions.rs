//! Sessions that the server has begun, each bound to the key that began it, and the calls that run in them.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mcp_node_core::{Refusal, message::IdKey};
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::time::Instant;

use crate::{
    http::Inbound,
    upstream::{ID_IN_USE, UpstreamSettings, slot::Slot},
};

/// One session.
pub struct Session {
    pub id: String,
    key: KeyId,
    calls: Mutex<HashMap<IdKey, Arc<Slot>>>,
    used: Mutex<Instant>,
    /// Streams and calls that keep it from being idle.
    uses: AtomicUsize,
}

/// Keeps a session from being idle.
pub struct InUse(Arc<Session>);

impl Drop for InUse {
    fn drop(&mut self) {
        *self.0.used.lock() = Instant::now();
        self.0.uses.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Whether a call with this id may begin.
    ///
    /// # Errors
    /// One with this id is running: their answers could not be told apart. One that is settled is not running: its
    /// client has the answer, or is about to.
    pub fn check_free(&self, id: &IdKey) -> Result<(), Refusal> {
        let running = self.calls.lock().get(id).is_some_and(|slot| !slot.is_settled());
        if running { Err(ID_IN_USE) } else { Ok(()) }
    }

    /// Begins a call.
    ///
    /// # Errors
    /// As for [`Session::check_free`].
    pub fn begin(&self, id: &IdKey, slot: &Arc<Slot>) -> Result<(), Refusal> {
        match self.calls.lock().entry(id.clone()) {
            Entry::Occupied(running) if !running.get().is_settled() => Err(ID_IN_USE),
            Entry::Occupied(mut settled) => {
                settled.insert(slot.clone());
                Ok(())
            }
            Entry::Vacant(place) => {
                place.insert(slot.clone());
                Ok(())
            }
        }
    }

    pub fn call(&self, id: &IdKey) -> Option<Arc<Slot>> {
        self.calls.lock().get(id).cloned()
    }

    /// Ends a call, unless another has its id by now.
    pub fn end(&self, id: &IdKey, slot: &Arc<Slot>) {
        let mut calls = self.calls.lock();
        if calls.get(id).is_some_and(|found| Arc::ptr_eq(found, slot)) {
            calls.remove(id);
        }
    }

    /// The client does not want an answer any more.
    pub fn cancel(&self, id: &IdKey) {
        if let Some(slot) = self.call(id) {
            slot.cancel();
        }
    }

    pub fn in_use(self: &Arc<Self>) -> InUse {
        self.uses.fetch_add(1, Ordering::Relaxed);
        InUse(self.clone())
    }
}

/// The sessions of one server.
pub struct Sessions {
    settings: UpstreamSettings,
    by_id: Mutex<HashMap<String, Arc<Session>>>,
}

impl Sessions {
    pub fn new(settings: UpstreamSettings) -> Self {
        Self { settings, by_id: Mutex::default() }
    }

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

    /// A session began.
    ///
    /// # Errors
    /// There are too many, or the server gave one id to two keys.
    pub fn bind(&self, id: &str, key: KeyId) -> Result<(), Refusal> {
        let mut by_id = self.by_id.lock();
        if let Some(session) = by_id.get(id) {
            return if session.key == key { Ok(()) } else { Err(Refusal::UpstreamInvalid) };
        }
        let before = by_id.len();
        if before >= self.settings.max_sessions {
            let idle = self.settings.session_idle;
            by_id.retain(|_, session| {
                session.uses.load(Ordering::Relaxed) > 0 || session.used.lock().elapsed() < idle
            });
        }
        count(before, by_id.len());
        if by_id.len() >= self.settings.max_sessions {
            return Err(Refusal::TooManySessions);
        }
        let (calls, used, uses) =
            (Mutex::default(), Mutex::new(Instant::now()), AtomicUsize::new(0));
        by_id
            .insert(id.to_owned(), Arc::new(Session { id: id.to_owned(), key, calls, used, uses }));
        count(0, 1);
        Ok(())
    }

    pub fn forget(&self, id: &str) {
        let mut by_id = self.by_id.lock();
        if by_id.remove(id).is_some() {
            count(1, 0);
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        count(self.by_id.get_mut().len(), 0);
    }
}

/// Shows how many sessions there are, at this server and the others.
fn count(before: usize, after: usize) {
    let gauge = metrics::gauge!("mcp_sessions");
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match after.checked_sub(before) {
        Some(more) => gauge.increment(number(more)),
        None => gauge.decrement(number(before - after)),
    }
}
