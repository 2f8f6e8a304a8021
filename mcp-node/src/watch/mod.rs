//! What the ledger tells its nodes: key states, watermarks, recalls.
//!
//! Each is pushed on a core subject and can be loaded from a bucket; a push may be lost, the bucket is what holds.
//! So every watcher listens first and loads then, and loads again after each reconnect and whenever a number shows
//! that it missed something. Absent on purpose: one stream watcher a node, which costs the server memory for each.

mod keys;
mod recalls;
mod watermarks;

pub use self::{keys::watch_keys, recalls::watch_recalls, watermarks::watch_watermarks};

use std::time::Duration;

use schemas::subject;

/// Why a bucket could not be loaded; trying again may help.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct WatchError {
    doing: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl WatchError {
    fn while_doing<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self { doing, source: source.into() }
    }
}

/// The subject on which a bucket's entries are pushed.
fn push(bucket: &str) -> &'static str {
    let specs = subject::BUCKETS.iter();
    specs.filter(|spec| spec.name == bucket).map(|spec| spec.push).next().expect("a bucket of ours")
}

/// How long to wait before a load that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);
