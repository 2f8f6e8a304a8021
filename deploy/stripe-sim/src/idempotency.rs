//! Idempotency keys: the first answer of a key is kept for 24 h of the simulator's clock and replayed, errors of the server included.
//!
//! A key is claimed before the endpoint begins and settled in the same step as the effect, so an effect without a stored answer
//! cannot be seen. Answers that Stripe does not keep (`ApiError::stored`) release the claim. Source: docs.stripe.com/api/idempotent_requests.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};

/// How long a key is remembered, in milliseconds.
pub const KEEP_MS: i64 = 24 * 3_600_000;
/// The longest key that Stripe takes, in characters.
pub const KEY_LIMIT: usize = 255;

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub status: u16,
    pub body: Bytes,
    pub request_id: String,
    pub should_retry: Option<bool>,
}

/// What a key says about a new request.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nobody used the key: it is now claimed.
    Fresh,
    /// Answer this.
    Replay(Stored),
    /// The key belongs to other parameters.
    OtherParameters,
    /// The key belongs to this other path.
    OtherEndpoint(String),
    /// The first request is still running.
    InFlight,
}

#[derive(Debug)]
struct Entry {
    path: String,
    fingerprint: String,
    answer: Option<Stored>,
    at_ms: i64,
}

/// All keys in use.
#[derive(Debug, Default)]
pub struct Idempotency {
    entries: HashMap<String, Entry>,
    by_age: VecDeque<(i64, String)>,
}

impl Idempotency {
    /// Claims `key` for a request, unless it is taken.
    pub fn begin(&mut self, key: &str, path: &str, fingerprint: &str, now_ms: i64) -> Begin {
        self.forget(now_ms);
        let Some(entry) = self.entries.get(key) else {
            let entry = Entry {
                path: path.to_owned(),
                fingerprint: fingerprint.to_owned(),
                answer: None,
                at_ms: now_ms,
            };
            self.entries.insert(key.to_owned(), entry);
            self.by_age.push_back((now_ms, key.to_owned()));
            return Begin::Fresh;
        };
        match &entry.answer {
            _ if entry.path != path => Begin::OtherEndpoint(entry.path.clone()),
            _ if entry.fingerprint != fingerprint => Begin::OtherParameters,
            None => Begin::InFlight,
            Some(answer) => Begin::Replay(answer.clone()),
        }
    }

    /// Keeps the answer of a claimed key.
    pub fn settle(&mut self, key: &str, answer: Stored) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.answer = Some(answer);
        }
    }

    /// Gives a claimed key free again; a settled key stays.
    pub fn release(&mut self, key: &str) {
        if self.entries.get(key).is_some_and(|entry| entry.answer.is_none()) {
            self.entries.remove(key);
        }
    }

    fn forget(&mut self, now_ms: i64) {
        while let Some((at_ms, key)) = self.by_age.front() {
            if now_ms - at_ms < KEEP_MS {
                return;
            }
            // A released key may have been claimed anew since: only the entry of that age goes.
            if self.entries.get(key).is_some_and(|entry| entry.at_ms == *at_ms) {
                self.entries.remove(key);
            }
            self.by_age.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Stored {
        Stored {
            status: 200,
            body: Bytes::from_static(b"{}"),
            request_id: "req_1".to_owned(),
            should_retry: None,
        }
    }

    #[test]
    fn a_key_replays_for_24_hours_and_is_then_fresh() {
        let mut keys = Idempotency::default();
        assert_eq!(keys.begin("k", "/p", "f", 0), Begin::Fresh);
        assert_eq!(keys.begin("k", "/p", "f", 1), Begin::InFlight);
        keys.settle("k", answer());
        assert_eq!(keys.begin("k", "/p", "f", KEEP_MS - 1), Begin::Replay(answer()));
        assert_eq!(keys.begin("k", "/p", "f", KEEP_MS), Begin::Fresh);
    }

    #[test]
    fn a_key_is_bound_to_its_endpoint_and_parameters() {
        let mut keys = Idempotency::default();
        keys.begin("k", "/p", "f", 0);
        keys.settle("k", answer());
        assert_eq!(keys.begin("k", "/p", "g", 1), Begin::OtherParameters);
        assert_eq!(keys.begin("k", "/q", "f", 1), Begin::OtherEndpoint("/p".to_owned()));
    }

    #[test]
    fn a_released_key_is_free_and_a_settled_one_is_not() {
        let mut keys = Idempotency::default();
        keys.begin("k", "/p", "f", 0);
        keys.release("k");
        assert_eq!(keys.begin("k", "/p", "other", 1), Begin::Fresh);
        keys.settle("k", answer());
        keys.release("k");
        assert_eq!(
            keys.begin("k", "/p", "other", KEEP_MS),
            Begin::Replay(answer()),
            "its own age counts, not the released one's"
        );
    }
}
