//! Dates of a billing period: UTC throughout, months clamped to their last day.
//!
//! Periods are half-open, `[start, end)`, in Unix seconds. Absent on purpose: time zones; Stripe anchors in UTC.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeZone, Timelike, Utc};
use serde_json::Value;

/// The moment `count` intervals after `at`. `None` past chrono's calendar or for an unknown interval.
pub fn add(at: i64, interval: &str, count: u32) -> Option<i64> {
    let start = DateTime::from_timestamp(at, 0)?;
    let end = match interval {
        "day" => start.checked_add_days(Days::new(u64::from(count)))?,
        "week" => start.checked_add_days(Days::new(u64::from(count).checked_mul(7)?))?,
        "month" => start.checked_add_months(Months::new(count))?,
        "year" => start.checked_add_months(Months::new(count.checked_mul(12)?))?,
        _ => return None,
    };
    Some(end.timestamp())
}

/// The moment `count` intervals before `at`. `None` as for [`add`].
pub fn before(at: i64, interval: &str, count: u32) -> Option<i64> {
    let end = DateTime::from_timestamp(at, 0)?;
    let start = match interval {
        "day" => end.checked_sub_days(Days::new(u64::from(count)))?,
        "week" => end.checked_sub_days(Days::new(u64::from(count).checked_mul(7)?))?,
        "month" => end.checked_sub_months(Months::new(count))?,
        "year" => end.checked_sub_months(Months::new(count.checked_mul(12)?))?,
        _ => return None,
    };
    Some(start.timestamp())
}

/// The first edge after `from` of the periods that an anchor sets out: anchor + n × interval, so that a clamped February does not
/// move March. `day` is the day of the month that an anchor config asks for, when the anchor itself was clamped below it.
pub fn after(anchor: i64, from: i64, interval: &str, count: u32, day: Option<u32>) -> Option<i64> {
    if count == 0 {
        return None;
    }
    let mut steps = 0u32;
    loop {
        let at = add(anchor, interval, steps.checked_mul(count)?)?;
        let at = match (day, interval) {
            (Some(day), "month" | "year") => on_day(at, day)?,
            _ => at,
        };
        if at > from {
            return Some(at);
        }
        steps += 1;
    }
}

fn on_day(at: i64, day: u32) -> Option<i64> {
    let at = DateTime::from_timestamp(at, 0)?;
    let date = clamped(at.date_naive().with_day(1)?, day)?;
    Some(date.and_time(at.time()).and_utc().timestamp())
}

/// The first moment after `now` that fits a `billing_cycle_anchor_config`. Fields that are not given are those of `now`; a day past
/// the end of a month means its last day.
pub fn next_anchor(now: i64, config: &Value) -> Option<i64> {
    let start = DateTime::from_timestamp(now, 0)?;
    let field = |name: &str, default: u32| match &config[name] {
        Value::Number(value) => value.as_u64().and_then(|value| u32::try_from(value).ok()),
        _ => Some(default),
    };
    let day = field("day_of_month", start.day()).filter(|day| (1..=31).contains(day))?;
    let month = field("month", 0).filter(|month| *month <= 12)?; // 0: any month.
    let hour = field("hour", start.hour())?;
    let minute = field("minute", start.minute())?;
    let second = field("second", start.second())?;
    let first = NaiveDate::from_ymd_opt(start.year(), start.month(), 1)?;
    let candidates = (0..=12).map(|ahead| {
        let in_month = first.checked_add_months(Months::new(ahead))?;
        if month != 0 && in_month.month() != month {
            return Some(i64::MIN);
        }
        let date = clamped(in_month, day)?;
        Some(Utc.from_utc_datetime(&date.and_hms_opt(hour, minute, second)?).timestamp())
    });
    let mut after = candidates.skip_while(|at| at.is_some_and(|at| at <= now));
    after.next().flatten()
}

fn clamped(first_of_month: NaiveDate, day: u32) -> Option<NaiveDate> {
    (28..=day).rev().chain([day]).find_map(|day| first_of_month.with_day(day))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp()
    }

    #[test]
    fn months_are_clamped_to_their_last_day() {
        assert_eq!(add(at("2026-01-31T10:00:00Z"), "month", 1), Some(at("2026-02-28T10:00:00Z")));
        assert_eq!(add(at("2024-02-29T00:00:00Z"), "year", 1), Some(at("2025-02-28T00:00:00Z")));
        assert_eq!(add(at("2026-12-31T00:00:00Z"), "week", 2), Some(at("2027-01-14T00:00:00Z")));
        assert_eq!(add(0, "fortnight", 1), None);
    }

    #[test]
    fn edges_follow_the_anchor_and_not_the_last_edge() {
        #[track_caller]
        fn check(anchor: &str, from: &str, day: Option<u32>, expect: &str) {
            assert_eq!(after(at(anchor), at(from), "month", 1, day), Some(at(expect)));
        }
        let anchor = "2027-01-31T10:00:00Z";
        check(anchor, anchor, None, "2027-02-28T10:00:00Z");
        check(anchor, "2027-02-28T10:00:00Z", None, "2027-03-31T10:00:00Z");
        check(anchor, "2028-02-01T00:00:00Z", None, "2028-02-29T10:00:00Z");
        check("2027-02-28T00:00:00Z", "2027-02-28T00:00:00Z", Some(31), "2027-03-31T00:00:00Z");
        check("2027-02-28T00:00:00Z", "2027-02-28T00:00:00Z", None, "2027-03-28T00:00:00Z");
        assert_eq!(
            before(at("2027-03-01T00:00:00Z"), "month", 1),
            Some(at("2027-02-01T00:00:00Z"))
        );
        assert_eq!(after(0, 0, "month", 0, None), None);
    }

    #[test]
    fn an_anchor_config_names_the_next_moment_that_fits() {
        #[track_caller]
        fn check(now: &str, config: &Value, expect: &str) {
            assert_eq!(next_anchor(at(now), config), Some(at(expect)), "{config}");
        }
        let midnight = json!({ "day_of_month": 1, "hour": 0, "minute": 0, "second": 0 });
        check("2026-11-20T12:30:15Z", &midnight, "2026-12-01T00:00:00Z");
        check("2026-12-01T00:00:00Z", &midnight, "2027-01-01T00:00:00Z");
        check("2026-11-20T12:30:15Z", &json!({ "day_of_month": 20 }), "2026-12-20T12:30:15Z");
        check(
            "2026-11-20T12:30:15Z",
            &json!({ "day_of_month": 20, "hour": 13 }),
            "2026-11-20T13:30:15Z",
        );
        check(
            "2027-02-01T00:00:00Z",
            &json!({ "day_of_month": 31, "hour": 0 }),
            "2027-02-28T00:00:00Z",
        );
        check(
            "2026-11-20T00:00:00Z",
            &json!({ "day_of_month": 20, "month": 2, "hour": 1 }),
            "2027-02-20T01:00:00Z",
        );
        assert_eq!(next_anchor(at("2026-11-20T00:00:00Z"), &json!({ "day_of_month": 32 })), None);
        assert_eq!(
            next_anchor(at("2026-11-20T00:00:00Z"), &json!({ "day_of_month": 1, "hour": 24 })),
            None
        );
    }
}
