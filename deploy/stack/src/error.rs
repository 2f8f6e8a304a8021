//! The one error of this crate: which part, what failed, how to mend it, and what its log says.
//!
//! Absent on purpose: kinds to match on. A part that cannot be had or started ends a run; the
//! reader is a person.

use std::error::Error;
use std::fmt;
use std::path::Path;

use crate::log;

/// Why a part of the stack could not be had, started, stopped or asked.
#[derive(Debug)]
pub struct StackError {
    part: String,
    what: String,
    mend: Option<String>,
    log_tail: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StackError {
    /// `part` as people know it, `what` as a clause that follows a colon.
    pub fn new(part: impl Into<String>, what: impl Into<String>) -> Self {
        Self { part: part.into(), what: what.into(), mend: None, log_tail: None, source: None }
    }

    /// Adds what a person can do about it, as a sentence without its full stop.
    #[must_use]
    pub fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }

    /// Adds the error behind this one.
    #[must_use]
    pub fn caused_by(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// Adds the last lines that a log got since it was `from` bytes long.
    #[must_use]
    pub(crate) fn with_log(self, path: &Path, from: u64) -> Self {
        Self { log_tail: Some(log::tail(path, from)), ..self }
    }

    /// The part it is about.
    pub fn part(&self) -> &str {
        &self.part
    }

    /// The last lines of the part's log, where it has one.
    pub fn log_tail(&self) -> Option<&str> {
        self.log_tail.as_deref()
    }

    /// Everything a person needs, on several lines: the error, its causes, its log, the remedy.
    pub fn report(&self) -> String {
        let mut report = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            report.push_str(&format!("\n  because: {error}"));
            cause = error.source();
        }
        if let Some(tail) = &self.log_tail {
            report.push_str(&format!("\n  its log ends:\n{tail}"));
        }
        if let Some(mend) = &self.mend {
            report.push_str(&format!("\n  to mend it: {mend}"));
        }
        report
    }
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.what)
    }
}

impl Error for StackError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// Turns an I/O error about a path into a [`StackError`] that names both.
pub(crate) fn at(
    part: &str,
    doing: &str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> StackError {
    let what = format!("cannot {doing} {}", path.display());
    let part = part.to_owned();
    move |error| StackError::new(part, what).caused_by(error)
}
