//! The descendants of a process, held so that a signal can never reach a stranger.
//!
//! A part may have children of its own (PostgreSQL's backends, an MCP server behind a node) that
//! leave its process group. A kill that spared them would be kinder than any real crash, and a
//! restart would meet them.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Handles on processes: they name the same process for ever, unlike a pid.
pub(crate) struct Family(Vec<OwnedFd>);

impl Family {
    /// Everything below `ancestor` now, the ancestor aside.
    pub fn below(ancestor: Pid) -> Self {
        let parents = parents();
        let mut found = vec![ancestor.as_raw_nonzero().get()];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        // One that has ended since has no handle and needs none.
        let open = |&pid: &i32| pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok();
        Self(found.iter().skip(1).filter_map(open).collect())
    }

    /// Sends SIGKILL to all that still run.
    pub fn kill(&self) {
        for member in &self.0 {
            // Only one refusal is possible, "has ended", and that is what is wanted.
            let _ = pidfd_send_signal(member, Signal::KILL);
        }
    }

    /// Whether all have ended.
    pub fn is_gone(&self) -> bool {
        self.0.iter().all(|member| has_ended(member, Duration::ZERO))
    }
}

/// Whether the process behind `handle` ends within `bound`; blocks for as long.
pub(crate) fn has_ended(handle: &OwnedFd, bound: Duration) -> bool {
    let bound = Timespec::try_from(bound).ok();
    let mut handles = [PollFd::new(handle, PollFlags::IN)];
    matches!(poll(&mut handles, bound.as_ref()), Ok(1))
}

/// Every process with its parent, from `/proc`.
fn parents() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // `pid (name) state parent ...`, and the name may hold anything, brackets too.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}
