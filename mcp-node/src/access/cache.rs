//! A bounded memory of what costs a signature to know.
//!
//! Two generations a stripe: when the young one is full it becomes the old one, and what is used again becomes young
//! again. So the memory holds at most so many entries, and a look-up is one hash. Absent on purpose: when an entry ends;
//! who asks looks at that.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
};

use parking_lot::Mutex;

const STRIPES: usize = 16;

struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

/// A memory of at most so many entries.
pub struct Cache<K, V> {
    hasher: RandomState,
    /// Entries of one generation of one stripe.
    max: usize,
    stripes: [Mutex<Generations<K, V>>; STRIPES],
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// A memory of about `max` entries, at least 32.
    pub fn new(max: usize) -> Self {
        let empty = || Generations { young: HashMap::new(), old: HashMap::new() };
        let stripes = std::array::from_fn(|_| Mutex::new(empty()));
        Self { hasher: RandomState::new(), max: (max / STRIPES / 2).max(1), stripes }
    }

    fn stripe(&self, key: &K) -> &Mutex<Generations<K, V>> {
        let hash = self.hasher.hash_one(key).to_le_bytes();
        &self.stripes[usize::from(hash[0]) % STRIPES]
    }

    /// What is known of a key.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut stripe = self.stripe(key).lock();
        if let Some(found) = stripe.young.get(key) {
            return Some(found.clone());
        }
        let (key, found) = stripe.old.remove_entry(key)?;
        stripe.put(self.max, key, found.clone());
        Some(found)
    }

    /// Remembers; what was known of the key is forgotten.
    pub fn put(&self, key: K, value: V) {
        let mut stripe = self.stripe(&key).lock();
        stripe.old.remove(&key);
        stripe.put(self.max, key, value);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            stripe.young.clear();
            stripe.old.clear();
        }
    }
}

impl<K: Hash + Eq, V> Generations<K, V> {
    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn put(&mut self, max: usize, key: K, value: V) {
        if self.young.len() >= max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_makes_room() {
        let cache = Cache::new(320);
        cache.put(0, "first");
        for key in 1..100_000 {
            cache.put(key, "other");
            assert_eq!(cache.get(&0), Some("first"), "it is used all the time");
        }
        let held: usize = cache.stripes.iter().map(|stripe| stripe.lock().len()).sum();
        assert!(held <= 320, "{held}");
        assert_eq!(cache.get(&1), None);
        cache.put(0, "second");
        assert_eq!(cache.get(&0), Some("second"));
        cache.clear();
        assert_eq!(cache.get(&0), None);
    }
}
