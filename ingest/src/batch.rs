//! Makes batches of whole messages: the rows that are new, in stream order, all of one month. Pure.
//!
//! What a batch holds depends on the log before it and on nothing else, so two processes, or one that starts
//! again, send the same rows for the same messages.

use chrono::Datelike;
use runtime::nats::Message;
use schemas::{Resolution, Timestamp, UsageBatch};

use crate::{
    decode::{self, Content},
    positions::Positions,
    quarantine::Quarantined,
    row::{Origin, Rows},
};

/// A batch never grows past this by more than one message. Unit: bytes.
const FULL_BYTES: usize = 32 * 1024 * 1024;

/// Whole messages, ready to be sent.
#[derive(Debug)]
pub struct Batch {
    /// The last message in it.
    pub last: Origin,
    pub rows: Rows,
    pub quarantined: Quarantined,
    month: u32,
    ends_in_row: bool,
}

/// Collects messages into batches.
pub struct Builder {
    src: u16,
    full_rows: usize,
    positions: Positions,
    batch: Option<Batch>,
}

impl Builder {
    /// `positions` must be those of all rows that are stored.
    pub fn new(src: u16, full_rows: usize, positions: Positions) -> Self {
        Self { src, full_rows, positions, batch: None }
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_none()
    }

    /// Whether the batch must be taken before it takes this message too.
    pub fn must_cut_before(&self, message: &Message) -> bool {
        self.batch.as_ref().is_some_and(|batch| {
            self.is_full(batch) || batch.month != month_of(message.stored_at_ms)
        })
    }

    fn is_full(&self, batch: &Batch) -> bool {
        let size = batch.rows.size() + batch.quarantined.size();
        batch.rows.count() >= self.full_rows || size >= FULL_BYTES
    }

    /// Adds the next message of the stream.
    pub fn push(&mut self, message: &Message) {
        let origin =
            Origin { src: self.src, stream_seq: message.seq, received_ms: message.stored_at_ms };
        let batch = self.batch.get_or_insert_with(|| Batch {
            last: origin,
            rows: Rows::default(),
            quarantined: Quarantined::default(),
            month: month_of(message.stored_at_ms),
            ends_in_row: false,
        });
        batch.last = origin;
        batch.ends_in_row = match decode::read(&message.subject, &message.payload) {
            Content::Usage(usage) => add_new(&mut batch.rows, &mut self.positions, origin, &usage),
            Content::Ledger(released) => {
                let before = batch.rows.count();
                for resolution in &released {
                    release(&mut batch.rows, &mut self.positions, origin, resolution);
                }
                batch.rows.count() > before
            }
            Content::Unreadable(unreadable) => {
                metrics::counter!("ingest_quarantined_total", "reason" => unreadable.reason)
                    .increment(1);
                tracing::warn!(
                    stream.seq = message.seq,
                    subject = message.subject,
                    reason = unreadable.reason,
                    detail = unreadable.detail,
                    "A message cannot be read: quarantined"
                );
                batch.quarantined.push(origin, message, &unreadable);
                false
            }
        };
    }

    /// Hands out the batch, with a mark where its last message has no row of its own.
    pub fn take(&mut self) -> Option<Batch> {
        let mut batch = self.batch.take()?;
        if !batch.ends_in_row {
            batch.rows.push_mark(batch.last);
        }
        self.positions.report();
        Some(batch)
    }
}

/// Adds what a person let out of quarantine.
fn release(rows: &mut Rows, positions: &mut Positions, origin: Origin, resolution: &Resolution) {
    match resolution {
        Resolution::Discarded { .. } => {}
        Resolution::Counted(event) => rows.push_released(origin, event),
        Resolution::Replayed(batch) => {
            add_new(rows, positions, origin, batch);
        }
    }
}

/// Adds the records whose positions were not seen; `true` if there was one.
fn add_new(rows: &mut Rows, positions: &mut Positions, origin: Origin, usage: &UsageBatch) -> bool {
    let before = rows.count();
    let fresh = positions.take_new(usage);
    for ((seq, record), _) in
        (usage.first_seq..).zip(&usage.records).zip(fresh).filter(|(_, new)| *new)
    {
        rows.push(origin, usage, seq, record);
    }
    let added = rows.count() - before;
    if added < usage.records.len() {
        let repeated = usage.records.len() - added;
        metrics::counter!("ingest_repeated_records_total").increment(repeated as u64);
    }
    added > 0
}

/// The UTC month as `yyyymm`, which is how the tables are partitioned.
pub fn month_of(ms: i64) -> u32 {
    let day = Timestamp(ms).to_utc();
    u32::try_from(day.year()).unwrap_or(0) * 100 + day.month()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use schemas::{Epoch, Record, Shard, fact::VERSION};

    use super::*;

    /// 2026-11-30T23:59:59.999Z: the last millisecond of a month.
    const LAST_OF_NOVEMBER: i64 = 1_796_083_199_999;

    fn message(seq: u64, subject: &str, payload: &[u8], stored_at_ms: i64) -> Message {
        let payload = Bytes::copy_from_slice(payload);
        Message { seq, subject: subject.to_owned(), stored_at_ms, headers: None, payload }
    }

    fn usage(seq: u64, first_seq: u64, records: usize, stored_at_ms: i64) -> Message {
        let (node, records) = ("n1".parse().unwrap(), vec![Record::EpochEnded; records]);
        let batch =
            UsageBatch { v: VERSION, node, epoch: Epoch(1), shard: Shard(0), first_seq, records };
        message(seq, "usage.0.n1", &serde_json::to_vec(&batch).unwrap(), stored_at_ms)
    }

    fn builder(full_rows: usize) -> Builder {
        Builder::new(1, full_rows, Positions::default())
    }

    #[test]
    fn a_batch_is_of_one_month_and_never_splits_a_message() {
        let mut builder = builder(10);
        let (first, next) =
            (usage(1, 1, 9, LAST_OF_NOVEMBER), usage(2, 10, 9, LAST_OF_NOVEMBER + 1));
        assert!(!builder.must_cut_before(&first));
        builder.push(&first);
        assert!(builder.must_cut_before(&next), "two months in one INSERT are two parts");
        assert!(!builder.must_cut_before(&usage(2, 10, 9, LAST_OF_NOVEMBER)), "it is not full yet");
        builder.push(&usage(2, 10, 9, LAST_OF_NOVEMBER));
        assert!(builder.must_cut_before(&usage(3, 19, 1, LAST_OF_NOVEMBER)), "it is full");
        let batch = builder.take().unwrap();
        assert_eq!((batch.rows.count(), batch.last.stream_seq), (18, 2));
        assert!(builder.is_empty() && builder.take().is_none());
    }

    #[test]
    fn the_last_message_of_a_batch_always_has_a_row() {
        #[track_caller]
        fn check(messages: &[Message], rows: usize) {
            let mut builder = builder(100);
            for message in messages {
                builder.push(message);
            }
            let batch = builder.take().unwrap();
            assert_eq!(
                (batch.rows.count(), batch.last.stream_seq),
                (rows, messages.last().unwrap().seq)
            );
        }
        let at = LAST_OF_NOVEMBER;
        let (ledger, poison) =
            (message(2, "ledger.0", b"x", at), message(2, "usage.0.n1", b"x", at));
        check(&[usage(1, 1, 3, at)], 3);
        check(&[usage(1, 1, 3, at), ledger.clone()], 4);
        check(&[usage(1, 1, 3, at), poison], 4);
        check(&[usage(1, 1, 3, at), usage(2, 1, 3, at)], 4); // All of it was seen before.
        check(&[ledger, usage(3, 1, 3, at)], 3);
    }

    #[test]
    fn months_are_those_of_utc() {
        assert_eq!(
            (month_of(LAST_OF_NOVEMBER), month_of(LAST_OF_NOVEMBER + 1)),
            (202_611, 202_612)
        );
    }
}
