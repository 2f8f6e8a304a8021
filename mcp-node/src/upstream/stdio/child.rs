//! A child process: it leads a group of its own, and nothing of it outlives this process.
//!
//! It is asked to end by closing its input, then told to (SIGTERM), then made to (SIGKILL), each to its whole group.
//! If this process dies at once, the kernel ends the child; and its input closes, which ends well-behaved descendants.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{ExitStatus, Stdio},
    sync::{
        LazyLock,
        mpsc::{Sender, SyncSender, channel, sync_channel},
    },
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, getpid, getppid, kill_process_group, set_parent_process_death_signal},
};
use tokio::{
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    runtime::Handle,
};
use tokio_util::sync::CancellationToken;

/// How long a child may take to end once its input is closed, and again after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// The command that serves MCP on its standard input and output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCommand {
    pub program: String,
    pub args: Vec<String>,
    /// Variables of this node that the server must not see.
    pub hidden: Vec<String>,
}

/// A child and its three pipes.
pub struct Started {
    pub child: Child,
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
}

impl ServerCommand {
    /// Starts a child.
    ///
    /// # Errors
    /// The program cannot be run.
    pub async fn start(&self) -> io::Result<Started> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for variable in &self.hidden {
            command.env_remove(variable);
        }
        die_with_this_process(command.as_std_mut());
        let mut child = spawn(command).await?;
        let gone = || io::Error::other("a pipe of the child is missing");
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let stdout = child.stdout.take().ok_or_else(gone)?;
        let stderr = child.stderr.take().ok_or_else(gone)?;
        Ok(Started { child, stdin, stdout, stderr })
    }
}

#[expect(unsafe_code, reason = "nothing safe runs between fork and exec")]
fn die_with_this_process(command: &mut std::process::Command) {
    let parent = getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes two system calls
    // and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // A parent that died before the line above sends no signal.
            if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
        });
    }
}

struct Job {
    command: tokio::process::Command,
    runtime: Handle,
    reply: SyncSender<io::Result<Child>>,
}

/// The kernel takes the *thread* that forked for the parent, and a runtime's thread may end before the process: so
/// all forks happen in one that does not.
static SPAWNER: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = channel::<Job>();
    let run = move || {
        for Job { mut command, runtime, reply } in jobs {
            let _entered = runtime.enter();
            drop(reply.send(command.spawn())); // Who asked has given up: the child ends with its handle.
        }
    };
    std::thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(run)
        .expect("a process that cannot start one thread cannot start children either");
    sender
});

async fn spawn(command: tokio::process::Command) -> io::Result<Child> {
    let gone = || io::Error::other("the spawner thread has ended");
    let (reply, answer) = sync_channel(1);
    SPAWNER.send(Job { command, runtime: Handle::current(), reply }).map_err(|_| gone())?;
    let answer = tokio::task::spawn_blocking(move || answer.recv()).await;
    answer.map_err(io::Error::other)?.map_err(|_| gone())?
}

/// Waits until the child ends by itself or `end` is raised; then sees to it that its whole group is gone, at once if
/// `at_once` is raised. Its input must be closed by then. Says how it ended, and whether by itself.
pub async fn until_gone(
    mut child: Child,
    end: CancellationToken,
    at_once: CancellationToken,
) -> (Option<ExitStatus>, bool) {
    let group = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let signal = |signal: Signal| {
        if let Some(group) = group {
            // It may be gone already, which is what we want.
            let _ = kill_process_group(group, signal);
        }
    };
    let ended = tokio::select! {
        status = child.wait() => Some(status),
        () = end.cancelled() => None,
    };
    if let Some(status) = &ended {
        tracing::warn!(?status, "A server has ended by itself");
    } else {
        let asked = async {
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                signal(Signal::TERM);
                let _ = tokio::time::timeout(GRACE, child.wait()).await;
            }
        };
        at_once.run_until_cancelled(asked).await;
    }
    signal(Signal::KILL); // Whatever of its group is left.
    match child.wait().await {
        Ok(status) => (Some(status), ended.is_some()),
        Err(error) => {
            tracing::error!(%error, "Cannot learn whether a server has ended");
            (None, ended.is_some())
        }
    }
}
