//! What a benchmark says: lines for people above, one line of JSON last, the same line in a file.

use std::{error::Error, fs, path::PathBuf};

use serde::Serialize;

use crate::Outcome;

/// The middle of some values, by the mean of the two middle ones where there is no single one.
///
/// # Panics
/// There is no value.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a median needs a value");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

/// The value below which `percent` of all values lie. Range of `percent`: 0 to 100.
///
/// # Panics
/// There is no value.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    assert!(!values.is_empty(), "a percentile needs a value");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) * percent).div_ceil(100)]
}

/// A value with three decimals: more would be noise.
pub fn short(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// A rate or a time as a whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measure, at least 0"
)]
pub fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

/// A count as a measure.
pub fn measure(count: u64) -> f64 {
    count as f64
}

/// Writes `target/bench/NAME.json` and prints the same line.
pub fn finish(name: &str, figures: &impl Serialize) -> Outcome<()> {
    let line = serde_json::to_string(figures)?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("{name}.json")), format!("{line}\n"))?;
    println!("{line}");
    Ok(())
}

/// An error with all that is behind it.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    if let Some(stack) = error.downcast_ref::<stack::StackError>() {
        return stack.report();
    }
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_values_of_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let hundred: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (50.0, 99.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
    }
}
