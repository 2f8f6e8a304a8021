//! The circuit breaker of one upstream, shared by all that goes to it: who may pass, how it ended, what changed.
//!
//! A permit that is dropped without a word says nothing: a client that goes away neither opens the breaker nor closes
//! it. Every change has one log line. Absent on purpose: the rules (`mcp_node_core::keyed_breaker`).

use std::sync::Arc;

use mcp_node_core::{
    Refusal,
    breaker::{BreakerSettings, CHANCE, Change},
    keyed_breaker::{KeyedBreaker, KeyedTicket, RequestEnd},
};
use parking_lot::Mutex;
use schemas::KeyId;

use crate::clock::Clock;

/// What callers hear while it is open; with when to come back, in milliseconds.
type Refuse = fn(u64) -> Refusal;

/// A breaker and its clock.
pub struct CircuitBreaker {
    rules: Mutex<KeyedBreaker<KeyId>>,
    clock: Clock,
    /// Which upstream: an address or a program.
    name: String,
    refuse: Refuse,
}

/// Leave for one request.
pub struct BreakerPermit {
    breaker: Arc<CircuitBreaker>,
    key: Option<KeyId>,
    ticket: Option<KeyedTicket>,
}

impl CircuitBreaker {
    /// Of an upstream that callers cannot reach while it is open.
    pub fn of_server(name: &str, settings: BreakerSettings) -> Arc<Self> {
        Self::new(name, settings, |retry_ms| Refusal::UpstreamUnavailable { retry_ms })
    }

    /// Of a command whose children may end as soon as they are started.
    pub fn of_starts(name: &str) -> Arc<Self> {
        let settings = BreakerSettings {
            failures: 3,
            fewest: u32::MAX, // Only starts one after the other say something.
            open_ms: 500,
            max_open_ms: 60_000,
            ..BreakerSettings::default()
        };
        Self::new(name, settings, |retry_ms| Refusal::UpstreamRestarting { retry_ms })
    }

    fn new(name: &str, settings: BreakerSettings, refuse: Refuse) -> Arc<Self> {
        let (rules, clock) = (Mutex::new(KeyedBreaker::new(settings)), Clock::default());
        Arc::new(Self { rules, clock, name: name.to_owned(), refuse })
    }

    /// Whether requests of this key may pass now; `None` = the node asks for itself.
    ///
    /// # Errors
    /// It is open.
    pub fn check(&self, key: Option<KeyId>) -> Result<(), Refusal> {
        let closed_for_ms = self.rules.lock().closed_for_ms(key, self.clock.now().mono_ms);
        closed_for_ms.map_or(Ok(()), |ms| Err((self.refuse)(ms)))
    }

    /// Leave for one request of a key.
    ///
    /// # Errors
    /// It is open.
    pub fn enter(self: &Arc<Self>, key: Option<KeyId>) -> Result<BreakerPermit, Refusal> {
        let entered = self.rules.lock().enter(key, self.clock.now().mono_ms);
        let ticket = entered.map_err(self.refuse)?;
        if ticket.is_probe() {
            tracing::info!(
                upstream = self.name,
                "Circuit breaker half-open: one request probes the server"
            );
            self.count_change("probing");
        }
        Ok(BreakerPermit { breaker: self.clone(), key, ticket: Some(ticket) })
    }

    fn ended(&self, key: Option<KeyId>, ticket: KeyedTicket, how: RequestEnd) {
        let failed = matches!(how, RequestEnd::Failed | RequestEnd::Unreachable);
        let chance = if failed { chance() } else { 0 };
        let now_ms = self.clock.now().mono_ms;
        let changes = self.rules.lock().ended(now_ms, key, ticket, how, chance);
        let (upstream, key) = (&self.name, key.map(|key| key.to_string()));
        match changes.server {
            Some(Change::Opened(ms)) => {
                tracing::warn!(
                    upstream,
                    ms,
                    "Circuit breaker opened: the server cannot be reached"
                );
                self.changed("open", 2.0);
            }
            Some(Change::Closed) => {
                tracing::info!(upstream, "Circuit breaker closed: the server is back");
                self.changed("closed", 0.0);
            }
            None => {}
        }
        match changes.key {
            Some(Change::Opened(ms)) => {
                tracing::warn!(
                    upstream,
                    key,
                    ms,
                    "Circuit breaker opened for one key: its requests fail at the server"
                );
                self.count_change("open");
            }
            Some(Change::Closed) => {
                tracing::info!(upstream, key, "Circuit breaker closed for one key");
                self.count_change("closed");
            }
            None => {}
        }
    }

    fn changed(&self, to: &'static str, state: f64) {
        metrics::gauge!("mcp_upstream_breaker", "upstream" => self.name.clone()).set(state);
        self.count_change(to);
    }

    fn count_change(&self, to: &'static str) {
        let upstream = self.name.clone();
        metrics::counter!("mcp_upstream_breaker_changes_total", "upstream" => upstream, "to" => to)
            .increment(1);
    }
}

impl BreakerPermit {
    /// The server did its part; only the first word counts.
    pub fn well(&mut self) {
        self.end(RequestEnd::Well);
    }

    /// The request failed at the server.
    pub fn failed(&mut self) {
        self.end(RequestEnd::Failed);
    }

    /// The server could not be reached.
    pub fn unreachable(&mut self) {
        self.end(RequestEnd::Unreachable);
    }

    /// The server begins to answer: that is all that a probe asks.
    pub fn reached(&mut self) {
        if self.ticket.is_some_and(|ticket| ticket.is_probe()) {
            self.well();
        }
    }

    fn end(&mut self, how: RequestEnd) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.ended(self.key, ticket, how);
        }
    }
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        self.end(RequestEnd::Unknown);
    }
}

/// A number up to [`CHANCE`]; without randomness, the longest wait.
fn chance() -> u64 {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_or(CHANCE, |()| u64::from_be_bytes(random) % (CHANCE + 1))
}
