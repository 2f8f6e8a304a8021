//! What the usage page shows, made of what was read. Pure.

use std::collections::HashMap;

use schemas::{Hour, Timestamp};

use super::{
    cards::{Card, as_of, cards},
    chart::{Bar, Plot, Size, plot},
    format::{self, counted, percent, stretch, whole},
    range::Range,
};
use crate::read::{
    ledger::LedgerCount,
    span::Span,
    usage::{AsOf, Counts, Stretch, ToolUse},
};

/// Everything that was read for the page.
#[derive(Clone, Debug)]
pub struct Found {
    pub range: Range,
    pub span: Span,
    pub now: Timestamp,
    pub as_of: Option<AsOf>,
    /// How many messages of the log wait; `None` = it cannot be asked.
    pub lag: Option<u64>,
    pub stretches: Vec<Stretch>,
    pub tools: Vec<ToolUse>,
    /// `None` = it cannot be read.
    pub ledger: Option<LedgerCount>,
}

/// The page's body.
pub struct View {
    pub as_of: String,
    pub is_current: bool,
    pub range: Range,
    pub span: String,
    pub is_empty: bool,
    pub totals: Counts,
    pub cards: Vec<Card>,
    pub series: Vec<Series>,
    pub wide: Plot,
    pub narrow: Plot,
    pub summary: String,
    pub tools: Vec<ToolRow>,
    pub more_tools: bool,
    pub hours: Vec<HourRow>,
}

/// One colour of the chart.
pub struct Series {
    pub name: String,
    pub color: usize,
    pub calls: String,
}

/// One tool in the table.
pub struct ToolRow {
    pub name: String,
    pub color: usize,
    pub calls: String,
    pub share: String,
    /// The share as a width, `43.2%`.
    pub width: String,
    pub free: String,
    pub refused: String,
    pub p50: String,
    pub p95: String,
}

/// One bar in the chart's table.
pub struct HourRow {
    pub name: String,
    pub values: Vec<String>,
    pub total: String,
}

/// As many tools have a colour of their own; the others share one.
const COLORS: usize = 7;
const OTHER: usize = COLORS;
/// As many tools are listed.
pub const MAX_TOOLS: u32 = 100;
const WIDE: Size = Size { width: 1040, height: 280 };
const NARROW: Size = Size { width: 380, height: 240 };

/// Makes the page's body.
#[must_use]
pub fn view(found: &Found) -> View {
    let totals = found.stretches.iter().fold(Counts::default(), |sum, stretch| Counts {
        calls: sum.calls + stretch.counts.calls,
        free: sum.free + stretch.counts.free,
        refused: sum.refused + stretch.counts.refused,
    });
    let colors = colors(&found.tools);
    let names = series_names(&found.tools, &colors);
    let values = values(found, &colors, names.len());
    let (wide_every, narrow_every) = found.range.under_every;
    let series = names.iter().enumerate().map(|(color, name)| Series {
        name: shown(name),
        color, // The eighth, if there is one, is the one for others.
        calls: whole(values.iter().map(|bar| bar[color]).sum()),
    });
    let listed = usize::try_from(MAX_TOOLS).unwrap_or(usize::MAX);
    View {
        as_of: as_of(found),
        is_current: found.lag == Some(0),
        range: found.range,
        span: format!(
            "{} to {} UTC",
            format::date(found.span.from.start()),
            format::date(found.now)
        ),
        is_empty: totals == Counts::default(),
        totals,
        cards: cards(found, totals),
        series: series.collect(),
        wide: plot(&bars(found, &names, &values, wide_every), WIDE),
        narrow: plot(&bars(found, &names, &values, narrow_every), NARROW),
        summary: summary(found, &values, totals),
        more_tools: found.tools.len() > listed,
        tools: found
            .tools
            .iter()
            .take(listed)
            .map(|tool| tool_row(tool, &colors, totals))
            .collect(),
        hours: hour_rows(found, &values),
    }
}

const OTHER_NAME: &str = "other tools";

/// A tool's name as it is shown; a call that names no tool has none.
fn shown(tool: &str) -> String {
    if tool.is_empty() { "(no tool)".to_owned() } else { tool.to_owned() }
}

/// The colour of each billed tool: one of its own for the most used.
fn colors(tools: &[ToolUse]) -> HashMap<&str, usize> {
    let billed = tools.iter().filter(|tool| tool.counts.calls > 0);
    billed.enumerate().map(|(rank, tool)| (tool.tool.as_str(), rank.min(OTHER))).collect()
}

fn series_names(tools: &[ToolUse], colors: &HashMap<&str, usize>) -> Vec<String> {
    let own = tools
        .iter()
        .filter(|tool| colors.get(tool.tool.as_str()).is_some_and(|color| *color < OTHER));
    let mut names: Vec<String> = own.map(|tool| tool.tool.clone()).collect();
    if colors.values().any(|color| *color == OTHER) {
        names.push(OTHER_NAME.to_owned());
    }
    names
}

/// Billable calls of each bar and series. A tool that came up since the tools were read counts as another one.
fn values(found: &Found, colors: &HashMap<&str, usize>, series: usize) -> Vec<Vec<u64>> {
    let bars = found.span.hours() / i64::from(found.range.bar_hours);
    let mut values = vec![vec![0; series.max(1)]; usize::try_from(bars).unwrap_or(0)];
    for stretch in &found.stretches {
        let color =
            colors.get(stretch.tool.as_str()).copied().unwrap_or(OTHER).min(series.max(1) - 1);
        if let Some(value) = values.get_mut(stretch.index).and_then(|bar| bar.get_mut(color)) {
            *value += stretch.counts.calls;
        }
    }
    values
}

fn bar_start(found: &Found, n: usize) -> Hour {
    Hour(found.span.from.0 + i64::try_from(n).unwrap_or(0) * i64::from(found.range.bar_hours))
}

fn bars(found: &Found, names: &[String], values: &[Vec<u64>], under_every: i64) -> Vec<Bar> {
    let (width, values_len) = (i64::from(found.range.bar_hours), values.len());
    let bar = |(n, values): (usize, &Vec<u64>)| {
        let start = bar_start(found, n);
        let sum: u64 = values.iter().sum();
        let so_far = if n + 1 == values_len { ", so far" } else { "" };
        let mut title =
            format!("{} UTC{so_far}: {}", stretch(start, width), counted(sum, "billable call"));
        for (name, value) in names.iter().zip(values).rev().filter(|(_, value)| **value > 0) {
            title.push_str(&format!("\n{}: {}", shown(name), whole(*value)));
        }
        let shows = (start.0 / width).rem_euclid(under_every) == 0;
        Bar { title, under: shows.then(|| format::axis(start)), values: values.clone() }
    };
    values.iter().enumerate().map(bar).collect()
}

fn summary(found: &Found, values: &[Vec<u64>], totals: Counts) -> String {
    let sums = values.iter().map(|bar| bar.iter().sum::<u64>());
    let max = sums
        .enumerate()
        .max_by_key(|(n, sum)| (*sum, std::cmp::Reverse(*n)))
        .filter(|(_, sum)| *sum > 0);
    let max = max.map_or(String::new(), |(n, sum)| {
        let stretch = stretch(bar_start(found, n), i64::from(found.range.bar_hours));
        format!(" The most, {}, fall into {stretch} UTC.", whole(sum))
    });
    let range = found.range;
    format!(
        "{} in the last {}, a bar for every {}.{max}",
        counted(totals.calls, "billable call"),
        range.words,
        range.bar_words
    )
}

fn hour_rows(found: &Found, values: &[Vec<u64>]) -> Vec<HourRow> {
    let used =
        values.iter().enumerate().rev().filter(|(_, values)| values.iter().any(|value| *value > 0));
    used.map(|(n, values)| HourRow {
        name: stretch(bar_start(found, n), i64::from(found.range.bar_hours)),
        values: values.iter().map(|value| whole(*value)).collect(),
        total: whole(values.iter().sum()),
    })
    .collect()
}

fn tool_row(tool: &ToolUse, colors: &HashMap<&str, usize>, totals: Counts) -> ToolRow {
    let answered = tool.counts.calls + tool.counts.free > 0;
    let time = |ms| if answered { format::duration(ms) } else { "–".to_owned() };
    ToolRow {
        name: shown(&tool.tool),
        color: colors.get(tool.tool.as_str()).copied().unwrap_or(OTHER),
        calls: whole(tool.counts.calls),
        share: percent(tool.counts.calls, totals.calls),
        width: width(tool.counts.calls, totals.calls),
        free: whole(tool.counts.free),
        refused: whole(tool.counts.refused),
        p50: time(tool.p50_ms),
        p95: time(tool.p95_ms),
    }
}

fn width(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{}%", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::range::RANGES;

    fn counts(calls: u64, free: u64, refused: u64) -> Counts {
        Counts { calls, free, refused }
    }

    /// Tool `t<n>` has n calls in bar 0 and one in bar 5.
    fn found(tools: u64, ledger: u64, lag: Option<u64>) -> Found {
        let now = Timestamp(1_795_204_800_000);
        let range = RANGES[0];
        let stretch = |index, n: u64, counts| Stretch { index, tool: format!("t{n}"), counts };
        let used = |n: u64| ToolUse {
            tool: format!("t{n}"),
            counts: counts(n + 1, 2, 0),
            p50_ms: 3,
            p95_ms: 40,
        };
        Found {
            range,
            span: range.span(now),
            now,
            as_of: Some(AsOf { stream_seq: 1234, event_time: now.plus_ms(-60_000) }),
            lag,
            stretches: (1..=tools)
                .flat_map(|n| [stretch(0, n, counts(n, 2, 0)), stretch(5, n, counts(1, 0, 0))])
                .collect(),
            tools: (1..=tools).rev().map(used).collect(),
            ledger: Some(LedgerCount { calls: ledger, as_of_seq: 1 }),
        }
    }

    #[test]
    fn every_call_is_in_the_chart_the_cards_and_the_tables() {
        let shown = view(&found(10, 65, Some(0)));
        assert_eq!(shown.totals, counts(65, 20, 0));
        assert_eq!(shown.cards[0].number, "65");
        assert_eq!(
            (shown.cards[3].note.as_str(), shown.cards[3].tone),
            ("ties to the unit", "good")
        );
        assert_eq!(shown.series.len(), 8);
        assert_eq!((shown.series[7].name.as_str(), shown.series[7].color), ("other tools", OTHER));
        let in_series: u64 =
            shown.series.iter().map(|series| series.calls.parse::<u64>().unwrap()).sum();
        let in_hours: u64 = shown.hours.iter().map(|hour| hour.total.parse::<u64>().unwrap()).sum();
        let in_tools: u64 = shown.tools.iter().map(|tool| tool.calls.parse::<u64>().unwrap()).sum();
        assert_eq!((in_series, in_hours, in_tools), (65, 65, 65));
        assert_eq!((shown.wide.columns.len(), shown.hours.len()), (24, 2));
        assert!(
            shown.wide.columns[0].title.contains("55 billable calls")
                && shown.wide.columns[0].title.contains("\nt10: 10")
        );
        assert!(shown.as_of.contains("log message 1,234 · up to date"), "{}", shown.as_of);
    }

    #[test]
    fn the_ledger_ties_waits_or_differs() {
        let card = |ledger, lag, age_ms: i64| {
            let mut found = found(3, ledger, lag);
            found.as_of = Some(AsOf { stream_seq: 1, event_time: found.now.plus_ms(-age_ms) });
            let card = view(&found).cards.pop().unwrap();
            (card.note, card.tone)
        };
        assert_eq!(card(9, Some(0), 60_000).1, "good");
        assert_eq!(card(7, Some(0), 60_000), ("differs by 2".to_owned(), "bad"));
        assert_eq!(card(7, Some(3), 60_000), ("2 on the way".to_owned(), "wait"));
        assert_eq!(card(11, Some(0), 100), ("2 on the way".to_owned(), "wait"));
        assert_eq!(card(7, None, 60_000).1, "wait");
    }

    #[test]
    fn few_tools_have_a_colour_each_and_no_use_is_empty() {
        let shown = view(&found(7, 35, Some(0)));
        assert_eq!(shown.series.len(), 7);
        assert!(
            shown.series.iter().all(|series| series.color < OTHER && series.name != OTHER_NAME)
        );
        assert!(view(&found(0, 0, Some(0))).is_empty);
    }
}
