//! Every key that this node knows, found by the digest of its secret.
//!
//! Invariants: of two states of one key the one with the higher `as_of` holds, whatever the order they come in;
//! a key that changes tells its leases at once. A look-up takes one hash and a read lock that 64 others share the
//! load of; nothing here is locked while a call runs. Absent on purpose: where states come from (see `watch`).

mod behaviour;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use mcp_node_core::{Action, LeaseBook, gate, rate_limit::Rate};
use parking_lot::{Mutex, RwLock};
use schemas::{KeyDigest, KeyId, KeyState, KeyStatus, Timestamp};
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use self::behaviour::Behaviour;

/// No secret is longer. Unit: bytes.
const LONGEST_SECRET: usize = 512;
const STRIPES: usize = 64;

/// One key: its state and its leases.
pub struct KeyEntry {
    digest: KeyDigest,
    state: RwLock<Arc<KeyState>>,
    pub(crate) book: Mutex<LeaseBook>,
    /// How fast it called here. Never locked together with the book.
    pub(crate) rate: Mutex<Rate>,
    /// How it keeps to its rate.
    pub(crate) behaviour: Behaviour,
    /// A lease came or was refused, or the state changed: who waits should try again.
    pub(crate) changed: Notify,
    /// Calls that wait for a lease.
    waiting: AtomicU32,
    /// Whether the ticker looks after its leases. Locked before the book, where both are.
    pub(crate) ticking: Mutex<bool>,
}

impl KeyEntry {
    fn new(state: Arc<KeyState>) -> Self {
        let book = LeaseBook::new(state.key, may_spend(&state), state.limited, state.as_of);
        Self {
            digest: state.digest,
            state: RwLock::new(state),
            book: Mutex::new(book),
            rate: Mutex::default(),
            behaviour: Behaviour::default(),
            changed: Notify::new(),
            waiting: AtomicU32::new(0),
            ticking: Mutex::new(false),
        }
    }

    /// Its state as of now.
    #[must_use]
    pub fn state(&self) -> Arc<KeyState> {
        self.state.read().clone()
    }

    /// A place among the calls that wait for a lease; `None` = `max` wait already.
    pub(crate) fn start_waiting(self: &Arc<Self>, max: u32) -> Option<Waiting> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        // Dropped, it gives its place back, also where there was none.
        let waiting = Waiting(self.clone());
        (before < max).then_some(waiting)
    }
}

/// A place among the calls of a key that wait for a lease.
pub(crate) struct Waiting(Arc<KeyEntry>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn may_spend(state: &KeyState) -> bool {
    state.status == KeyStatus::Active
}

type Stripe = RwLock<HashMap<u128, Arc<KeyEntry>>>;

/// All keys.
pub struct Keys {
    stripes: [Stripe; STRIPES],
    /// A key has more than one entry while it is rotated.
    by_id: RwLock<HashMap<KeyId, Vec<Arc<KeyEntry>>>>,
}

impl Default for Keys {
    fn default() -> Self {
        Self { stripes: std::array::from_fn(|_| Stripe::default()), by_id: RwLock::default() }
    }
}

/// What the maps go by: half of the digest. The other half is compared in constant time.
fn index(digest: &KeyDigest) -> (usize, u128) {
    let (stripe, rest) = (usize::from(digest.0[0]) % STRIPES, &digest.0[..16]);
    (stripe, u128::from_be_bytes(rest.try_into().expect("16 of 32 bytes")))
}

impl Keys {
    /// The key whose secret this is.
    #[must_use]
    pub fn find(&self, secret: &str) -> Option<Arc<KeyEntry>> {
        if secret.len() > LONGEST_SECRET {
            return None;
        }
        let digest = KeyDigest::of(secret);
        let (stripe, place) = index(&digest);
        let known = self.stripes[stripe].read().get(&place).cloned()?;
        bool::from(known.digest.0.ct_eq(&digest.0)).then_some(known)
    }

    /// Every entry of a key.
    #[must_use]
    pub fn of(&self, key: KeyId) -> Vec<Arc<KeyEntry>> {
        self.by_id.read().get(&key).cloned().unwrap_or_default()
    }

    /// The entry of a key to serve a caller by that showed no secret: one that serves, else the one to refuse it by;
    /// of several, as while a key is rotated, the one that lasts longest.
    #[must_use]
    pub fn best(&self, key: KeyId, now: Timestamp) -> Option<Arc<KeyEntry>> {
        let rank = |known: &Arc<KeyEntry>| {
            let state = known.state();
            let ends = state.expires_at.map_or(i64::MAX, |end| end.0);
            (gate::check_key(&state, now).is_ok(), ends, state.as_of)
        };
        self.by_id.read().get(&key)?.iter().max_by_key(|known| rank(known)).cloned()
    }

    /// Takes in a state. Returns the key with what its leases ask for, if the state is news.
    pub fn apply(&self, state: KeyState) -> Option<(Arc<KeyEntry>, Vec<Action>)> {
        let (stripe, place) = index(&state.digest);
        let state = Arc::new(state);
        let mut stripe = self.stripes[stripe].write();
        let Some(known) = stripe.get(&place).cloned() else {
            let known = Arc::new(KeyEntry::new(state.clone()));
            stripe.insert(place, known.clone());
            drop(stripe);
            self.by_id.write().entry(state.key).or_default().push(known.clone());
            return Some((known, Vec::new()));
        };
        drop(stripe);
        let mut actions = Vec::new();
        {
            // The state moves under the book's lock, so that nobody spends by one and is gated by the other.
            let mut book = known.book.lock();
            let mut held = known.state.write();
            if state.as_of <= held.as_of {
                return None;
            }
            book.key_changed(may_spend(&state), state.limited, state.as_of, &mut actions);
            *held = state;
        }
        known.changed.notify_waiters();
        Some((known, actions))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.read().len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does something with every key.
    pub fn for_each(&self, mut each: impl FnMut(&Arc<KeyEntry>)) {
        for stripe in &self.stripes {
            let keys: Vec<Arc<KeyEntry>> = stripe.read().values().cloned().collect();
            keys.iter().for_each(&mut each);
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::{ProjectId, Shard, TenantId};
    use uuid::Uuid;

    use super::*;

    fn state(secret: &str, status: KeyStatus, as_of: u64) -> KeyState {
        KeyState {
            key: KeyId(Uuid::from_u128(1)),
            tenant: TenantId(Uuid::nil()),
            project: ProjectId(Uuid::nil()),
            shard: Shard(0),
            digest: KeyDigest::of(secret),
            status,
            reason: String::new(),
            plan: None,
            scopes: vec![],
            tools: None,
            expires_at: None,
            rate: None,
            limited: false,
            as_of,
        }
    }

    #[test]
    fn a_key_is_found_by_its_secret_and_nothing_else() {
        let keys = Keys::default();
        keys.apply(state("tb_a", KeyStatus::Active, 1));
        assert!(keys.find("tb_a").is_some());
        for other in ["", "tb_b", "tb_a ", &"x".repeat(1000)] {
            assert!(keys.find(other).is_none(), "{other}");
        }
        let mut near = state("tb_a", KeyStatus::Active, 1);
        near.digest.0[31] ^= 1;
        let (stripe, place) = index(&near.digest);
        let impostor = Arc::new(KeyEntry::new(Arc::new(near)));
        keys.stripes[stripe].write().insert(place, impostor);
        assert!(keys.find("tb_a").is_none(), "the whole digest must match");
    }

    #[test]
    fn the_highest_as_of_holds_in_whatever_order_states_come() {
        let keys = Keys::default();
        keys.apply(state("tb_a", KeyStatus::Active, 5));
        assert!(keys.apply(state("tb_a", KeyStatus::Pending, 4)).is_none());
        assert!(keys.apply(state("tb_a", KeyStatus::Suspended, 5)).is_none());
        assert_eq!(keys.find("tb_a").unwrap().state().status, KeyStatus::Active);
        assert!(keys.apply(state("tb_a", KeyStatus::Revoked, 6)).is_some());
        assert_eq!(keys.find("tb_a").unwrap().state().status, KeyStatus::Revoked);
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn a_key_with_two_secrets_is_one_key() {
        let keys = Keys::default();
        keys.apply(state("tb_old", KeyStatus::Active, 1));
        keys.apply(state("tb_new", KeyStatus::Active, 2));
        let key = KeyId(Uuid::from_u128(1));
        assert_eq!(keys.of(key).len(), 2);
        let mut old = state("tb_old", KeyStatus::Active, 3);
        old.expires_at = Some(Timestamp(100));
        keys.apply(old);
        let best = |now| keys.best(key, Timestamp(now)).unwrap().state().digest;
        assert_eq!(best(0), KeyDigest::of("tb_new"), "it lasts longer");
        keys.apply(state("tb_new", KeyStatus::Revoked, 4));
        assert_eq!(best(0), KeyDigest::of("tb_old"), "it serves");
        assert!(keys.best(KeyId(Uuid::from_u128(2)), Timestamp(0)).is_none());
    }
}
