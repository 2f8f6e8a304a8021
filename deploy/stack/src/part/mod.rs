//! The parts that Tollbook stands on and did not write, one file each, and what they have in common.

pub mod clickhouse;
mod clickhouse_config;
pub mod clients;
pub mod conformance;
pub mod mcp_server;
pub mod nats;
pub mod postgres;
pub mod stripe_sim;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::child::{Child, Spec};
use crate::error::StackError;
use crate::folder::Folder;
use crate::ready::READY_BOUND;
use crate::settings::Settings;

/// A running part or service. Dropping the handle ends the process.
pub trait Part {
    /// What people call it.
    fn name(&self) -> &str;

    /// Its version, as it says itself.
    fn version(&self) -> &str;

    /// Where clients reach it.
    fn address(&self) -> String;

    /// Its process.
    ///
    /// # Errors
    /// Someone else runs it.
    fn child(&self) -> Result<&Child, StackError>;

    /// Its process, to stop, kill or start again.
    ///
    /// # Errors
    /// Someone else runs it.
    fn child_mut(&mut self) -> Result<&mut Child, StackError>;

    /// The process id, while it runs and is ours.
    fn pid(&self) -> Option<u32> {
        self.child().ok().and_then(Child::pid)
    }

    /// Ends it in an orderly way, by SIGKILL when that takes too long; does nothing to a part that
    /// someone else runs.
    ///
    /// # Errors
    /// The process outlives even SIGKILL.
    fn stop(&mut self) -> impl Future<Output = Result<(), StackError>> + Send
    where
        Self: Send,
    {
        let child = self.child_mut();
        async move {
            match child {
                Ok(child) => child.stop().await,
                Err(_) => Ok(()),
            }
        }
    }

    /// Kills it with SIGKILL, together with its descendants.
    ///
    /// # Errors
    /// Someone else runs it, or it outlives SIGKILL.
    fn kill(&mut self) -> impl Future<Output = Result<(), StackError>> + Send
    where
        Self: Send,
    {
        let child = self.child_mut();
        async move { child?.kill().await }
    }

    /// Starts it again on the same port and the same data, and waits until it serves.
    ///
    /// # Errors
    /// Someone else runs it, it runs already, or it does not come up.
    fn start_again(&mut self) -> impl Future<Output = Result<(), StackError>> + Send
    where
        Self: Send,
    {
        let child = self.child_mut();
        async move { child?.start_again().await }
    }
}

/// What most parts have in common: SIGTERM to stop, SIGKILL at our death, one log, a clean
/// environment.
pub(crate) fn spec(part: &str, program: PathBuf, folder: &Folder, cwd: PathBuf) -> Spec {
    Spec {
        part: part.to_owned(),
        program,
        args: Vec::new(),
        env: Settings::from_env().passed_on(),
        folder: cwd,
        log: folder.log(part),
        account: None,
        ready_bound: READY_BOUND,
        stop: Signal::TERM,
        stop_bound: Duration::from_secs(10),
        death: Signal::KILL,
    }
}

fn args<const N: usize>(args: [&str; N]) -> Vec<OsString> {
    args.iter().map(OsString::from).collect()
}
