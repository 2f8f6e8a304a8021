//! Reads and parses a shard's messages ahead of the fold.

use ledger_core::Entry;
use runtime::nats::{Message, Nats, ReadError, Reader};
use schemas::{LedgerBatch, Shard, Timestamp, UsageBatch, subject};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::ShardError;

/// How many messages are read at once at most, and for how long an empty read waits.
const AT_ONCE: usize = 2_000;
const WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// A parsed message with its place on `LOG`.
pub(crate) type Read = (u64, Entry);

/// The reader of a shard behind `after`, and when its stream was made.
pub(super) async fn open(nats: &Nats, shard: Shard, after: u64) -> Result<Reader, ReadError> {
    Reader::open(nats, subject::LOG, &filters(shard), after).await
}

/// The subjects of a shard's order.
pub(crate) fn filters(shard: Shard) -> [String; 2] {
    [format!("usage.{shard}.*"), subject::ledger(shard)]
}

/// Reads on until the receiver is gone. A transient trouble is waited out here, so that the fold never repeats.
pub(super) async fn run(
    mut reader: Reader,
    shard: Shard,
    to: mpsc::Sender<Result<Vec<Read>, ShardError>>,
) {
    let own = subject::ledger(shard);
    loop {
        let read = match reader.next(AT_ONCE, WAIT).await {
            Ok(messages) if messages.is_empty() => continue,
            Ok(messages) => messages.into_iter().map(|message| parse(message, &own)).collect(),
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    shard = shard.0,
                    error = &error as &dyn std::error::Error,
                    "Reads LOG again"
                );
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                if to.is_closed() {
                    return;
                }
                continue;
            }
            Err(error) => Err(error.into()),
        };
        let ended = read.is_err();
        if to.send(read).await.is_err() || ended {
            return;
        }
    }
}

/// A message of a node that cannot be read is kept apart; one of the ledger's own stops the shard.
pub(crate) fn parse(message: Message, own: &str) -> Result<Read, ShardError> {
    let Message { seq, subject, payload, stored_at_ms, .. } = message;
    if subject == own {
        let batch = decode::<LedgerBatch>(&payload, |batch| batch.v);
        return match batch {
            Ok(batch) => Ok((seq, Entry::Ledger(batch))),
            Err(reason) => Err(ShardError::OwnMessage { seq, reason }),
        };
    }
    Ok((seq, usage(&subject, &payload, Timestamp(stored_at_ms))))
}

fn usage(subject: &str, payload: &[u8], stored_at: Timestamp) -> Entry {
    let unreadable = |reason| Entry::Unreadable {
        reason,
        payload: String::from_utf8_lossy(payload).into_owned(),
    };
    match decode::<UsageBatch>(payload, |batch| batch.v) {
        Ok(batch) if subject == subject::usage(batch.shard, &batch.node) => {
            Entry::Usage { stored_at, batch }
        }
        Ok(batch) => {
            unreadable(format!("{} of shard {} on subject {subject}", batch.node, batch.shard))
        }
        Err(reason) => unreadable(reason),
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8], version: impl Fn(&T) -> u8) -> Result<T, String> {
    let value: T = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    match version(&value) {
        schemas::fact::VERSION => Ok(value),
        newer => Err(format!("version {newer} is not known here")),
    }
}
