//! One run of a process, from spawn to reaping.
//!
//! Signals go through a handle (a pidfd), which names this process for ever; its pid is used only
//! while nobody can have reaped it.

use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Spec;
use crate::error::{StackError, at};
use crate::family::{Family, has_ended};
use crate::ready::PAUSE;
use crate::{log, spawner};

/// How long a killed process, or the child of a dropped handle, may take to be gone.
const DEATH_BOUND: Duration = Duration::from_secs(10);

/// A spawned process and the thread that reaps it.
pub(super) struct Running {
    pub(super) handle: OwnedFd,
    pid: Pid,
    death: Signal,
    /// How long the log was before this start.
    pub(super) log_from: u64,
    status: watch::Receiver<Option<ExitStatus>>,
    reaper: Option<JoinHandle<()>>,
}

impl Running {
    /// Spawns the process and begins to wait for its end.
    pub(super) fn spawn(spec: &Spec) -> Result<Self, StackError> {
        let part = &spec.part;
        let (out, log_from) = log::open(&spec.log).map_err(at(part, "open", &spec.log))?;
        let err = out.try_clone().map_err(at(part, "open", &spec.log))?;
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.args)
            .env_clear()
            .envs(spec.env.iter().cloned())
            .current_dir(&spec.folder);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        if let Some(account) = spec.account {
            account.apply(&mut command);
        }
        let mut child =
            spawner::spawn(command, spec.death).map_err(at(part, "start", &spec.program))?;
        let pid = Pid::from_child(&child);
        // Nobody has reaped it yet, so the pid still is this child.
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| {
            // Without a handle it could not be ended later: end it now, by what is at hand.
            let ended = child.kill().and_then(|()| child.wait());
            StackError::new(part, format!("no handle on its process ({ended:?})")).caused_by(error)
        })?;
        let (sender, status) = watch::channel(None);
        let reaper = thread::spawn(move || reap(child, pid, &sender));
        Ok(Self { handle, pid, death: spec.death, log_from, status, reaper: Some(reaper) })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn status(&self) -> Option<ExitStatus> {
        *self.status.borrow()
    }

    /// Waits for the end; `None` when even the wait failed.
    pub(super) async fn ended(&self) -> Option<ExitStatus> {
        let mut status = self.status.clone();
        status.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Only one refusal is possible, "has ended", and then there is nothing to ask.
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// Kills the process and its descendants, and waits until they are gone.
    pub(super) async fn kill(&self, part: &str) -> Result<(), StackError> {
        if self.status().is_some() {
            return Ok(()); // Its number may be another's by now.
        }
        let family = Family::below(self.pid);
        self.signal(Signal::KILL);
        family.kill();
        let gone = async {
            self.ended().await;
            while !family.is_gone() {
                sleep(PAUSE).await;
            }
        };
        let late = |_| StackError::new(part, format!("process {} outlives SIGKILL", self.pid()));
        timeout(DEATH_BOUND, gone).await.map_err(late)
    }
}

/// A handle that goes takes its process with it; blocks until it is gone.
impl Drop for Running {
    fn drop(&mut self) {
        if self.status().is_none() {
            self.signal(self.death);
            if !has_ended(&self.handle, DEATH_BOUND) {
                let family = Family::below(self.pid);
                self.signal(Signal::KILL);
                family.kill();
            }
        }
        if let Some(reaper) = self.reaper.take() {
            drop(reaper.join()); // It cannot panic; and in a drop nobody could be told.
        }
    }
}

/// Waits for the end of `child`, kills what is left of its group, reaps it, and says so.
fn reap(mut child: std::process::Child, pid: Pid, sender: &watch::Sender<Option<ExitStatus>>) {
    // The zombie keeps its number, so the group is still this child's when it is killed.
    let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    if ended.is_ok() {
        let _ = kill_process_group(pid, Signal::KILL); // "No such group" is the usual, good answer.
    }
    if let Ok(status) = child.wait() {
        sender.send_replace(Some(status));
    }
}
