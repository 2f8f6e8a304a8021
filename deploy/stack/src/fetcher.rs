//! Runs the machine's own tools (npm, python3, apt-get, dpkg) to fetch something into a staging folder.
//!
//! They get this process's whole environment, proxies included; everything that they print goes to
//! a log whose last lines an error shows. They die with this process like any other child, at once.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;

use crate::child::{self, Spec};
use crate::error::StackError;
use crate::settings::Settings;

/// The bound on one tool's run: about 600 MB on a slow line.
const BOUND: Duration = Duration::from_secs(30 * 60);

/// Tools that work for one part in one folder.
pub(crate) struct Fetcher<'a> {
    part: &'a str,
    folder: &'a Path,
    log: PathBuf,
    settings: Settings,
}

impl<'a> Fetcher<'a> {
    /// `folder` is where the tools run and write; their log is `log`.
    pub fn new(part: &'a str, folder: &'a Path, log: PathBuf) -> Self {
        Self { part, folder, log, settings: Settings::from_env() }
    }

    /// Runs `tool` to its end.
    ///
    /// # Errors
    /// It is not in `PATH`, fails, or takes longer than half an hour.
    pub async fn run<A: AsRef<OsStr>>(&self, tool: &str, args: &[A]) -> Result<(), StackError> {
        self.run_at(&self.find(tool)?, args).await
    }

    /// Runs the tool at `program` to its end.
    ///
    /// # Errors
    /// It fails, or takes longer than half an hour.
    pub async fn run_at<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: &[A],
    ) -> Result<(), StackError> {
        let spec = Spec {
            part: self.part.to_owned(),
            program: program.to_owned(),
            args: args.iter().map(OsString::from).collect(),
            env: self.settings.everything().to_vec(),
            folder: self.folder.to_owned(),
            log: self.log.clone(),
            account: None,
            ready_bound: BOUND,
            stop: Signal::TERM,
            stop_bound: Duration::from_secs(5),
            death: Signal::KILL, // npm takes its time over a SIGTERM, and goes on writing.
        };
        child::run(&spec, BOUND).await
    }

    /// What `tool` prints, for a question that takes a moment.
    ///
    /// # Errors
    /// It is not in `PATH` or fails.
    pub async fn ask<A: AsRef<OsStr>>(&self, tool: &str, args: &[A]) -> Result<String, StackError> {
        ask(self.part, &self.find(tool)?, args).await
    }

    fn find(&self, tool: &str) -> Result<PathBuf, StackError> {
        let missing = || StackError::new(self.part, format!("{tool} is not in PATH"));
        self.settings.find(tool).ok_or_else(missing)
    }
}

/// What `program` prints on stdout when it is asked something that takes a moment.
///
/// # Errors
/// It cannot be run or fails; says what it printed on stderr.
pub(crate) async fn ask<A: AsRef<OsStr>>(
    part: &str,
    program: &Path,
    args: &[A],
) -> Result<String, StackError> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let failed = format!("cannot run {}", program.display());
    let output =
        command.output().await.map_err(|error| StackError::new(part, failed).caused_by(error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let what = format!("{} failed with {}", program.display(), output.status);
    Err(StackError::new(part, what).caused_by(String::from_utf8_lossy(&output.stderr).trim()))
}
