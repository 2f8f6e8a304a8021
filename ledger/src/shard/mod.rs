//! One shard's loop: read, fold, store; decide, write, answer.
//!
//! ```text
//! LOG ──> read ──> fold (ledger-core) ──> store, one transaction with the checkpoint ──> publish keys, watermarks
//!                    │
//! asks, CONTROL, ────┴──> decide on what is folded ──> ledger.<shard>, expecting its last sequence ──> answer
//! time
//! ```
//! One message of ours is in flight at a time, and the next is decided only when the last was read back and
//! folded: so every decision stands on all decisions before it. An answer that did not come, or a message of
//! somebody else, ends the loop; the next one begins at the checkpoint.

mod asks;
mod control;
pub(crate) mod decide;
mod publish;
pub(crate) mod read;
mod work;

use std::{sync::Arc, time::Duration};

use runtime::nats::{PublishError, ReadError};
use schemas::Shard;
use tokio_util::sync::CancellationToken;

use crate::{Shared, store::StoreError};

/// Why a shard's loop ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShardError {
    #[error("reading the log")]
    Read(#[from] ReadError),
    #[error("storing")]
    Store(#[from] StoreError),
    #[error("writing to the log")]
    Publish(#[from] PublishError),
    #[error("NATS")]
    Nats(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a message of the ledger cannot be read at {seq}: {reason}")]
    OwnMessage { seq: u64, reason: String },
    #[error("a part of the loop ended: {0}")]
    Ended(&'static str),
}

impl ShardError {
    /// Whether a new loop may get on. If not, going on would hide that the log is not what it was.
    fn is_transient(&self) -> bool {
        match self {
            Self::Read(error) => error.is_transient(),
            Self::Store(StoreError::Sql(error)) => runtime::postgres::is_transient(error),
            Self::Store(StoreError::Fenced { .. })
            | Self::Publish(_)
            | Self::Nats(_)
            | Self::Ended(_) => true,
            Self::Store(StoreError::Row(_) | StoreError::OtherLog { .. })
            | Self::OwnMessage { .. } => false,
        }
    }
}

/// Runs a shard's loop again and again until `stop`; stays stopped, and says so, when the log is not what it was.
pub(crate) async fn keep(shared: Arc<Shared>, shard: Shard, stop: CancellationToken) {
    let mut pause = Duration::from_millis(50);
    while !stop.is_cancelled() {
        let begun = tokio::time::Instant::now();
        match work::run(&shared, shard, &stop).await {
            Ok(()) => return,
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    shard = shard.0,
                    error = &error as &dyn std::error::Error,
                    "Begins the shard anew"
                );
            }
            Err(error) => {
                tracing::error!(
                    shard = shard.0,
                    error = &error as &dyn std::error::Error,
                    "The shard is stopped"
                );
                shared.health.wait_for("log", format!("shard {shard} is stopped: {error}"));
                metrics::gauge!("tollbook_ledger_shards_stopped").increment(1);
                return stop.cancelled().await;
            }
        }
        pause = if begun.elapsed() > Duration::from_secs(30) {
            Duration::from_millis(50)
        } else {
            pause * 2
        };
        pause = pause.min(Duration::from_secs(2));
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
