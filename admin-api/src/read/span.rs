//! A span of whole UTC hours: the finest that the rollup and the ledger can both tell apart. Pure.

use schemas::{Hour, Timestamp};

/// Half-open: `from` is in it, `to` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: Hour,
    pub to: Hour,
}

/// The longest span that is answered: a leap year and a day. Unit: hours.
const LONGEST: i64 = 367 * 24;
/// What a span may touch: hours that fit ClickHouse's 32-bit time, from 1970 on.
const FIRST: Hour = Hour(0);
const LAST: Hour = Hour(1_140_000); // In the year 2100.

impl Span {
    /// The hours that `since..until` touches.
    ///
    /// # Errors
    /// Says what is wrong with `since` or `until`.
    pub fn touching(since: Timestamp, until: Timestamp) -> Result<Self, &'static str> {
        if since >= until {
            return Err("must lie before `until`");
        }
        let span = Self { from: since.hour(), to: Hour(until.plus_ms(-1).hour().0 + 1) };
        if span.from < FIRST || span.to > LAST {
            return Err("must lie between 1970 and 2100");
        }
        if span.hours() > LONGEST {
            Err("must lie at most 367 days before `until`")
        } else {
            Ok(span)
        }
    }

    /// The `hours` hours up to and with the one that is running.
    #[must_use]
    pub fn last(hours: i64, now: Timestamp) -> Self {
        let to = Hour(now.hour().0 + 1);
        Self { from: Hour(to.0 - hours), to }
    }

    #[must_use]
    pub fn hours(self) -> i64 {
        self.to.0 - self.from.0
    }

    /// Its ends in seconds since 1970, as ClickHouse's `DateTime` counts.
    #[must_use]
    pub fn seconds(self) -> (u32, u32) {
        let second = |hour: Hour| u32::try_from(hour.0.saturating_mul(3600)).unwrap_or(u32::MAX);
        (second(self.from), second(self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_holds_every_hour_that_is_touched_and_no_other() {
        let at = |hour: i64, ms: i64| Timestamp(hour * 3_600_000 + ms);
        let span = |since, until| Span::touching(since, until).map(|span| (span.from.0, span.to.0));
        assert_eq!(span(at(10, 0), at(11, 0)), Ok((10, 11)));
        assert_eq!(span(at(10, 1), at(11, 1)), Ok((10, 12)));
        assert_eq!(span(at(10, 5), at(10, 6)), Ok((10, 11)));
        for (since, until) in
            [(at(10, 0), at(10, 0)), (at(-1, 0), at(1, 0)), (at(0, 0), at(LONGEST, 1))]
        {
            assert!(span(since, until).is_err());
        }
        let day = Span::last(24, at(100, 7));
        assert_eq!((day.from.0, day.to.0, day.hours()), (77, 101, 24));
        assert_eq!(day.seconds(), (77 * 3600, 101 * 3600));
    }
}
