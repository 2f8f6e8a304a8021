//! The node's two clocks, read here and nowhere else.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mcp_node_core::Now;
use schemas::Timestamp;

/// Clocks that began with this process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { began: Instant::now() }
    }
}

impl Clock {
    /// This moment.
    #[must_use]
    pub fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, wall: wall() }
    }
}

/// What the calendar says; 1970 if the machine's clock stands before it.
#[must_use]
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
