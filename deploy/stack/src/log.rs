//! Log files of child processes: one per process, appended to at every start.
//!
//! Absent on purpose: rotation. A stack lives for a demo or a test run.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much of a log an error shows. Units: bytes, lines.
const TAIL_BYTES: u64 = 8 * 1024;
const TAIL_LINES: usize = 25;

/// Opens a log for appending and says how long it was.
pub(crate) fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// The last lines that the log at `path` got after its first `from` bytes, indented.
///
/// A log that cannot be read says so in place of its lines: this feeds error messages, where a
/// second error would hide the first.
pub(crate) fn tail(path: &Path, from: u64) -> String {
    match read_tail(path, from) {
        Ok(text) if text.trim().is_empty() => format!("    ({} is empty)", path.display()),
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            format!("    {}\n    (from {})", last.join("\n    "), path.display())
        }
        Err(error) => format!("    ({} cannot be read: {error})", path.display()),
    }
}

fn read_tail(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_holds_the_last_lines_of_this_start_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        std::fs::write(&path, "old\n").unwrap();
        let lines: String = (0..100).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, format!("old\n{lines}")).unwrap();
        let text = tail(&path, 4);
        assert!(text.contains("line 99") && text.contains("line 75") && !text.contains("line 74"));
        std::fs::write(&path, "old\nnew\n").unwrap();
        let text = tail(&path, 4);
        assert!(text.contains("new") && !text.contains("old\n"), "{text}");
    }
}
