//! Which keys may ask a server that fails: a key whose own requests fail is held, and all are held only when the server
//! cannot be reached.
//!
//! What a client asks for may make a server drop the connection or answer 5xx; that no connection comes about, no client
//! can bring about. So the first counts against the key alone, the second against the server. Where several keys are held
//! already, the first failure of another holds that one too: a server that fails for all is soon left in peace, and a key
//! whose requests succeed is never held. Pure: time and chance come in.

use std::collections::HashMap;

use crate::breaker::{Breaker, BreakerSettings, Change, Ended, Ticket};

/// So many keys that are held make the first failure of another hold it.
const SUSPECTS: usize = 2;
/// The most keys whose failures are known; those that are not held are forgotten first.
const MAX_KEYS: usize = 65_536;

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    Well,
    /// It reached the server and failed there.
    Failed,
    /// It did not reach the server.
    Unreachable,
    /// Nobody waited for its end, or its end says nothing of the server.
    Unknown,
}

/// Leave for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedTicket {
    server: Ticket,
    key: Option<Ticket>,
}

impl KeyedTicket {
    /// Whether its end decides if others may follow.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.server.probe || self.key.is_some_and(|ticket| ticket.probe)
    }
}

/// What an end has changed, for all and for its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub server: Option<Change>,
    pub key: Option<Change>,
}

/// The breakers of one server.
#[derive(Clone, Debug)]
pub struct KeyedBreaker<K> {
    settings: BreakerSettings,
    server: Breaker,
    /// Of keys whose last request failed.
    keys: HashMap<K, Breaker>,
}

impl<K: Copy + Eq + std::hash::Hash> KeyedBreaker<K> {
    /// All closed.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, server: Breaker::new(settings), keys: HashMap::new() }
    }

    /// How long no request of this key may come yet; `None` = one may. Unit: milliseconds.
    #[must_use]
    pub fn closed_for_ms(&self, key: Option<K>, now_ms: u64) -> Option<u64> {
        let of_key = self.of_key(key).and_then(|breaker| breaker.closed_for_ms(now_ms));
        self.server.closed_for_ms(now_ms).max(of_key)
    }

    fn of_key(&self, key: Option<K>) -> Option<&Breaker> {
        if self.keys.is_empty() { None } else { self.keys.get(&key?) }
    }

    /// Leave for one request of a key; `None` = the node asks for itself.
    ///
    /// # Errors
    /// None goes on; come back after so many milliseconds.
    pub fn enter(&mut self, key: Option<K>, now_ms: u64) -> Result<KeyedTicket, u64> {
        if let Some(ms) = self.closed_for_ms(key, now_ms) {
            return Err(ms);
        }
        let known = if self.keys.is_empty() { None } else { key };
        let of_key = known.and_then(|key| self.keys.get_mut(&key));
        let key = of_key.map(|breaker| breaker.enter(now_ms)).transpose()?;
        Ok(KeyedTicket { server: self.server.enter(now_ms)?, key })
    }

    /// A request has ended. `chance` spreads waits, see [`Breaker::ended`].
    pub fn ended(
        &mut self,
        now_ms: u64,
        key: Option<K>,
        ticket: KeyedTicket,
        how: RequestEnd,
        chance: u64,
    ) -> Changes {
        let (server, of_key) = match how {
            RequestEnd::Well => (Ended::Well, Ended::Well),
            RequestEnd::Failed => (Ended::Well, Ended::Badly),
            RequestEnd::Unreachable => (Ended::Badly, Ended::Unknown),
            RequestEnd::Unknown => (Ended::Unknown, Ended::Unknown),
        };
        let server = self.server.ended(now_ms, ticket.server, server, chance);
        let key = key.and_then(|key| self.ended_of(now_ms, key, ticket.key, of_key, chance));
        Changes { server, key }
    }

    fn ended_of(
        &mut self,
        now_ms: u64,
        key: K,
        ticket: Option<Ticket>,
        how: Ended,
        chance: u64,
    ) -> Option<Change> {
        if how == Ended::Badly {
            let suspects = self.keys.values().filter(|known| known.is_open()).take(SUSPECTS);
            let is_suspect = suspects.count() >= SUSPECTS;
            if self.keys.len() >= MAX_KEYS {
                self.keys.retain(|_, known| known.is_open());
            }
            let breaker = self.keys.entry(key).or_insert_with(|| Breaker::new(self.settings));
            // One that began before the key had failed counts as one of now.
            let ticket = ticket.or_else(|| breaker.enter(now_ms).ok())?;
            let change = breaker.ended(now_ms, ticket, how, chance);
            let opens = change.is_none() && is_suspect && !breaker.is_open();
            return if opens { breaker.open_now(now_ms, chance) } else { change };
        }
        let breaker = self.keys.get_mut(&key)?;
        let ticket =
            ticket.or_else(|| breaker.enter(now_ms).ok().filter(|ticket| !ticket.probe))?;
        let change = breaker.ended(now_ms, ticket, how, chance);
        if how == Ended::Well && !breaker.is_open() && !breaker.has_failed() {
            self.keys.remove(&key);
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::CHANCE;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 3,
        percent: 50,
        window_ms: 10_000,
        fewest: 8,
        open_ms: 1_000,
        max_open_ms: 4_000,
    };

    fn end(breaker: &mut KeyedBreaker<u8>, key: u8, how: RequestEnd) -> Changes {
        let ticket = breaker.enter(Some(key), 5).unwrap();
        breaker.ended(5, Some(key), ticket, how, CHANCE)
    }

    #[test]
    fn a_key_that_fails_is_held_and_no_other() {
        let mut breaker = KeyedBreaker::new(SETTINGS);
        for _ in 0..2 {
            assert_eq!(end(&mut breaker, 1, RequestEnd::Failed), Changes::default());
        }
        let last = end(&mut breaker, 1, RequestEnd::Failed);
        assert_eq!(last, Changes { server: None, key: Some(Change::Opened(1_000)) });
        assert_eq!(breaker.enter(Some(1), 5), Err(1_000));
        for _ in 0..100 {
            assert_eq!(end(&mut breaker, 2, RequestEnd::Well), Changes::default());
        }
        assert!(breaker.enter(None, 5).is_ok(), "the node itself");
    }

    #[test]
    fn requests_that_began_before_the_key_failed_count_too() {
        let mut breaker = KeyedBreaker::new(SETTINGS);
        let tickets: Vec<_> = (0..3).map(|_| breaker.enter(Some(1), 5).unwrap()).collect();
        let ends = tickets
            .into_iter()
            .map(|ticket| breaker.ended(5, Some(1), ticket, RequestEnd::Failed, CHANCE));
        assert_eq!(ends.last().unwrap().key, Some(Change::Opened(1_000)));
    }

    #[test]
    fn a_server_that_cannot_be_reached_is_asked_by_nobody() {
        let mut breaker = KeyedBreaker::new(SETTINGS);
        for key in 1..=2 {
            assert_eq!(end(&mut breaker, key, RequestEnd::Unreachable), Changes::default());
        }
        let last = end(&mut breaker, 3, RequestEnd::Unreachable);
        assert_eq!(last, Changes { server: Some(Change::Opened(1_000)), key: None });
        assert_eq!(breaker.enter(Some(9), 5), Err(1_000));
    }

    #[test]
    fn where_several_keys_are_held_the_first_failure_holds_another() {
        let mut breaker = KeyedBreaker::new(SETTINGS);
        for key in [1, 2] {
            for _ in 0..3 {
                end(&mut breaker, key, RequestEnd::Failed);
            }
        }
        assert_eq!(end(&mut breaker, 3, RequestEnd::Failed).key, Some(Change::Opened(1_000)));
        assert_eq!(end(&mut breaker, 4, RequestEnd::Well), Changes::default(), "not held before");
    }

    #[test]
    fn a_key_that_succeeds_again_is_forgotten() {
        let mut breaker = KeyedBreaker::new(SETTINGS);
        end(&mut breaker, 1, RequestEnd::Failed);
        assert_eq!(breaker.keys.len(), 1);
        end(&mut breaker, 1, RequestEnd::Well);
        assert_eq!(breaker.keys.len(), 1, "half of a window may still fail");
        for _ in 0..3 {
            end(&mut breaker, 1, RequestEnd::Failed);
        }
        let ticket = breaker.enter(Some(1), 1_005).unwrap();
        assert!(ticket.is_probe());
        let back = breaker.ended(1_005, Some(1), ticket, RequestEnd::Well, CHANCE);
        assert_eq!(back.key, Some(Change::Closed));
        assert!(breaker.keys.is_empty());
    }
}
