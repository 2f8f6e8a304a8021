//! The simulator's time: the only place that reads the system clock.
//!
//! Everything that Stripe would date (objects, events, the 24 h of idempotency keys and identifiers, signature stamps, the `Date`
//! header) asks here, so a script that sets the clock first gets the same bytes every time. Real waiting (retry back-off, slow
//! faults) is not simulated time: a frozen clock must not stop a delivery. Customers on a test clock have a time of their own, beside this one.

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the clock is to do next, as `POST /_sim/clock` says it. Seconds are Unix seconds.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Jump to this second and run on from there.
    Set(i64),
    /// Stand still at this second.
    Freeze(i64),
    /// Move by this many seconds (negative goes back); a frozen clock stays frozen.
    Advance(i64),
    /// Follow the system clock again.
    System,
    /// Which time observers outside see in `Date` and in signature stamps.
    Wire(Wire),
}

/// The time that leaves the simulator in headers, where receivers compare it with a clock of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// Headers carry simulated time (the default).
    Simulated,
    /// Headers carry the system's time: the simulated days may pass while receivers keep their ±300 s checks.
    System,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Running { offset_ms: i64 },
    Frozen { at_ms: i64 },
}

/// A clock that can be moved and frozen. Resolution: one millisecond.
#[derive(Debug)]
pub struct Clock {
    state: Mutex<(Mode, Wire)>,
}

impl Clock {
    /// A clock that follows the system, or stands at `freeze_at` (Unix seconds) from the start.
    pub fn new(freeze_at: Option<i64>) -> Self {
        let mode = match freeze_at {
            Some(at) => Mode::Frozen { at_ms: at.saturating_mul(1000) },
            None => Mode::Running { offset_ms: 0 },
        };
        Self { state: Mutex::new((mode, Wire::Simulated)) }
    }

    /// Simulated now, in Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        match self.state.lock().0 {
            Mode::Running { offset_ms } => system_ms().saturating_add(offset_ms),
            Mode::Frozen { at_ms } => at_ms,
        }
    }

    /// Simulated now, in Unix seconds, rounded down.
    pub fn now(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }

    /// The second that headers show to the outside.
    pub fn wire_now(&self) -> i64 {
        let wire = self.state.lock().1;
        match wire {
            Wire::Simulated => self.now(),
            Wire::System => system_ms().div_euclid(1000),
        }
    }

    /// True while the clock stands still.
    pub fn is_frozen(&self) -> bool {
        matches!(self.state.lock().0, Mode::Frozen { .. })
    }

    /// Carries out one command.
    pub fn apply(&self, command: Command) {
        let mut state = self.state.lock();
        match command {
            Command::Set(at) => {
                let offset_ms = at.saturating_mul(1000).saturating_sub(system_ms());
                state.0 = Mode::Running { offset_ms };
            }
            Command::Freeze(at) => state.0 = Mode::Frozen { at_ms: at.saturating_mul(1000) },
            Command::Advance(by) => {
                let by_ms = by.saturating_mul(1000);
                state.0 = match state.0 {
                    Mode::Running { offset_ms } => {
                        Mode::Running { offset_ms: offset_ms.saturating_add(by_ms) }
                    }
                    Mode::Frozen { at_ms } => Mode::Frozen { at_ms: at_ms.saturating_add(by_ms) },
                };
            }
            Command::System => state.0 = Mode::Running { offset_ms: 0 },
            Command::Wire(wire) => state.1 = wire,
        }
    }
}

fn system_ms() -> i64 {
    let since =
        SystemTime::now().duration_since(UNIX_EPOCH).expect("the system clock is past 1970");
    i64::try_from(since.as_millis())
        .expect("milliseconds since 1970 fit 63 bits for 292 million years")
}

/// A Unix second as an instant, or `None` outside chrono's range of ±262,000 years.
pub fn utc(unix_s: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(unix_s, 0)
}

/// A Unix second as v2 writes it; nothing outside chrono's range.
pub fn rfc3339(unix_s: i64) -> String {
    utc(unix_s).map_or_else(String::new, |at| at.format("%Y-%m-%dT%H:%M:%S.000Z").to_string())
}

/// The `Date` header's form (RFC 9110, section 5.6.7).
pub fn http_date(unix_s: i64) -> String {
    utc(unix_s).map_or_else(String::new, |at| at.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_clock_moves_only_when_told() {
        let clock = Clock::new(Some(1_000));
        assert_eq!(clock.now_ms(), 1_000_000);
        clock.apply(Command::Advance(60));
        assert_eq!((clock.now(), clock.is_frozen()), (1_060, true));
    }

    #[test]
    fn a_set_clock_runs_on_from_there() {
        let clock = Clock::new(None);
        clock.apply(Command::Set(5_000));
        assert!((5_000..5_060).contains(&clock.now()));
        clock.apply(Command::System);
        assert!(clock.now() > 1_700_000_000);
    }

    #[test]
    fn headers_can_keep_the_systems_time_while_days_pass() {
        let clock = Clock::new(Some(1_000));
        assert_eq!(clock.wire_now(), 1_000);
        clock.apply(Command::Wire(Wire::System));
        assert!(clock.wire_now() > 1_700_000_000);
        assert_eq!(clock.now(), 1_000);
    }

    #[test]
    fn the_date_header_has_its_form() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
