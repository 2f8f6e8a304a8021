//! The node's two clocks, read here and nowhere else.
//!
//! Leases end by the clock of the machine's boot, which goes on while the machine sleeps: one that was suspended must
//! not spend, when it wakes, what the ledger has given to others since.

use std::time::{SystemTime, UNIX_EPOCH};

use mcp_node_core::Now;
use rustix::time::{ClockId, clock_gettime};
use schemas::Timestamp;

/// Clocks that began with this process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began_ms: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { began_ms: boot_ms() }
    }
}

impl Clock {
    /// This moment.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { mono_ms: boot_ms().saturating_sub(self.began_ms), wall: wall() }
    }
}

/// The time since the machine's boot. Unit: milliseconds.
#[must_use]
pub fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds * 1_000 + nanos / 1_000_000
}

/// What the calendar says; 1970 if the machine's clock stands before it.
#[must_use]
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
