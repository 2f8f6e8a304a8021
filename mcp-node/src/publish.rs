//! Sends spooled records to the log: one message in flight a shard, each expecting the one before.
//!
//! The expected sequence makes the protocol exact without memory: a message that was stored though nobody heard of
//! it, or that is delivered after a reconnect, or a twin of this node, is refused by the log; and after any doubt
//! the last message on our subject says where to go on. What arrives while one message is in flight, or just was, makes the next,
//! so load makes batches and quiet makes low latency. Absent on purpose: dedupe windows, and records in memory.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mcp_node_core::spool_format::{self, Position};
use runtime::nats::{Nats, PublishError, last_on_subject, publish_expecting};
use schemas::{Epoch, Shard, fact::VERSION, subject};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::spool::{Batch, Reader, Spool, SpoolError};

/// How long one message may take to be acknowledged.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Messages of a shard leave at least this long after one another: what comes alone goes at once, what comes fast goes
/// together, and the cost of a message (here, at the log, in the ledger) is shared by what is in it.
const PACE: Duration = Duration::from_millis(10);

/// Why a publisher cannot go on; the node must stop serving.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error(
        "another process publishes as this node: the log is at {log:?}, this spool at {spool:?}"
    )]
    Fenced { log: Position, spool: Position },
    #[error("the spool cannot be read")]
    Spool(#[from] SpoolError),
}

/// Starts a publisher for every shard. They run until `stop`, or raise `fenced` when they cannot go on.
pub fn start(
    nats: &Nats,
    spool: &Arc<Spool>,
    stop: &CancellationToken,
    fenced: &CancellationToken,
) {
    for shard in (0..spool.shards()).map(Shard) {
        let (nats, spool, stop, fenced) =
            (nats.clone(), spool.clone(), stop.clone(), fenced.clone());
        tokio::spawn(async move {
            let publisher = Publisher::new(nats, spool, shard);
            if let Some(Err(error)) = stop.run_until_cancelled(publisher.run()).await {
                tracing::error!(
                    shard = shard.0,
                    error = &error as &dyn std::error::Error,
                    "Cannot publish"
                );
                fenced.cancel();
            }
        });
    }
}

struct Publisher {
    nats: Nats,
    spool: Arc<Spool>,
    shard: Shard,
    subject: String,
}

/// The last message of our subject.
struct Tip {
    /// Its sequence on the stream; 0 = there is none.
    seq: u64,
    /// Its last record.
    position: Position,
}

impl Publisher {
    fn new(nats: Nats, spool: Arc<Spool>, shard: Shard) -> Self {
        let subject = subject::usage(shard, spool.node());
        Self { nats, spool, shard, subject }
    }

    async fn run(self) -> Result<std::convert::Infallible, Fatal> {
        let mut reader = self.spool.reader(self.shard);
        let (mut known, mut failures) = (Position::default(), 0);
        loop {
            let tip = self.tip(known).await;
            let (log, spool) = (tip.position, self.spool.appended(self.shard));
            // Older epochs may be ahead of a spool that was lost or restored: what they said stands.
            if log.epoch >= self.spool.epoch().0 && log > spool {
                return Err(Fatal::Fenced { log, spool });
            }
            failures = if log > known { 0 } else { failures + 1 };
            if failures > 1 {
                self.slow_down(failures).await; // The log is there, and takes nothing.
            }
            reader.seek(log);
            (reader, known) = self.send_until_doubt(reader, tip).await?;
        }
    }

    async fn slow_down(&self, failures: u32) {
        if failures.is_multiple_of(10) {
            tracing::warn!(
                shard = self.shard.0,
                failures,
                "The log does not answer, or takes no records"
            );
        }
        tokio::time::sleep(back_off(failures)).await;
    }

    /// Sends batch after batch until it is not certain that one was stored.
    async fn send_until_doubt(
        &self,
        mut reader: Reader,
        tip: Tip,
    ) -> Result<(Reader, Position), Fatal> {
        let Tip { seq: mut last, mut position } = tip;
        loop {
            let batch;
            (reader, batch) = reader.next_batch().await;
            let batch = batch?;
            self.connected().await;
            let next = Instant::now() + PACE;
            match self.send(&batch, last).await {
                Ok(seq) => {
                    (last, position) = (seq, batch.last);
                    reader.confirm();
                    metrics::counter!("mcp_published_records_total")
                        .increment(batch.records as u64);
                    sleep_until(next).await;
                }
                Err(error) => {
                    metrics::counter!("mcp_publish_doubts_total").increment(1);
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(shard = self.shard.0, error, "Will look where the log stands");
                    return Ok((reader, position));
                }
            }
        }
    }

    async fn send(&self, batch: &Batch, expected: u64) -> Result<u64, PublishError> {
        let body = body(self.spool.node().as_str(), self.shard, batch);
        let subject = self.subject.clone();
        let stored = publish_expecting(&self.nats.jetstream, subject, None, body, expected);
        match tokio::time::timeout(TIMEOUT, stored).await {
            Ok(stored) => stored,
            Err(elapsed) => Err(PublishError::Unknown(Box::new(elapsed))),
        }
    }

    /// Where the log stands, as its leader says; asks until it is answered. A subject whose messages have all
    /// expired says nothing: then what we know ourselves holds.
    async fn tip(&self, known: Position) -> Tip {
        let mut failures = 0u32;
        loop {
            self.connected().await;
            let last = last_on_subject(&self.nats.jetstream, subject::LOG, &self.subject);
            let why = match tokio::time::timeout(TIMEOUT, last).await {
                Ok(Ok(None)) => return Tip { seq: 0, position: known },
                Ok(Ok(Some(message))) => match last_position(&message.payload) {
                    Some(position) => return Tip { seq: message.sequence, position },
                    None => "its last message cannot be read".to_owned(),
                },
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            failures += 1;
            if failures.is_multiple_of(10) {
                tracing::warn!(
                    shard = self.shard.0,
                    failures,
                    why,
                    "Cannot learn where the log stands"
                );
            }
            tokio::time::sleep(back_off(failures)).await;
        }
    }

    /// Waits for a connection: what is sent without one is queued and may be delivered long after its time.
    async fn connected(&self) {
        use async_nats::connection::State;
        while self.nats.client.connection_state() != State::Connected {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A `UsageBatch`, made from the records as they lie in the spool.
fn body(node: &str, shard: Shard, batch: &Batch) -> Bytes {
    let Epoch(epoch) = batch.epoch;
    let first_seq = batch.first_seq;
    let mut body = format!(
        r#"{{"v":{VERSION},"node":"{node}","epoch":{epoch},"shard":{shard},"first_seq":{first_seq},"records":["#
    )
    .into_bytes();
    body.reserve(batch.joined.len() + 2);
    body.extend_from_slice(&batch.joined);
    body.extend_from_slice(b"]}");
    body.into()
}

/// The position of a message's last record.
fn last_position(payload: &[u8]) -> Option<Position> {
    #[derive(Deserialize)]
    struct Placed {
        epoch: Epoch,
        first_seq: u64,
        records: Vec<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Alone<'a> {
        #[serde(borrow)]
        records: [&'a RawValue; 1],
    }
    let placed: Placed = serde_json::from_slice(payload).ok()?;
    let count = u64::try_from(placed.records.len()).ok()?;
    let last = (placed.first_seq + count).checked_sub(1)?;
    // The late end of an older epoch comes alone, and says behind which record it stands.
    let alone = serde_json::from_slice::<Alone<'_>>(payload);
    let record = alone.map(|alone| alone.records[0].get().as_bytes()).unwrap_or_default();
    Some(spool_format::position(placed.epoch, last, record))
}

/// 20 ms doubling to 2 s, less up to a half at random.
fn back_off(failures: u32) -> Duration {
    let whole = (10u64 << failures.min(8)).min(2_000);
    let jitter = getrandom::u64().map_or(0, |random| random % (whole / 2 + 1));
    Duration::from_millis(whole - jitter)
}

#[cfg(test)]
mod tests {
    use schemas::{NodeId, Record, UsageBatch};

    use super::*;

    #[test]
    fn a_body_is_a_usage_batch_and_says_where_it_ends() {
        let node: NodeId = "n-1".parse().unwrap();
        let one = serde_json::to_string(&Record::EpochEnded).unwrap();
        let batch = Batch {
            epoch: Epoch(1_700_000_000_000),
            first_seq: 41,
            records: 2,
            joined: format!("{one},{one}").into_bytes(),
            last: Position::new(Epoch(1_700_000_000_000), 42),
        };
        let body = body(node.as_str(), Shard(3), &batch);
        let read: UsageBatch = serde_json::from_slice(&body).unwrap();
        let records = vec![Record::EpochEnded, Record::EpochEnded];
        let (epoch, shard, v) = (batch.epoch, Shard(3), VERSION);
        assert_eq!(read, UsageBatch { v, node, epoch, shard, first_seq: 41, records });
        assert_eq!(last_position(&body), Some(batch.last));
        assert_eq!(last_position(b"{}"), None);
    }

    #[test]
    fn a_late_end_on_the_log_says_how_far_the_newer_epoch_is() {
        let node: NodeId = "n-1".parse().unwrap();
        let joined = spool_format::late_end(Position::new(Epoch(9), 30));
        let last = Position { epoch: 9, seq: 30, late: 5 };
        let batch = Batch { epoch: Epoch(5), first_seq: 7, records: 1, joined, last };
        let body = body(node.as_str(), Shard(3), &batch);
        assert_eq!(last_position(&body), Some(last));
        let read: UsageBatch = serde_json::from_slice(&body).unwrap();
        assert_eq!((read.epoch, read.records), (Epoch(5), vec![Record::EpochEnded]));
    }
}
