//! The stretches of time that the page offers, and the bars that they are cut into. Pure.

use schemas::{Hour, Timestamp};

use crate::read::span::Span;

/// A stretch of time that the page offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// In the address.
    pub name: &'static str,
    pub label: &'static str,
    /// "in the last ...".
    pub words: &'static str,
    pub hours: i64,
    /// How many hours one bar is.
    pub bar_hours: u32,
    pub bar_words: &'static str,
    /// A time stands under every how many-eth bar, in the wide chart and in the narrow one.
    pub under_every: (i64, i64),
}

/// All of them; the first is shown unasked.
pub const RANGES: [Range; 3] = [
    Range {
        name: "24h",
        label: "24 hours",
        words: "24 hours",
        hours: 24,
        bar_hours: 1,
        bar_words: "hour",
        under_every: (3, 6),
    },
    Range {
        name: "7d",
        label: "7 days",
        words: "7 days",
        hours: 168,
        bar_hours: 6,
        bar_words: "6 hours",
        under_every: (4, 8),
    },
    Range {
        name: "30d",
        label: "30 days",
        words: "30 days",
        hours: 720,
        bar_hours: 24,
        bar_words: "day",
        under_every: (3, 7),
    },
];

impl Range {
    /// The whole bars up to and with the one that is running.
    #[must_use]
    pub fn span(self, now: Timestamp) -> Span {
        let bar = i64::from(self.bar_hours);
        let to = (now.hour().0.div_euclid(bar) + 1) * bar;
        Span { from: Hour(to - self.hours), to: Hour(to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_with_the_bar_that_is_running() {
        let now = Timestamp(1_795_204_800_000 + 5); // 2026-11-20T20:00:00.005Z
        for range in RANGES {
            let span = range.span(now);
            assert_eq!(span.hours(), range.hours);
            assert!(span.from.start() <= now && now < span.to.start(), "{}", range.name);
            assert_eq!(span.from.0.rem_euclid(i64::from(range.bar_hours)), 0);
        }
    }
}
