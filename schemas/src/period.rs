//! Billing and quota periods: half-open, in whole milliseconds.
//!
//! A period of a subscription follows its anchor in UTC, as the payment provider counts it: the same day and time of
//! every n-th month, or that month's last day where it has no such day (source: Stripe, "billing cycle anchor").
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
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PeriodRule {
    /// Calendar months in the tenant's time zone.
    Month,
    /// Calendar days in the tenant's time zone.
    Day,
    /// Every `months` months from `from` on, in UTC: the periods of a subscription.
    Anchored {
        from: Timestamp,
        /// Range: `1..=120`.
        months: u8,
    },
}

impl std::fmt::Display for PeriodRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Month => f.write_str("month"),
            Self::Day => f.write_str("day"),
            Self::Anchored { from, months } => write!(f, "anchored.{}.{months}", from.0),
        }
    }
}

/// A text that names no period rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not month, day or anchored.<ms>.<months>")]
pub struct UnknownRule(String);

impl std::str::FromStr for PeriodRule {
    type Err = UnknownRule;

    fn from_str(text: &str) -> Result<Self, UnknownRule> {
        let anchored = || {
            let (from, months) = text.strip_prefix("anchored.")?.split_once('.')?;
            Some(Self::Anchored {
                from: Timestamp(from.parse().ok()?),
                months: months.parse().ok()?,
            })
        };
        match text {
            "month" => Ok(Self::Month),
            "day" => Ok(Self::Day),
            _ => anchored().ok_or_else(|| UnknownRule(text.to_owned())),
        }
    }
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
            Self::Month => month_at(at, zone),
            Self::Day => day_at(at, zone),
            Self::Anchored { from, months } => anchored_at(at, from, months),
        }
        .ok_or(PeriodError::OutOfCalendar(at))
    }
}

fn day_at(at: Timestamp, zone: Tz) -> Option<Period> {
    let day = zone.from_utc_datetime(&at.to_utc().naive_utc()).date_naive();
    let period = |day: NaiveDate| {
        Some(Period { from: day_start(day, zone)?, to: day_start(day.succ_opt()?, zone)? })
    };
    // A zone that goes back over midnight shows the old date after the new day has begun. A zone that skipped a
    // whole date (Samoa, 2011-12-30) has an empty day there, which no moment shows.
    [Some(day), day.succ_opt()].into_iter().flatten().filter_map(period).find(|p| p.contains(at))
}

fn anchored_at(at: Timestamp, from: Timestamp, months: u8) -> Option<Period> {
    let (anchor, length) = (from.to_utc(), i64::from(months.max(1)));
    let start = |number: i64| {
        let by = Months::new(u32::try_from(number.checked_mul(length)?.unsigned_abs()).ok()?);
        let start =
            if number < 0 { anchor.checked_sub_months(by) } else { anchor.checked_add_months(by) }?;
        Some(Timestamp(start.timestamp_millis()))
    };
    let (now, then) = (at.to_utc(), anchor);
    let between =
        i64::from(now.year() - then.year()) * 12 + i64::from(now.month()) - i64::from(then.month());
    // The day of the month decides whether this one has begun yet; so it is this one or the one before.
    let number = between.div_euclid(length);
    [number, number - 1].into_iter().find_map(|number| {
        let period = Period { from: start(number)?, to: start(number + 1)? };
        period.contains(at).then_some(period)
    })
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
    fn subscriptions() {
        #[track_caller]
        fn check(anchor: &str, months: u8, moment: &str, from: &str, to: &str) {
            let rule = PeriodRule::Anchored { from: at(anchor), months };
            let period = rule.period_at(at(moment), "Europe/Berlin").unwrap();
            assert_eq!(period, Period { from: at(from), to: at(to) }, "{moment} from {anchor}");
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        let anchor = "2026-01-31T10:00:00Z";
        // The month's last day where it has no 31st, and the 31st again after it.
        check(anchor, 1, "2026-01-31T10:00:00Z", anchor, "2026-02-28T10:00:00Z");
        check(anchor, 1, "2026-02-28T09:59:59.999Z", anchor, "2026-02-28T10:00:00Z");
        check(anchor, 1, "2026-02-28T10:00:00Z", "2026-02-28T10:00:00Z", "2026-03-31T10:00:00Z");
        check(anchor, 1, "2028-02-29T10:00:00Z", "2028-02-29T10:00:00Z", "2028-03-31T10:00:00Z");
        check(anchor, 1, "2026-01-31T09:59:59Z", "2025-12-31T10:00:00Z", anchor);
        check(anchor, 3, "2026-04-30T09:00:00Z", anchor, "2026-04-30T10:00:00Z");
        check(
            "2024-02-29T00:00:00Z",
            12,
            "2026-03-01T00:00:00Z",
            "2026-02-28T00:00:00Z",
            "2027-02-28T00:00:00Z",
        );
        check(
            "2024-02-29T00:00:00Z",
            12,
            "2028-02-29T00:00:00Z",
            "2028-02-29T00:00:00Z",
            "2029-02-28T00:00:00Z",
        );
    }

    #[test]
    fn days() {
        #[track_caller]
        fn check(zone: &str, moment: &str, from: &str, to: &str) {
            let period = PeriodRule::Day.period_at(at(moment), zone).unwrap();
            assert_eq!(period, Period { from: at(from), to: at(to) }, "{moment} in {zone}");
        }
        check("UTC", "2024-02-29T12:00:00Z", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z");
        // 23 hours in spring, 25 in autumn.
        check(
            "Europe/Berlin",
            "2026-03-29T12:00:00Z",
            "2026-03-28T23:00:00Z",
            "2026-03-29T22:00:00Z",
        );
        check(
            "Europe/Berlin",
            "2026-10-25T00:30:00Z",
            "2026-10-24T22:00:00Z",
            "2026-10-25T23:00:00Z",
        );
        check(
            "America/Havana",
            "2026-11-01T05:30:00Z",
            "2026-11-01T04:00:00Z",
            "2026-11-02T05:00:00Z",
        );
        // Samoa had no 30 December 2011.
        check(
            "Pacific/Apia",
            "2011-12-30T10:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-31T10:00:00Z",
        );
        check(
            "Pacific/Apia",
            "2011-12-30T09:59:59Z",
            "2011-12-29T10:00:00Z",
            "2011-12-30T10:00:00Z",
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

        /// The same of days, and of subscriptions from any anchor.
        #[test]
        fn all_periods_touch(
            ms in -2_000_000_000_000i64..5_000_000_000_000,
            zone in 0..chrono_tz::TZ_VARIANTS.len(),
            anchor in -2_000_000_000_000i64..5_000_000_000_000,
            months in 1u8..=36,
        ) {
            let zone = chrono_tz::TZ_VARIANTS[zone].name();
            for rule in [PeriodRule::Day, PeriodRule::Anchored { from: Timestamp(anchor), months }] {
                let period = rule.period_at(Timestamp(ms), zone).unwrap();
                prop_assert!(period.contains(Timestamp(ms)), "{period:?} {zone}");
                prop_assert_eq!(rule.period_at(period.to, zone).unwrap().from, period.to);
                prop_assert_eq!(rule.period_at(period.to.plus_ms(-1), zone).unwrap(), period);
            }
        }
    }
}
