//! When a subscription's billing periods begin and end: at an anchor day, every so many months, at midnight UTC.
//!
//! Invariants: periods are half-open and touch; the first begins when the subscription does and ends at the next
//! anchor, so it may be short; a day that a month does not have is its last, and comes back the month after. The whole
//! cycles are those of `schemas::PeriodRule::Anchored`, so a quota that follows the subscription has the bill's periods.
//! Midnight UTC, since the provider's anchors are set there and sealed hours are UTC hours. Absent on purpose: weeks.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, Utc};
use schemas::{Period, PeriodRule, Timestamp};
use serde::{Deserialize, Serialize};

/// Every month has this day, so no search for a month that has it goes on for ever.
const IN_EVERY_MONTH: u32 = 28;

/// How the billing periods of a subscription follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycle {
    /// Months from one anchor to the next: 1, 3, 12, ... Range: 1 to 120.
    pub months: u8,
    /// Day of the month. Range: 1 to 31.
    pub day: u8,
    /// Month of the year that the count begins in, for cycles of several months; absent: where the subscription begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub month: Option<u8>,
}

/// Why there is no such period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CycleError {
    #[error("a cycle has 1 to 120 months, a day of 1 to 31 and a month of 1 to 12")]
    Impossible,
    #[error("{at} lies before the subscription begins")]
    BeforeStart { at: Timestamp },
    #[error("{at} lies beyond the calendar")]
    OutOfCalendar { at: Timestamp },
}

impl Cycle {
    /// The billing period that holds `at`, of a subscription that begins at `start`: the first one begins with it.
    ///
    /// # Errors
    /// A cycle that cannot be, or a moment before the beginning or beyond the calendar.
    pub fn period_at(self, start: Timestamp, at: Timestamp) -> Result<Period, CycleError> {
        let whole = self.whole_at(start, at)?;
        Ok(Period { from: whole.from.max(start), ..whole })
    }

    /// The whole cycle that holds `at`, from anchor to anchor, though the subscription may begin inside it.
    ///
    /// It is what a fee is for, so it is what a statement rates: a short first period then pays its part of the fee.
    ///
    /// # Errors
    /// As [`Cycle::period_at`].
    pub fn whole_at(self, start: Timestamp, at: Timestamp) -> Result<Period, CycleError> {
        let rule = self.rule(start)?;
        if at < start {
            return Err(CycleError::BeforeStart { at });
        }
        rule.period_at(at, "UTC").map_err(|_| CycleError::OutOfCalendar { at })
    }

    /// The rule of the whole cycles of a subscription that begins at `start`.
    ///
    /// # Errors
    /// A cycle that cannot be, or a beginning beyond the calendar.
    pub fn rule(self, start: Timestamp) -> Result<PeriodRule, CycleError> {
        let month_fits = self.month.is_none_or(|month| (1..=12).contains(&month));
        if !(1..=120).contains(&self.months) || !(1..=31).contains(&self.day) || !month_fits {
            return Err(CycleError::Impossible);
        }
        let anchor = self.base(start).and_then(|base| self.anchor(base));
        let date = anchor.ok_or(CycleError::OutOfCalendar { at: start })?;
        let from = date.and_time(NaiveTime::MIN).and_utc().into();
        Ok(PeriodRule::Anchored { from, months: self.months })
    }

    /// The first day of the month with the last anchor at or before the beginning.
    fn base(self, start: Timestamp) -> Option<NaiveDate> {
        let date = DateTime::<Utc>::from_timestamp_millis(start.0)?.date_naive();
        let (first, back) = match self.month {
            Some(month) => (NaiveDate::from_ymd_opt(date.year(), u32::from(month), 1)?, 12),
            None => (date.with_day(1)?, 1),
        };
        let last = first.checked_add_months(Months::new(1))?.checked_sub_days(Days::new(1))?;
        let edge = first.with_day(u32::from(self.day).min(last.day()))?;
        if edge <= date { Some(first) } else { first.checked_sub_months(Months::new(back)) }
    }

    /// The anchor's date in a month of the cycle that has its day, so that shorter months do not shorten the later ones.
    ///
    /// A day that no month of the cycle has (a 31st of every June) is the last that one has.
    fn anchor(self, base: NaiveDate) -> Option<NaiveDate> {
        let months =
            |steps: u32| base.checked_sub_months(Months::new(steps * u32::from(self.months)));
        let lowest = u32::from(self.day).min(IN_EVERY_MONTH);
        (lowest..=u32::from(self.day)).rev().find_map(|day| {
            // Twelve steps see every month that the cycle meets, and a leap year unless it meets only odd ones.
            (0..=12).find_map(|steps| months(steps)?.with_day(day))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(text: &str) -> Timestamp {
        format!("{text}T00:00:00Z").parse::<DateTime<Utc>>().unwrap().into()
    }

    const MONTHLY: Cycle = Cycle { months: 1, day: 1, month: None };

    #[test]
    fn periods() {
        #[track_caller]
        fn check(cycle: Cycle, start: &str, at: &str, from: &str, to: &str) {
            let period = cycle.period_at(day(start), day(at));
            assert_eq!(period, Ok(Period { from: day(from), to: day(to) }), "{cycle:?} {at}");
        }
        // The cases are those of OpenMeter, Meteroid and Flexprice.
        // A day that February does not have is its last, and March has it again.
        let last = Cycle { day: 31, ..MONTHLY };
        check(last, "2024-01-31", "2024-02-15", "2024-01-31", "2024-02-29");
        check(last, "2024-01-31", "2024-02-29", "2024-02-29", "2024-03-31");
        check(last, "2024-01-31", "2024-03-31", "2024-03-31", "2024-04-30");
        check(last, "2023-01-31", "2023-02-28", "2023-02-28", "2023-03-31");
        // A stub before the first billing day, then whole months.
        let tenth = Cycle { day: 10, ..MONTHLY };
        check(tenth, "2024-01-01", "2024-01-09", "2024-01-01", "2024-01-10");
        check(tenth, "2024-01-01", "2024-01-10", "2024-01-10", "2024-02-10");
        // A quarter counts from the month in which the subscription begins.
        let quarter = Cycle { months: 3, ..MONTHLY };
        check(quarter, "2024-01-10", "2024-03-31", "2024-01-10", "2024-04-01");
        check(quarter, "2024-01-10", "2024-04-01", "2024-04-01", "2024-07-01");
        // The next 31st after the first of April is the 30th.
        check(last, "2024-04-01", "2024-04-01", "2024-04-01", "2024-04-30");
        // A subscription that begins on its anchor has a whole first period.
        let mid = Cycle { day: 14, ..MONTHLY };
        check(mid, "2024-04-01", "2024-04-01", "2024-04-01", "2024-04-14");
        check(mid, "2024-04-14", "2024-04-14", "2024-04-14", "2024-05-14");
        check(mid, "2024-04-15", "2024-04-15", "2024-04-15", "2024-05-14");
        // Peers disagree on a yearly anchor later in the year. Ours ends the first stub at the next anchor, as for months.
        let year = Cycle { months: 12, day: 15, month: Some(6) };
        check(year, "2024-01-15", "2024-01-15", "2024-01-15", "2024-06-15");
        check(year, "2024-01-15", "2024-06-15", "2024-06-15", "2025-06-15");
        check(year, "2024-06-15", "2024-06-15", "2024-06-15", "2025-06-15");
        let leap = Cycle { months: 12, day: 29, month: Some(2) };
        check(leap, "2024-02-29", "2025-03-01", "2025-02-28", "2026-02-28");
        check(leap, "2024-02-29", "2028-02-28", "2027-02-28", "2028-02-29");
        check(leap, "2025-03-05", "2028-03-05", "2028-02-29", "2029-02-28");
        let june = Cycle { months: 12, day: 31, month: Some(6) };
        check(june, "2024-06-30", "2024-07-01", "2024-06-30", "2025-06-30");
        // The last of April is still to come on the 29th: the quarters count from March, on the 30th from April.
        let quarter = Cycle { months: 3, day: 31, ..MONTHLY };
        check(quarter, "2024-04-29", "2024-04-29", "2024-04-29", "2024-06-30");
        check(quarter, "2024-04-30", "2024-04-30", "2024-04-30", "2024-07-31");
        let halves = Cycle { months: 6, day: 31, ..MONTHLY };
        check(halves, "2023-02-28", "2024-02-28", "2023-08-31", "2024-02-29");
    }

    #[test]
    fn a_short_first_period_is_part_of_a_whole_one() {
        let tenth = Cycle { day: 10, ..MONTHLY };
        let whole = tenth.whole_at(day("2024-01-01"), day("2024-01-05"));
        assert_eq!(whole, Ok(Period { from: day("2023-12-10"), to: day("2024-01-10") }));
        let later = tenth.whole_at(day("2024-01-01"), day("2024-01-10"));
        assert_eq!(later, tenth.period_at(day("2024-01-01"), day("2024-01-10")));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let at = day("2024-01-01");
        for cycle in [
            Cycle { months: 0, ..MONTHLY },
            Cycle { day: 0, ..MONTHLY },
            Cycle { day: 32, ..MONTHLY },
            Cycle { month: Some(13), ..MONTHLY },
        ] {
            assert_eq!(cycle.period_at(at, at), Err(CycleError::Impossible), "{cycle:?}");
        }
        let before = at.plus_ms(-1);
        assert_eq!(MONTHLY.period_at(at, before), Err(CycleError::BeforeStart { at: before }));
        let never = Timestamp(i64::MAX);
        assert_eq!(MONTHLY.period_at(at, never), Err(CycleError::OutOfCalendar { at: never }));
    }

    proptest! {
        /// Every moment is in exactly one period: they touch, from the beginning on.
        #[test]
        fn periods_touch(
            months in prop::sample::select(vec![1u8, 2, 3, 6, 12, 24]),
            day in 1u8..=31,
            month in prop::option::of(1u8..=12),
            start in 0i64..2_000_000_000_000,
            later in 0i64..500_000_000_000,
        ) {
            let cycle = Cycle { months, day, month };
            let (start, at) = (Timestamp(start), Timestamp(start + later));
            let period = cycle.period_at(start, at).unwrap();
            prop_assert!(period.contains(at) && period.from >= start);
            let next = cycle.period_at(start, period.to).unwrap();
            prop_assert_eq!(next.from, period.to);
            prop_assert!(next.to > next.from);
            if period.from > start {
                prop_assert_eq!(cycle.period_at(start, period.from.plus_ms(-1)).unwrap().to, period.from);
            }
        }
    }
}
