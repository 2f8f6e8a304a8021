//! The one place that asks what time of day it is (pauses are measured by tokio's clock).
//!
//! A process that plays through simulated months lets its time stand where the play is. Nothing else may do so, and
//! nothing in this crate does.

use std::sync::atomic::{AtomicI64, Ordering};

use schemas::Timestamp;

/// No time was set: the system's clock is asked.
const SYSTEM: i64 = i64::MIN;

static STANDS_AT: AtomicI64 = AtomicI64::new(SYSTEM);

/// The time. Unit: milliseconds since 1970.
#[must_use]
pub fn now() -> Timestamp {
    match STANDS_AT.load(Ordering::SeqCst) {
        SYSTEM => Timestamp(chrono::Utc::now().timestamp_millis()),
        stands_at => Timestamp(stands_at),
    }
}

/// Lets this process's time stand still at a moment, until it is moved again: for simulations alone.
pub fn stand_at(at: Timestamp) {
    STANDS_AT.store(at.0, Ordering::SeqCst);
}
