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
    sessions,
    upstream::ID_IN_USE,
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

impl sessions::Session for Session {
    fn id(&self) -> &str {
        &self.id
    }

    fn key(&self) -> KeyId {
        self.key
    }

    fn is_alive(&self) -> bool {
        true // Only its server knows.
    }

    fn is_in_use(&self) -> bool {
        self.uses.load(Ordering::Relaxed) > 0
    }

    fn used(&self) -> Instant {
        *self.used.lock()
    }

    fn touch(&self) {
        *self.used.lock() = Instant::now();
    }
}

impl Session {
    /// One that the server has begun.
    pub fn new(id: &str, key: KeyId) -> Arc<Self> {
        let (requests, used) = (Mutex::default(), Mutex::new(Instant::now()));
        Arc::new(Self { id: id.to_owned(), key, requests, used, uses: AtomicUsize::new(0) })
    }

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
