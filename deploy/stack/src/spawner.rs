//! The one thread that forks every child process.
//!
//! A child asks the kernel for a signal at the death of its parent, and the kernel takes the
//! *thread* that forked for the parent. A runtime's worker may end long before the process does, so
//! forks happen here, in a thread that ends with the process and not before.
//!
//! The death signal is set in the child between fork and exec, after std has changed user and
//! group: a change of credentials clears it. (`setpriv --pdeathsig` would set it at the same point,
//! but without the check below.)

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

struct Job {
    command: Command,
    reply: SyncSender<io::Result<Child>>,
}

static SPAWNER: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = channel::<Job>();
    thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || {
            for mut job in jobs {
                drop(job.reply.send(job.command.spawn())); // The caller blocks until it has this.
            }
        })
        .expect("a process that cannot start one thread cannot start children either");
    sender
});

/// Spawns `command` as the leader of its own process group; it gets `death` when this process ends.
///
/// # Errors
/// Fork or exec failed, or this process ended in between.
pub(crate) fn spawn(mut command: Command, death: Signal) -> io::Result<Child> {
    let parent = getpid();
    command.process_group(0);
    #[allow(unsafe_code)]
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes two
    // system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(death))?;
            // A parent that died before the line above sends no signal.
            if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
        });
    }
    let (reply, answer) = sync_channel(1);
    let gone = || io::Error::other("the spawner thread has ended");
    SPAWNER.send(Job { command, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}
