//! Billing and quota periods: half-open, in whole milliseconds.
//!
//! A month begins at midnight of its first day in the tenant's time zone. Where a zone has no midnight on
//! that day (its clocks jump over it) the month begins at the first moment that the day has; where a zone
//! has two midnights, at the earlier one. So months touch, never overlap, and every moment is in exactly one.

use chrono::{Datelike, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A half-open span of time: `from` is in it, `to` is not.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Period {
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Period {
    /// Whether the moment lies in it.
    #[must_use]
    pub fn contains(self, at: Timestamp) -> bool {
        self.from <= at && at < self.to
    }
}

/// How the periods of a quota follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeriodRule {
    /// Calendar months in the tenant's time zone.
    Month,
}

/// A name that is not in the IANA time zone database, or a moment beyond its calendar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    #[error("`{0}` is not a time zone of the IANA database")]
    UnknownZone(String),
    #[error("{0} lies beyond the calendar")]
    OutOfCalendar(Timestamp),
}

impl PeriodRule {
    /// The period that holds `at`.
    ///
    /// # Errors
    /// An unknown time zone, or a moment past the year 262,000.
    pub fn period_at(self, at: Timestamp, time_zone: &str) -> Result<Period, PeriodError> {
        let zone: Tz =
            time_zone.parse().map_err(|_| PeriodError::UnknownZone(time_zone.to_owned()))?;
        match self {
            Self::Month => month_at(at, zone).ok_or(PeriodError::OutOfCalendar(at)),
        }
    }
}

fn month_at(at: Timestamp, zone: Tz) -> Option<Period> {
    let day = zone.from_utc_datetime(&at.to_utc().naive_utc()).date_naive().with_day(1)?;
    let month = |first: NaiveDate| {
        let next = first.checked_add_months(Months::new(1))?;
        Some(Period { from: day_start(first, zone)?, to: day_start(next, zone)? })
    };
    let here = month(day)?;
    // A zone that repeats its midnight can show the new date before the month's (earlier) start is reached: never
    // so, since the earlier one was taken; a zone that goes back over midnight can show the old date after it.
    if here.contains(at) { Some(here) } else { month(day.checked_add_months(Months::new(1))?) }
}

/// The first moment of a local day.
fn day_start(day: NaiveDate, zone: Tz) -> Option<Timestamp> {
    let midnight: NaiveDateTime = day.and_time(NaiveTime::MIN);
    // A jump over midnight is at most some hours long; look for its end minute by minute.
    (0..=24 * 60).find_map(|minute| {
        let local = midnight.checked_add_signed(TimeDelta::minutes(minute))?;
        let start = zone.from_local_datetime(&local).earliest()?;
        Some(Timestamp(start.timestamp_millis()))
    })
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse::<DateTime<Utc>>().unwrap().into()
    }

    #[test]
    fn months() {
        #[track_caller]
        fn check(zone: &str, moment: &str, from: &str, to: &str) {
            let period = PeriodRule::Month.period_at(at(moment), zone).unwrap();
            assert_eq!(period, Period { from: at(from), to: at(to) }, "{moment} in {zone}");
        }
        check("UTC", "2024-02-29T23:59:59.999Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z");
        check("UTC", "2024-03-01T00:00:00Z", "2024-03-01T00:00:00Z", "2024-04-01T00:00:00Z");
        check("UTC", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z");
        // Berlin's clocks change inside March: the month is an hour shorter in UTC.
        check(
            "Europe/Berlin",
            "2026-03-15T00:00:00Z",
            "2026-02-28T23:00:00Z",
            "2026-03-31T22:00:00Z",
        );
        check(
            "Europe/Berlin",
            "2026-02-28T23:00:00Z",
            "2026-02-28T23:00:00Z",
            "2026-03-31T22:00:00Z",
        );
        check(
            "America/Los_Angeles",
            "2026-11-01T06:59:59Z",
            "2026-10-01T07:00:00Z",
            "2026-11-01T07:00:00Z",
        );
        // Havana goes back from 01:00 to 00:00 on 2026-11-01: it has that midnight twice, the earlier one counts.
        check(
            "America/Havana",
            "2026-11-01T04:30:00Z",
            "2026-11-01T04:00:00Z",
            "2026-12-01T05:00:00Z",
        );
        check(
            "America/Havana",
            "2026-11-01T05:30:00Z",
            "2026-11-01T04:00:00Z",
            "2026-12-01T05:00:00Z",
        );
        // Paraguay jumped over midnight into 2017-10-01: its month began at 01:00.
        check(
            "America/Asuncion",
            "2017-10-01T04:00:00Z",
            "2017-10-01T04:00:00Z",
            "2017-11-01T03:00:00Z",
        );
        check(
            "America/Asuncion",
            "2017-10-01T03:59:59Z",
            "2017-09-01T04:00:00Z",
            "2017-10-01T04:00:00Z",
        );
    }

    #[test]
    fn an_unknown_zone_is_refused() {
        let refused = PeriodRule::Month.period_at(Timestamp(0), "Mars/Olympus");
        assert_eq!(refused, Err(PeriodError::UnknownZone("Mars/Olympus".into())));
    }

    proptest! {
        /// Every moment lies in its month, and the next month begins where it ends: no hole, no overlap.
        #[test]
        fn months_touch(ms in -2_000_000_000_000i64..5_000_000_000_000, zone in 0..chrono_tz::TZ_VARIANTS.len()) {
            let zone = chrono_tz::TZ_VARIANTS[zone].name();
            let period = PeriodRule::Month.period_at(Timestamp(ms), zone).unwrap();
            prop_assert!(period.contains(Timestamp(ms)), "{period:?} {zone}");
            let next = PeriodRule::Month.period_at(period.to, zone).unwrap();
            prop_assert_eq!(next.from, period.to);
            let last = PeriodRule::Month.period_at(period.to.plus_ms(-1), zone).unwrap();
            prop_assert_eq!(last, period);
        }
    }
}
