//! What a fetch shows on stderr: a moving bar on a terminal, a line now and then elsewhere.
//!
//! The measure is what the fetch has put on disk, since neither apt nor npm tells its progress to
//! a program that is not a terminal. The expected size is a good guess, so the bar never says 100 %
//! before the fetch is done.

use std::fs;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Want;

const MOVING: Duration = Duration::from_millis(150);
const LINES: Duration = Duration::from_secs(5);
const BAR: u64 = 24;

/// Shows progress until it is done, or dropped by a fetch that failed.
pub(crate) struct Progress {
    done: Option<Sender<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Watches `folder` fill.
    pub fn start(want: Want<'_>, folder: &Path) -> Self {
        let (done, told) = channel();
        let view = View {
            name: want.name.to_owned(),
            expected: want.expected_bytes,
            folder: folder.to_owned(),
            started: Instant::now(),
            terminal: stderr().is_terminal(),
        };
        Self { done: Some(done), thread: Some(thread::spawn(move || view.run(&told))) }
    }

    /// Shows that the fetch is complete.
    pub fn done(mut self) {
        self.end(true);
    }

    fn end(&mut self, complete: bool) {
        // The thread may only have ended by a panic of its own; progress is not worth another.
        if let (Some(done), Some(thread)) = (self.done.take(), self.thread.take()) {
            let _ = done.send(complete);
            drop(thread.join());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end(false);
    }
}

struct View {
    name: String,
    expected: u64,
    folder: PathBuf,
    started: Instant,
    terminal: bool,
}

impl View {
    fn run(&self, told: &Receiver<bool>) {
        let pause = if self.terminal { MOVING } else { LINES };
        let mut max = 0; // A fetch also removes files; a bar only grows.
        self.show(max);
        loop {
            match told.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {
                    max = max.max(size(&self.folder));
                    self.show(max);
                }
                Ok(true) => return self.finish("fetched"),
                Ok(false) | Err(RecvTimeoutError::Disconnected) => {
                    return self.finish("not fetched");
                }
            }
        }
    }

    fn show(&self, bytes: u64) {
        let line = line(&self.name, bytes, self.expected);
        self.write(&if self.terminal { format!("\r{line}\x1b[K") } else { format!("{line}\n") });
    }

    fn finish(&self, outcome: &str) {
        let begin = if self.terminal { "\r\x1b[K" } else { "" };
        self.write(&format!(
            "{begin}{}: {outcome} in {} s\n",
            self.name,
            self.started.elapsed().as_secs()
        ));
    }

    fn write(&self, text: &str) {
        // Nothing depends on what is shown, and there is nowhere else to say that it cannot be.
        drop(stderr().lock().write_all(text.as_bytes()));
    }
}

/// One line: the name, a bar of `BAR` cells, megabytes of about how many.
fn line(name: &str, bytes: u64, expected: u64) -> String {
    let expected = expected.max(1);
    let filled = (bytes.min(expected) * BAR / expected).min(BAR - 1);
    let cells: String = (0..BAR).map(|cell| if cell < filled { '#' } else { '.' }).collect();
    format!(
        "{name}: fetching [{cells}] {} of about {} MB",
        bytes / 1_000_000,
        expected.div_ceil(1_000_000)
    )
}

/// The bytes of all files below `folder`; what vanishes meanwhile counts as nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_but_is_never_full_before_the_end() {
        assert_eq!(
            line("x", 0, 48_000_000),
            format!("x: fetching [{}] 0 of about 48 MB", ".".repeat(24))
        );
        let half = format!("{}{}", "#".repeat(12), ".".repeat(12));
        assert_eq!(
            line("x", 24_000_000, 48_000_000),
            format!("x: fetching [{half}] 24 of about 48 MB")
        );
        assert!(line("x", 90_000_000, 48_000_000).contains("#."));
    }

    #[test]
    fn size_counts_files_in_all_depths() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/x"), [0; 7]).unwrap();
        fs::write(folder.path().join("y"), [0; 5]).unwrap();
        assert_eq!(size(folder.path()), 12);
    }
}
