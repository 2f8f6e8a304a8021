//! A server that speaks over standard input and output: one child process a session.
//!
//! What a child is and how it ends is here; what it says and is asked is its session's matter (`super::duplex`).

mod child;
mod lines;
pub(super) mod memory;

use std::{process::ExitStatus, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;

pub use self::child::ServerCommand;
pub(super) use self::child::Started;
use self::{
    child::until_gone,
    lines::{log_lines, read_lines, write_lines},
};
use super::duplex::Session;

/// How long the output of a child that is gone is read on.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a child says whose output has ended.
const SILENT: &str = "silent";

/// Serves a session's child until it is gone; `max` = the longest line. Unit: bytes.
pub(super) async fn serve(
    started: Started,
    session: &Arc<Session>,
    lines: mpsc::Receiver<Bytes>,
    max: usize,
) {
    metrics::gauge!("mcp_children").increment(1);
    let Started { child, stdin, stdout, stderr } = started;
    let end = session.end.clone();
    // Its input closes as soon as the session ends: that is how a server is asked to go.
    let writing = tokio::spawn(end.clone().run_until_cancelled_owned(write_lines(stdin, lines)));
    let mut reading = {
        let session = session.clone();
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            read_lines(stdout, max, &session).await;
            session.close(SILENT);
        }))
    };
    tokio::spawn(log_lines(stderr));
    let (status, by_itself) = until_gone(child, end.clone(), session.at_once.clone()).await;
    let why = ended_why(session.why(), status, by_itself);
    // Its last words may still lie in the pipe, which has an end now that the whole group is gone.
    let read = tokio::time::timeout(LAST_WORDS, &mut reading).await;
    end.cancel();
    let failed = [writing.await.err(), read.ok().and_then(Result::err)];
    for task in failed.into_iter().flatten() {
        tracing::error!(%task, "A task of a session has failed");
    }
    if matches!(why, "exited" | "crashed" | "memory") {
        session.failed_to_start();
    }
    metrics::counter!("mcp_child_ends_total", "why" => why).increment(1);
    metrics::gauge!("mcp_children").decrement(1);
}

/// Why a child is gone, in one word.
fn ended_why(
    said: Option<&'static str>,
    status: Option<ExitStatus>,
    by_itself: bool,
) -> &'static str {
    match said {
        Some(why) if why != SILENT => why,
        None if !by_itself => "closed",
        _ if status.is_some_and(|status| status.success()) => "exited",
        _ => "crashed",
    }
}
