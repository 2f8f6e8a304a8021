//! Numbers and times as people read them. Pure, whole numbers only.

use std::fmt;

use schemas::{Hour, Timestamp};

/// `12,345,678`.
#[must_use]
pub fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number for an axis: `950`, `1.2k`, `15k`, `2.5M`.
#[must_use]
pub fn short(number: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| number >= *unit) else {
        return number.to_string();
    };
    match (number / unit, number % unit / (unit / 10)) {
        (whole, 0) => format!("{whole}{name}"),
        (whole, tenth) => format!("{whole}.{tenth}{name}"),
    }
}

/// A part of a whole in percent, as `43%`, `0.4%`, `<0.1%`; empty when there is no whole.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    match tenths {
        0 if part > 0 => "<0.1%".to_owned(),
        0 => "0%".to_owned(),
        1..100 => format!("{}.{}%", tenths / 10, tenths % 10),
        _ => format!("{}%", (tenths + 5) / 10),
    }
}

/// A duration in milliseconds: `0 ms`, `950 ms`, `12.3 s`.
#[must_use]
pub fn duration(ms: u32) -> String {
    if ms < 10_000 {
        format!("{} ms", whole(u64::from(ms)))
    } else {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    }
}

/// `1 message`, `2 messages`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", whole(number), if number == 1 { "" } else { "s" })
}

fn utc(at: Timestamp, pattern: &str) -> String {
    at.to_utc().format(pattern).to_string()
}

/// `20:14:03`.
#[must_use]
pub fn clock(at: Timestamp) -> String {
    utc(at, "%H:%M:%S")
}

/// `20 Nov 2026`.
#[must_use]
pub fn date(at: Timestamp) -> String {
    utc(at, "%-d %b %Y")
}

/// A stretch of hours: `20 Nov, 14:00–15:00`, or `20 Nov` when it is a day.
#[must_use]
pub fn stretch(from: Hour, hours: i64) -> String {
    let (start, end) = (from.start(), Hour(from.0 + hours).start());
    if hours == 24 {
        return utc(start, "%a %-d %b");
    }
    format!("{}–{}", utc(start, "%-d %b, %H:%M"), utc(end, "%H:%M"))
}

/// A place on the axis of hours: the day where one begins, else the time.
#[must_use]
pub fn axis(hour: Hour) -> String {
    let at = hour.start();
    if hour.0.rem_euclid(24) == 0 { utc(at, "%-d %b") } else { utc(at, "%H:%M") }
}

/// A length in tenths of a pixel, which is what the charts count in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenths(pub i64);

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let size = self.0.unsigned_abs();
        if size.is_multiple_of(10) {
            write!(f, "{sign}{}", size / 10)
        } else {
            write!(f, "{sign}{}.{}", size / 10, size % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!([0, 999, 1_000, 12_345_678].map(whole), ["0", "999", "1,000", "12,345,678"]);
        assert_eq!(
            [0, 999, 1_000, 1_250, 15_000, 2_500_000, u64::MAX].map(short),
            ["0", "999", "1k", "1.2k", "15k", "2.5M", "18446744T"].map(str::to_owned)
        );
        let parts = [(0, 0), (0, 9), (1, 9_000), (3, 400), (1, 3), (999, 1_000), (7, 7)];
        let shown = parts.map(|(part, whole)| percent(part, whole));
        assert_eq!(shown, ["", "0%", "<0.1%", "0.7%", "33%", "100%", "100%"]);
        assert_eq!([0, 9_999, 12_345].map(duration), ["0 ms", "9,999 ms", "12.3 s"]);
        assert_eq!([1, 2].map(|n| counted(n, "message")), ["1 message", "2 messages"]);
        assert_eq!([0, 5, 120, -15].map(|n| Tenths(n).to_string()), ["0", "0.5", "12", "-1.5"]);
    }

    #[test]
    fn times_say_their_day_where_one_begins() {
        let hour = Hour(498_668); // 2026-11-20T20:00Z
        assert_eq!((axis(hour), axis(Hour(hour.0 + 4))), ("20:00".to_owned(), "21 Nov".to_owned()));
        assert_eq!(stretch(hour, 1), "20 Nov, 20:00–21:00");
        assert_eq!(stretch(Hour(hour.0 - 20), 24), "Fri 20 Nov");
        assert_eq!(
            (clock(hour.start()), date(hour.start())),
            ("20:00:00".to_owned(), "20 Nov 2026".to_owned())
        );
    }
}
