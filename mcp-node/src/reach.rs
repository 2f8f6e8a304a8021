//! Whether what the node needs can be reached: NATS by its connection, the ledger by its answers to lease questions.
//!
//! A shard fails from its first question without an answer until the next answer; a question is repeated until it is
//! answered, so a failing shard notices by itself that the ledger is back. While other shards are answered, the ledger
//! as a whole is there. Absent on purpose: asking the ledger only to know whether it is there.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use async_nats::{Client, connection::State};
use schemas::Shard;

use crate::clock::Clock;

/// How long a call waits for a lease: a silence that is shorter refuses nobody.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The connections of one node.
pub struct Reachability {
    client: Client,
    clock: Clock,
    shards: Vec<ShardReach>,
    /// When the ledger last answered, whatever shard. Unit: milliseconds.
    answered_ms: AtomicU64,
    /// Since when NATS is gone; 0 = it is there. Unit: milliseconds.
    nats_gone_ms: AtomicU64,
}

#[derive(Default)]
struct ShardReach {
    /// Since when its questions have no answer; 0 = they have. Unit: milliseconds.
    failing_ms: AtomicU64,
    /// A call was refused for it since.
    has_refused: AtomicBool,
}

/// Something that the node needs and has not got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPart {
    /// `spool`, `nats` or `ledger`.
    pub part: &'static str,
    /// In words.
    pub reason: String,
    /// Calls are served all the same.
    pub is_served: bool,
}

impl Reachability {
    /// Of a node whose log has so many shards.
    #[must_use]
    pub fn new(client: Client, shards: u16) -> Self {
        let shards = (0..shards).map(|_| ShardReach::default()).collect();
        let (answered_ms, nats_gone_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { client, clock: Clock::default(), shards, answered_ms, nats_gone_ms }
    }

    /// The ledger of a shard has answered a question.
    pub fn answered(&self, shard: Shard) {
        self.answered_ms.store(self.now_ms(), Ordering::Relaxed);
        if let Some(shard) = self.shards.get(usize::from(shard.0)) {
            shard.failing_ms.store(0, Ordering::Relaxed);
            shard.has_refused.store(false, Ordering::Relaxed);
        }
    }

    /// A question to the ledger of a shard got no answer.
    pub fn failed(&self, shard: Shard) {
        if let Some(shard) = self.shards.get(usize::from(shard.0)) {
            // The first failure says since when.
            let _ = shard.failing_ms.compare_exchange(
                0,
                self.now_ms(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// A call of a shard was refused since there was no lease.
    pub fn refused(&self, shard: Shard) {
        if self.is_failing(shard)
            && let Some(shard) = self.shards.get(usize::from(shard.0))
        {
            shard.has_refused.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the last question to the ledger of this shard had no answer.
    #[must_use]
    pub fn is_failing(&self, shard: Shard) -> bool {
        let shard = self.shards.get(usize::from(shard.0));
        shard.is_some_and(|shard| shard.failing_ms.load(Ordering::Relaxed) > 0)
    }

    /// Looks at the connection, and tells the metrics.
    pub fn measure(&self) {
        let is_connected = self.client.connection_state() == State::Connected;
        if is_connected {
            self.nats_gone_ms.store(0, Ordering::Relaxed);
        } else {
            let now_ms = self.now_ms();
            let _ =
                self.nats_gone_ms.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        }
        let answers = self.shards.iter().all(|shard| shard.failing_ms.load(Ordering::Relaxed) == 0);
        metrics::gauge!("mcp_nats_connected").set(f64::from(u8::from(is_connected)));
        metrics::gauge!("mcp_ledger_reachable").set(f64::from(u8::from(is_connected && answers)));
    }

    /// What is missing; `has_lease` = whether any key has a lease to serve calls from, asked only if it matters.
    pub fn missing(&self, has_lease: impl FnOnce() -> bool) -> Vec<MissingPart> {
        self.measure();
        let nats_ms = self.age_ms(self.nats_gone_ms.load(Ordering::Relaxed));
        let failing = self.shards.iter().filter(|shard| {
            // Answers to other shards since then: the ledger as a whole is there.
            let since_ms = shard.failing_ms.load(Ordering::Relaxed);
            since_ms > 0 && since_ms >= self.answered_ms.load(Ordering::Relaxed)
        });
        let (mut ledger_ms, mut refuses) = (None, false);
        for shard in failing {
            refuses |= shard.has_refused.load(Ordering::Relaxed);
            ledger_ms = ledger_ms.max(self.age_ms(shard.failing_ms.load(Ordering::Relaxed)));
        }
        if nats_ms.is_none() && ledger_ms.is_none() {
            return self.partly_failing().into_iter().collect();
        }
        let has_lease = has_lease();
        let is_served = |ms: u64| has_lease || Duration::from_millis(ms) < LEASE_TIMEOUT;
        let leases = if has_lease {
            "calls are served from the leases in hand until those are spent or end"
        } else {
            "no key has a lease to serve calls from"
        };
        let nats = nats_ms.map(|ms| MissingPart {
            part: "nats",
            reason: format!("NATS cannot be reached: {leases}; usage is kept in the spool"),
            is_served: is_served(ms),
        });
        let ledger = ledger_ms.map(|ms| MissingPart {
            part: "ledger",
            reason: if refuses {
                "The ledger gives no answer: calls are refused with ledger_unreachable".to_owned()
            } else {
                format!("The ledger gives no answer: {leases}")
            },
            is_served: is_served(ms) && !refuses,
        });
        nats.into_iter().chain(ledger).collect()
    }

    /// Some shards are answered and some are not: another node would fare no better.
    fn partly_failing(&self) -> Option<MissingPart> {
        let failing = |shard: &&ShardReach| shard.failing_ms.load(Ordering::Relaxed) > 0;
        let count = self.shards.iter().filter(failing).count();
        (count > 0).then(|| MissingPart {
            part: "ledger",
            reason: format!(
                "The ledger gives no answer for {count} of {} shards",
                self.shards.len()
            ),
            is_served: true,
        })
    }

    /// How long ago that was; `None` = never, or it is over.
    fn age_ms(&self, since_ms: u64) -> Option<u64> {
        (since_ms > 0).then(|| self.now_ms().saturating_sub(since_ms))
    }

    /// Never 0, which means "not".
    fn now_ms(&self) -> u64 {
        self.clock.now().mono_ms.max(1)
    }
}
