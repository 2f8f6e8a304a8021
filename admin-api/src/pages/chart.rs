//! The geometry of a stacked bar chart, in tenths of a pixel. Pure; the template draws what stands here.

use super::format::{Tenths, short};

/// One bar: its name for people, what stands under it (mostly nothing), and a value for each series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    pub title: String,
    pub under: Option<String>,
    pub values: Vec<u64>,
}

/// How large to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Unit: pixels.
    pub width: i64,
    /// Unit: pixels.
    pub height: i64,
}

/// A chart, ready to be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    pub width: i64,
    pub height: i64,
    pub left: Tenths,
    pub right: Tenths,
    pub bottom: Tenths,
    pub ticks: Vec<Tick>,
    pub columns: Vec<Column>,
}

/// A line across, and the number beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    pub y: Tenths,
    pub text_y: Tenths,
    pub text: String,
}

/// One bar as drawn; the slot around it is what a pointer meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub title: String,
    pub slot_x: Tenths,
    pub slot_width: Tenths,
    pub x: Tenths,
    pub width: Tenths,
    pub middle: Tenths,
    pub under: Option<String>,
    pub segments: Vec<Segment>,
}

/// One series in one bar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub series: usize,
    pub y: Tenths,
    pub height: Tenths,
}

const LEFT: i64 = 440;
const RIGHT: i64 = 40;
const TOP: i64 = 100;
const BOTTOM: i64 = 260;
/// Between the segments of a bar.
const GAP: i64 = 10;

/// Lays the bars out.
#[must_use]
pub fn plot(bars: &[Bar], size: Size) -> Plot {
    let (right, bottom) = (size.width * 10 - RIGHT, size.height * 10 - BOTTOM);
    let tallest = bars.iter().map(|bar| bar.values.iter().sum()).max().unwrap_or(0);
    let (step, steps) = scale(tallest);
    let top_value = step * steps;
    let height_of = |value: u64| scaled(value, bottom - TOP, top_value);
    let ticks = (0..=steps).map(|n| {
        let y = bottom - height_of(step * n);
        Tick { y: Tenths(y), text_y: Tenths(y + 40), text: short(step * n) }
    });
    let count = i64::try_from(bars.len()).unwrap_or(i64::MAX).max(1);
    let columns = (0..).zip(bars).map(|(n, bar)| {
        let slot = LEFT + (right - LEFT) * n / count;
        let slot_width = LEFT + (right - LEFT) * (n + 1) / count - slot;
        let margin = slot_width * 14 / 100;
        let (x, width) = (slot + margin, slot_width - 2 * margin);
        Column {
            title: bar.title.clone(),
            slot_x: Tenths(slot),
            slot_width: Tenths(slot_width),
            x: Tenths(x),
            width: Tenths(width),
            middle: Tenths(x + width / 2),
            under: bar.under.clone(),
            segments: segments(&bar.values, bottom, height_of),
        }
    });
    Plot {
        width: size.width,
        height: size.height,
        left: Tenths(LEFT),
        right: Tenths(right),
        bottom: Tenths(bottom),
        ticks: ticks.collect(),
        columns: columns.collect(),
    }
}

/// The segments of one bar, from the bottom up; what is there at all is seen, if only as a line.
fn segments(values: &[u64], bottom: i64, height_of: impl Fn(u64) -> i64) -> Vec<Segment> {
    let mut below = 0;
    let mut found = Vec::new();
    for (series, value) in values.iter().enumerate().filter(|(_, value)| **value > 0) {
        let (low, high) = (height_of(below), height_of(below + value));
        let gap = if below > 0 { GAP.min((high - low) / 2) } else { 0 };
        let height = (high - low - gap).max(10);
        found.push(Segment {
            series,
            y: Tenths(bottom - low - gap - height),
            height: Tenths(height),
        });
        below += value;
    }
    found
}

fn scaled(value: u64, length: i64, whole: u64) -> i64 {
    let length = u128::try_from(length).unwrap_or(0);
    i64::try_from(u128::from(value) * length / u128::from(whole.max(1))).unwrap_or(i64::MAX)
}

/// The step between lines, 1, 2 or 5 times a power of ten, and how many reach `tallest`: at most five.
fn scale(tallest: u64) -> (u64, u64) {
    let mut power = 1u64;
    loop {
        for factor in [1, 2, 5] {
            let step = power.saturating_mul(factor);
            let steps = tallest.div_ceil(step).max(1);
            if steps <= 5 || step > u64::MAX / 10 {
                return (step, steps);
            }
        }
        power = power.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 1000, height: 300 };

    fn bar(values: &[u64]) -> Bar {
        Bar { title: "t".into(), under: None, values: values.to_vec() }
    }

    #[test]
    fn lines_are_few_and_round_and_reach_the_tallest_bar() {
        let cases = [0, 1, 5, 6, 10, 11, 999, 1_000, 123_456];
        let scales = cases.map(scale);
        assert_eq!(
            scales,
            [(1, 1), (1, 1), (1, 5), (2, 3), (2, 5), (5, 3), (200, 5), (200, 5), (50_000, 3)]
        );
        for (tallest, (step, steps)) in cases.into_iter().zip(scales) {
            assert!(step * steps >= tallest);
        }
    }

    #[test]
    fn bars_stay_inside_do_not_overlap_and_are_as_tall_as_their_sum() {
        let bars: Vec<Bar> = (0..24).map(|n| bar(&[n, 3, 0, n * 7])).collect();
        let plot = plot(&bars, SIZE);
        for pair in plot.columns.windows(2) {
            assert!(pair[0].x.0 + pair[0].width.0 < pair[1].x.0);
            assert_eq!(pair[0].slot_x.0 + pair[0].slot_width.0, pair[1].slot_x.0, "slots touch");
        }
        let last = plot.columns.last().unwrap();
        assert_eq!(Tenths(last.slot_x.0 + last.slot_width.0), plot.right);
        let top =
            |column: &Column| column.segments.iter().map(|segment| segment.y.0).min().unwrap();
        let highest = plot.ticks.last().unwrap().y.0;
        for (column, bar) in plot.columns.iter().zip(&bars) {
            assert!(top(column) >= highest && column.segments.iter().all(|s| s.height.0 >= 10));
            assert!(!column.segments.iter().any(|segment| bar.values[segment.series] == 0));
            for pair in column.segments.windows(2) {
                assert!(pair[1].y.0 + pair[1].height.0 <= pair[0].y.0, "segments overlap");
            }
        }
        // 187 of 200 over a plot of 2640 tenths.
        assert_eq!(top(last), plot.bottom.0 - 2640 * 187 / 200);
    }

    #[test]
    fn nothing_is_drawn_as_nothing() {
        assert_eq!(plot(&[], SIZE).columns.len(), 0);
        assert!(plot(&[bar(&[0, 0])], SIZE).columns[0].segments.is_empty());
    }
}
