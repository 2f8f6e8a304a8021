//! The one place that asks what time of day it is (pauses are measured by tokio's clock).

use schemas::Timestamp;

/// The system's clock. Unit: milliseconds since 1970.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp(chrono::Utc::now().timestamp_millis())
}
