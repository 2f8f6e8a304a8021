//! Sessions that the server has begun, each bound to the key that began it, and the requests that run in them.
//!
//! An answer may come on a session's own stream, where a client resumes what broke off. There it passes only if it is
//! the answer to a call that is open (it is recorded then), the very answer that was recorded before, or the answer to a
//! request that is free and whose id no unanswered call had: a call that was given up stays without its answer.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use lru::LruCache;
use mcp_node_core::{
    Refusal, billable,
    message::{Answer, IdKey},
};
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::time::Instant;

use crate::{
    call::{DeliveryDecision, InFlightCall, in_flight::digest},
    request::Inbound,
    upstream::{ID_IN_USE, UpstreamSettings},
};

/// The most recorded answers, and the most free requests, that a session knows to pass again.
const MAX_REPLAYS: usize = 1_024;
/// The most unanswered calls of a session that are remembered; with more, no free answer passes on its own stream.
const MAX_UNANSWERED: usize = 4_096;

/// The requests of a session by their ids.
struct Requests {
    calls: HashMap<IdKey, Arc<InFlightCall>>,
    /// The digests of answers that were recorded.
    recorded: LruCache<IdKey, u64>,
    free: LruCache<IdKey, ()>,
    unanswered: HashSet<IdKey>,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            calls: HashMap::new(),
            recorded: LruCache::unbounded(),
            free: LruCache::unbounded(),
            unanswered: HashSet::new(),
        }
    }
}

/// One session.
pub struct Session {
    pub id: String,
    key: KeyId,
    requests: Mutex<Requests>,
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
        let running = self.requests.lock().calls.get(id).is_some_and(|call| !call.is_settled());
        if running { Err(ID_IN_USE) } else { Ok(()) }
    }

    /// Begins a call.
    ///
    /// # Errors
    /// As for [`Session::check_free`].
    pub fn begin(&self, id: &IdKey, call: &Arc<InFlightCall>) -> Result<(), Refusal> {
        let mut requests = self.requests.lock();
        match requests.calls.entry(id.clone()) {
            Entry::Occupied(running) if !running.get().is_settled() => return Err(ID_IN_USE),
            Entry::Occupied(mut settled) => drop(settled.insert(call.clone())),
            Entry::Vacant(free) => drop(free.insert(call.clone())),
        }
        requests.free.pop(id);
        Ok(())
    }

    /// Begins a request that is free: its answer may come on the session's own stream.
    pub fn begin_free(&self, id: &IdKey) {
        let mut requests = self.requests.lock();
        if !requests.unanswered.contains(id) {
            requests.free.put(id.clone(), ());
            if requests.free.len() > MAX_REPLAYS {
                requests.free.pop_lru();
            }
        }
    }

    /// An answer came that is not on the stream of its own request: recorded if it is owed. Says whether it may pass.
    ///
    /// # Errors
    /// It could not be recorded.
    pub fn answered(
        &self,
        id: &IdKey,
        answer: Answer<'_>,
        message: &[u8],
    ) -> Result<DeliveryDecision, Refusal> {
        let call = self.requests.lock().calls.get(id).cloned();
        if let Some(call) = call {
            let settled = call.settle_as(billable::outcome(answer), message);
            return settled.map_err(|_| Refusal::CannotRecord);
        }
        let mut requests = self.requests.lock();
        let again = requests.recorded.get(id).is_some_and(|known| *known == digest(message));
        let free = requests.unanswered.len() < MAX_UNANSWERED && requests.free.get(id).is_some();
        Ok(match (free, again) {
            (true, _) => DeliveryDecision::Deliver,
            (false, true) => DeliveryDecision::Again,
            (false, false) => DeliveryDecision::Withhold,
        })
    }

    /// Ends a call, unless another has its id by now.
    pub fn end(&self, id: &IdKey, call: &Arc<InFlightCall>) {
        let mut requests = self.requests.lock();
        if !requests.calls.get(id).is_some_and(|found| Arc::ptr_eq(found, call)) {
            return;
        }
        requests.calls.remove(id);
        match call.recorded_answer() {
            Some(digest) => {
                requests.recorded.put(id.clone(), digest);
                if requests.recorded.len() > MAX_REPLAYS {
                    requests.recorded.pop_lru();
                }
            }
            None if requests.unanswered.len() < MAX_UNANSWERED => {
                requests.unanswered.insert(id.clone());
            }
            None => {}
        }
    }

    /// The client does not want an answer any more.
    pub fn cancel(&self, id: &IdKey) {
        if let Some(call) = self.requests.lock().calls.get(id) {
            call.cancel();
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
        if by_id.len() >= self.settings.max_sessions {
            make_room(&mut by_id, key);
        }
        count(before, by_id.len());
        if by_id.len() >= self.settings.max_sessions {
            return Err(Refusal::TooManySessions);
        }
        let (requests, used) = (Mutex::default(), Mutex::new(Instant::now()));
        let uses = AtomicUsize::new(0);
        let session = Session { id: id.to_owned(), key, requests, used, uses };
        by_id.insert(id.to_owned(), Arc::new(session));
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

/// Ends the session that was used least lately of the key that has most, if that has more than `key` would have.
fn make_room(by_id: &mut HashMap<String, Arc<Session>>, key: KeyId) {
    let mut of_keys = HashMap::<KeyId, usize>::new();
    for session in by_id.values() {
        *of_keys.entry(session.key).or_default() += 1;
    }
    let own = of_keys.get(&key).copied().unwrap_or_default();
    let Some((largest, max)) = of_keys.into_iter().max_by_key(|(_, sessions)| *sessions) else {
        return;
    };
    if max <= own + 1 {
        return;
    }
    let unused = |session: &&Arc<Session>| {
        session.key == largest && session.uses.load(Ordering::Relaxed) == 0
    };
    let oldest = by_id.values().filter(unused).min_by_key(|session| *session.used.lock());
    if let Some(id) = oldest.map(|session| session.id.clone()) {
        tracing::warn!(key = %largest, sessions = max, "Session ended: its key has most of those that may be open");
        by_id.remove(&id);
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
