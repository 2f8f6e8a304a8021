//! One child process from start to end: the type under every part and every service.
//!
//! Invariants:
//! - it leads a process group of its own, so a Ctrl-C in the terminal reaches only us;
//! - it ends with this process, also when this one is killed (`spawner.rs`), and with this handle;
//! - `kill` is a crash of the whole part: its descendants die with it;
//! - it is always reaped, and no signal is ever sent by a pid that may have been reused.
//!
//! Absent on purpose: restarts of its own accord. Who starts a part again decides when.

mod running;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::account::Account;
use crate::error::StackError;
use crate::log;
use crate::ready::{PAUSE, Probe, Probed};
use running::Running;

/// How to start and to end a process.
pub(crate) struct Spec {
    /// The part as people know it.
    pub part: String,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    pub folder: PathBuf,
    pub log: PathBuf,
    pub account: Option<Account>,
    /// How long it may take from its start until it serves.
    pub ready_bound: Duration,
    /// The signal that asks for an orderly end, and how long that may take before SIGKILL.
    pub stop: Signal,
    pub stop_bound: Duration,
    /// The signal at the death of this process.
    pub death: Signal,
}

/// A process that was started, and can be started again.
pub struct Child {
    spec: Spec,
    probe: Probe,
    running: Option<Running>,
}

impl Child {
    /// Starts the process and waits until it serves.
    ///
    /// # Errors
    /// It cannot be spawned, ends before it serves, or does not serve in time; it is
    /// gone then.
    pub(crate) async fn start(spec: Spec, probe: Probe) -> Result<Self, StackError> {
        let mut child = Self { spec, probe, running: None };
        child.start_again().await?;
        Ok(child)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().filter(|running| running.status().is_none()).map(Running::pid)
    }

    /// Waits until the process has ended, of whatever cause; at once when it does not run.
    pub async fn ended(&self) -> Option<ExitStatus> {
        match &self.running {
            Some(running) => running.ended().await,
            None => None,
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        log::tail(&self.spec.log, 0)
    }

    /// Ends the process in an orderly way, or by SIGKILL when that takes too long.
    ///
    /// # Errors
    /// It outlives even SIGKILL.
    pub async fn stop(&mut self) -> Result<(), StackError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.signal(self.spec.stop);
        if timeout(self.spec.stop_bound, running.ended()).await.is_ok() {
            return Ok(());
        }
        running.kill(&self.spec.part).await
    }

    /// Kills the process and its descendants with SIGKILL, and waits until they are gone.
    ///
    /// # Errors
    /// One of them outlives it.
    pub async fn kill(&mut self) -> Result<(), StackError> {
        match self.running.take() {
            Some(running) => running.kill(&self.spec.part).await,
            None => Ok(()),
        }
    }

    /// Starts a process that was stopped, killed or has crashed: same command, same data.
    ///
    /// # Errors
    /// It runs already, or as for the first start.
    pub async fn start_again(&mut self) -> Result<(), StackError> {
        if let Some(pid) = self.pid() {
            return Err(StackError::new(
                &self.spec.part,
                format!("runs already, as process {pid}"),
            ));
        }
        self.running = None;
        let running = Running::spawn(&self.spec)?;
        self.serves(&running)
            .await
            .map_err(|error| error.with_log(&self.spec.log, running.log_from))?;
        self.running = Some(running);
        Ok(())
    }

    /// Waits until the process answers its probe.
    async fn serves(&self, running: &Running) -> Result<(), StackError> {
        let part = &self.spec.part;
        let give_up = Instant::now() + self.spec.ready_bound;
        loop {
            let answer = tokio::select! {
                answer = (self.probe)(running.pid()) => answer,
                status = running.ended() => return Err(ended_early(part, status)),
            };
            let reason = match answer {
                Probed::Ready => return Ok(()),
                Probed::Never(error) => return Err(error),
                Probed::NotYet(reason) => reason,
            };
            if Instant::now() > give_up {
                let bound = self.spec.ready_bound.as_secs();
                return Err(StackError::new(
                    part,
                    format!("did not serve within {bound} s: {reason}"),
                ));
            }
            sleep(PAUSE).await;
        }
    }
}

/// Runs a process to its end.
///
/// # Errors
/// It cannot be spawned, fails, or takes longer than `bound`.
pub(crate) async fn run(spec: &Spec, bound: Duration) -> Result<(), StackError> {
    let running = Running::spawn(spec)?;
    let from = running.log_from;
    let what = match timeout(bound, running.ended()).await {
        Ok(Some(status)) if status.success() => return Ok(()),
        Ok(status) => format!("{} failed with {}", spec.program.display(), describe(status)),
        Err(_) => format!("{} took more than {} s", spec.program.display(), bound.as_secs()),
    };
    Err(StackError::new(&spec.part, what).with_log(&spec.log, from))
}

fn ended_early(part: &str, status: Option<ExitStatus>) -> StackError {
    StackError::new(part, format!("ended before it served, with {}", describe(status)))
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "a status that nobody could read".to_owned(), |status| status.to_string())
}
