//! Text tables and durations for people.

use std::fmt::Write;

/// Columns under their names, as wide as their widest cell. No rows = nothing.
pub(super) fn table(names: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(names.get(column).map(|name| name.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(text, "  {}", padded.join("  ").trim_end()).expect("a String takes all");
    };
    line(&mut names.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// A length of time in its two largest units. Unit: milliseconds.
pub(super) fn age(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_under_their_names() {
        let rows =
            [vec!["a".to_owned(), "12345".to_owned()], vec!["bcd".to_owned(), "1".to_owned()]];
        assert_eq!(table(&["x", "y"], &rows), "  x    y\n  a    12345\n  bcd  1\n");
        assert_eq!(table(&["x"], &[]), "");
    }

    #[test]
    fn an_age_has_two_units() {
        for (ms, text) in [
            (-5, "0s"),
            (59_999, "59s"),
            (60_000, "1m 0s"),
            (3_661_000, "1h 1m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(age(ms), text);
        }
    }
}
