//! The sessions of one server, or of several as one: each is its key's, and is found by its id.
//!
//! Invariants: who names another key's session hears that there is none; where there are as many as may be, the key that
//! has most makes room with the one that it used least lately, so that no key shuts another out, and one that never
//! ends its sessions loses its own oldest. One that is in use is never ended so. Absent on purpose: what runs in a
//! session, and how one ends at its server (whoever holds the map ends what it is given back).

use std::{collections::HashMap, sync::Arc, time::Duration};

use mcp_node_core::Refusal;
use metrics::Gauge;
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::time::Instant;

use crate::request::Inbound;

/// A session, as far as its map is concerned.
pub trait Session: Send + Sync {
    fn id(&self) -> &str;

    /// Who began it.
    fn key(&self) -> KeyId;

    /// It can still be used.
    fn is_alive(&self) -> bool;

    /// Something runs in it, or listens to it.
    fn is_in_use(&self) -> bool;

    /// When it was used last.
    fn used(&self) -> Instant;

    /// It is used now.
    fn touch(&self);
}

/// How many sessions there may be, and for how long without use.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    pub max: usize,
    pub idle: Duration,
}

/// The sessions.
pub struct SessionMap<S> {
    by_id: Mutex<HashMap<String, Arc<S>>>,
    gauge: Gauge,
}

impl<S: Session> SessionMap<S> {
    /// No sessions; `gauge` shows how many there are.
    pub fn new(gauge: Gauge) -> Self {
        Self { by_id: Mutex::default(), gauge }
    }

    /// The session that a request names; `None` = it names none.
    ///
    /// # Errors
    /// There is no such session, or it is another key's: the same answer to both.
    pub fn named_by(&self, inbound: &Inbound) -> Result<Option<Arc<S>>, Refusal> {
        let Some(id) = inbound.session() else { return Ok(None) };
        let found = self.by_id.lock().get(id).cloned();
        let key = inbound.caller.state().key;
        let session = found.filter(|session| session.key() == key && session.is_alive());
        let session = session.ok_or(Refusal::SessionNotFound)?;
        session.touch();
        Ok(Some(session))
    }

    /// Whether there is one of this id, whosoever it is.
    pub fn has(&self, id: &str) -> bool {
        self.by_id.lock().contains_key(id)
    }

    /// Takes in a session, where a server named it. Gives back those that must end for it.
    ///
    /// # Errors
    /// There is no room, or another key has one of this id.
    pub fn insert(&self, session: Arc<S>, limits: SessionLimits) -> Result<Vec<Arc<S>>, Refusal> {
        let mut by_id = self.by_id.lock();
        if let Some(known) = by_id.get(session.id()) {
            let is_own = known.key() == session.key();
            return if is_own { Ok(Vec::new()) } else { Err(Refusal::UpstreamInvalid) };
        }
        let ended = self.room_in(&mut by_id, session.key(), limits)?;
        by_id.insert(session.id().to_owned(), session);
        self.gauge.increment(1);
        Ok(ended)
    }

    /// Makes room for one more of this key, before it is begun. Gives back those that must end for it.
    ///
    /// # Errors
    /// There is none to be made.
    pub fn make_room(&self, key: KeyId, limits: SessionLimits) -> Result<Vec<Arc<S>>, Refusal> {
        self.room_in(&mut self.by_id.lock(), key, limits)
    }

    fn room_in(
        &self,
        by_id: &mut HashMap<String, Arc<S>>,
        key: KeyId,
        limits: SessionLimits,
    ) -> Result<Vec<Arc<S>>, Refusal> {
        if by_id.len() < limits.max {
            return Ok(Vec::new());
        }
        let mut ended = self.take_idle_of(by_id, limits.idle);
        if by_id.len() < limits.max {
            return Ok(ended);
        }
        let given_up = least_lately_used_of_the_largest(by_id, key);
        let session = given_up.and_then(|id| by_id.remove(&id)).ok_or(Refusal::TooManySessions)?;
        self.gauge.decrement(1);
        tracing::warn!(
            key = %session.key(),
            max = limits.max,
            "Session ended: its key has most of those that may be open"
        );
        ended.push(session);
        Ok(ended)
    }

    /// Gives up a session.
    pub fn remove(&self, id: &str) -> Option<Arc<S>> {
        let removed = self.by_id.lock().remove(id);
        if removed.is_some() {
            self.gauge.decrement(1);
        }
        removed
    }

    /// Gives up those that nobody has used for so long, or that cannot be used any more.
    pub fn take_idle(&self, idle: Duration) -> Vec<Arc<S>> {
        self.take_idle_of(&mut self.by_id.lock(), idle)
    }

    fn take_idle_of(&self, by_id: &mut HashMap<String, Arc<S>>, idle: Duration) -> Vec<Arc<S>> {
        let is_over = |session: &S| {
            !session.is_alive() || !session.is_in_use() && session.used().elapsed() >= idle
        };
        let over = by_id.extract_if(|_, session| is_over(session));
        let over: Vec<Arc<S>> = over.map(|(_, session)| session).collect();
        over.iter().for_each(|_| self.gauge.decrement(1));
        over
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<S>> {
        self.by_id.lock().values().cloned().collect()
    }

    /// Gives up all.
    pub fn take_all(&self) -> Vec<Arc<S>> {
        let all = std::mem::take(&mut *self.by_id.lock());
        all.iter().for_each(|_| self.gauge.decrement(1));
        all.into_values().collect()
    }
}

impl<S> Drop for SessionMap<S> {
    fn drop(&mut self) {
        self.by_id.get_mut().values().for_each(|_| self.gauge.decrement(1));
    }
}

/// The session that makes room for one more of `key`: of the key that has most, and of `key` itself where no other has
/// more than it would have; `None` = all of those are in use, or each key has one.
fn least_lately_used_of_the_largest<S: Session>(
    by_id: &HashMap<String, Arc<S>>,
    key: KeyId,
) -> Option<String> {
    let mut of_keys = HashMap::<KeyId, usize>::new();
    for session in by_id.values() {
        *of_keys.entry(session.key()).or_default() += 1;
    }
    let own = of_keys.get(&key).copied().unwrap_or_default();
    let (largest, most) = of_keys.into_iter().max_by_key(|(_, sessions)| *sessions)?;
    let from = if most > own + 1 { largest } else { key };
    let unused = by_id.values().filter(|session| session.key() == from && !session.is_in_use());
    unused.min_by_key(|session| session.used()).map(|session| session.id().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One {
        id: String,
        key: KeyId,
        used: Mutex<Instant>,
        in_use: bool,
    }

    impl Session for One {
        fn id(&self) -> &str {
            &self.id
        }
        fn key(&self) -> KeyId {
            self.key
        }
        fn is_alive(&self) -> bool {
            true
        }
        fn is_in_use(&self) -> bool {
            self.in_use
        }
        fn used(&self) -> Instant {
            *self.used.lock()
        }
        fn touch(&self) {
            *self.used.lock() = Instant::now();
        }
    }

    const LIMITS: SessionLimits = SessionLimits { max: 4, idle: Duration::from_secs(60) };

    fn key(number: u128) -> KeyId {
        KeyId(uuid::Uuid::from_u128(number))
    }

    /// Sessions by their ids: of the key that the id begins with; one in capitals is in use.
    fn insert(map: &SessionMap<One>, id: &str) -> Result<Vec<String>, Refusal> {
        let number = id.to_lowercase().bytes().next().unwrap().into();
        let in_use = id.chars().all(char::is_uppercase);
        // Each a little later than the ones before.
        let later = Duration::from_millis(map.all().len().try_into().unwrap());
        let used = Mutex::new(Instant::now() + later);
        let one = One { id: id.to_owned(), key: key(number), used, in_use };
        let ended = map.insert(Arc::new(one), LIMITS)?;
        Ok(ended.iter().map(|session| session.id.clone()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_most_makes_room_and_nobody_else() {
        #[track_caller]
        fn check(before: &[&str], new: &str, expected: Option<&[&str]>) {
            let map = SessionMap::new(Gauge::noop());
            for id in before {
                insert(&map, id).unwrap();
            }
            let found = insert(&map, new);
            let found = found.as_ref().map(|ended| ended.iter().map(String::as_str).collect());
            assert_eq!(found.ok(), expected.map(<[&str]>::to_vec), "{before:?} and {new}");
        }
        check(&["a1", "a2", "b1"], "c1", Some(&[]));
        check(&["a1", "a2", "a3", "b1"], "c1", Some(&["a1"]));
        check(&["a1", "a2", "b1", "b2"], "a3", Some(&["a1"]));
        check(&["a1", "a2", "a3", "a4"], "a5", Some(&["a1"]));
        check(&["a1", "a2", "a3", "b1"], "b2", Some(&["a1"]));
        check(&["A", "AA", "AAA", "b1"], "c1", None);
        check(&["A", "AA", "a3", "b1"], "c1", Some(&["a3"]));
        check(&["a1", "b1", "c1", "d1"], "e1", None);
        check(&["a1", "a2", "a3", "a4"], "a4", Some(&[]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_idle_for_long_goes_first() {
        let map = SessionMap::new(Gauge::noop());
        for id in ["b1", "a1", "A"] {
            insert(&map, id).unwrap();
        }
        tokio::time::advance(LIMITS.idle + Duration::from_secs(1)).await;
        insert(&map, "a2").unwrap();
        assert_eq!(insert(&map, "c1").unwrap().len(), 2, "b1 and a1; A is in use");
        assert!(map.has("A") && map.has("a2") && !map.has("a1"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_stays_with_the_key_that_had_it_first() {
        let map = SessionMap::new(Gauge::noop());
        insert(&map, "a1").unwrap();
        let other = One {
            id: "a1".to_owned(),
            key: key(9),
            used: Mutex::new(Instant::now()),
            in_use: false,
        };
        assert_eq!(map.insert(Arc::new(other), LIMITS).err(), Some(Refusal::UpstreamInvalid));
    }
}
