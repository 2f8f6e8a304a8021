//! The one table that says what runs where.

use std::path::Path;

use serde::Serialize;

use crate::part::Part;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub part: String,
    pub version: String,
    pub address: String,
    /// `None`: someone else runs it.
    pub pid: Option<u32>,
    pub log: String,
}

impl Row {
    /// The row of a part whose log is in `folder`.
    pub fn of(part: &impl Part, folder: &crate::folder::Folder) -> Self {
        let pid = part.pid();
        let log = if pid.is_some() { show(&folder.log(part.name())) } else { "-".to_owned() };
        let (name, version) = (part.name().to_owned(), part.version().to_owned());
        Self { part: name, version, address: part.address(), pid, log }
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

/// The rows under a head, in columns as wide as they need.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![["PART", "VERSION", "PID", "ADDRESS", "LOG"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let pid = row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        [row.part.clone(), row.version.clone(), pid, row.address.clone(), row.log.clone()]
    }));
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let show = |line: &[String; 5]| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |part: &str, pid, address: &str| Row {
            part: part.to_owned(),
            version: "1.2.3".to_owned(),
            address: address.to_owned(),
            pid,
            log: "/x".to_owned(),
        };
        let text = table(&[
            row("nats", Some(7), "nats://127.0.0.1:4222"),
            row("clickhouse", None, "http://x"),
        ]);
        assert_eq!(
            text,
            "PART        VERSION  PID  ADDRESS                LOG\n\
             nats        1.2.3    7    nats://127.0.0.1:4222  /x\n\
             clickhouse  1.2.3    -    http://x               /x\n"
        );
    }
}
