//! The breaker of one upstream, shared by all that goes to it: who may pass, how it ended, what changed.
//!
//! A passage that is dropped without a word says nothing: a client that goes away neither opens the breaker nor closes
//! it. Every change has one log line. Absent on purpose: the rules (`mcp_node_core::breaker`).

use std::sync::Arc;

use mcp_node_core::{
    Refusal,
    breaker::{Breaker, BreakerSettings, CHANCE, Change, Ended, Ticket},
};
use parking_lot::Mutex;

use crate::clock::Clock;

/// What callers hear while it is open; with when to come back, in milliseconds.
type Refuse = fn(u64) -> Refusal;

/// A breaker and its clock.
pub struct Guard {
    breaker: Mutex<Breaker>,
    clock: Clock,
    /// Which upstream: an address or a program.
    name: String,
    refuse: Refuse,
}

/// Leave for one request.
pub struct Passage {
    guard: Arc<Guard>,
    ticket: Option<Ticket>,
}

impl Guard {
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
            most_open_ms: 60_000,
            ..BreakerSettings::default()
        };
        Self::new(name, settings, |retry_ms| Refusal::UpstreamRestarting { retry_ms })
    }

    fn new(name: &str, settings: BreakerSettings, refuse: Refuse) -> Arc<Self> {
        let (breaker, clock) = (Mutex::new(Breaker::new(settings)), Clock::default());
        Arc::new(Self { breaker, clock, name: name.to_owned(), refuse })
    }

    /// Whether nobody may pass now.
    ///
    /// # Errors
    /// It is open.
    pub fn check(&self) -> Result<(), Refusal> {
        let closed_for_ms = self.breaker.lock().closed_for_ms(self.clock.now().mono_ms);
        closed_for_ms.map_or(Ok(()), |ms| Err((self.refuse)(ms)))
    }

    /// Leave for one request.
    ///
    /// # Errors
    /// It is open.
    pub fn enter(self: &Arc<Self>) -> Result<Passage, Refusal> {
        let entered = self.breaker.lock().enter(self.clock.now().mono_ms);
        let ticket = entered.map_err(self.refuse)?;
        if ticket.probe {
            tracing::info!(upstream = self.name, "A request tries whether the server is back");
            self.changed("probing", 1.0);
        }
        Ok(Passage { guard: self.clone(), ticket: Some(ticket) })
    }

    fn ended(&self, ticket: Ticket, how: Ended) {
        let chance = if how == Ended::Badly { chance() } else { 0 };
        let now_ms = self.clock.now().mono_ms;
        let change = self.breaker.lock().ended(now_ms, ticket, how, chance);
        match change {
            Some(Change::Opened(ms)) => {
                tracing::warn!(
                    upstream = self.name,
                    ms,
                    "The server fails: it is not asked for a while"
                );
                self.changed("open", 2.0);
            }
            Some(Change::Closed) => {
                tracing::info!(upstream = self.name, "The server is back");
                self.changed("closed", 0.0);
            }
            None => {}
        }
    }

    fn changed(&self, to: &'static str, state: f64) {
        let upstream = self.name.clone();
        metrics::gauge!("mcp_upstream_breaker", "upstream" => upstream.clone()).set(state);
        metrics::counter!("mcp_upstream_breaker_changes_total", "upstream" => upstream, "to" => to)
            .increment(1);
    }
}

impl Passage {
    /// The server did its part; only the first word counts.
    pub fn well(&mut self) {
        self.end(Ended::Well);
    }

    /// The server failed.
    pub fn badly(&mut self) {
        self.end(Ended::Badly);
    }

    /// The server begins to answer: that is all that a probe asks.
    pub fn reached(&mut self) {
        if self.ticket.is_some_and(|ticket| ticket.probe) {
            self.well();
        }
    }

    fn end(&mut self, how: Ended) {
        if let Some(ticket) = self.ticket.take() {
            self.guard.ended(ticket, how);
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.end(Ended::Unknown);
    }
}

/// A number up to [`CHANCE`]; without randomness, the longest wait.
fn chance() -> u64 {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_or(CHANCE, |()| u64::from_be_bytes(random) % (CHANCE + 1))
}
