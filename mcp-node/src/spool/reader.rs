//! Reads one shard's records back from the files, in order, a batch at a time.
//!
//! A reader keeps a place, not records: what waits for the log waits on disk. When it has read all it forgets its
//! place, and the next append tells it a new one, so a quiet shard never reads through what the others wrote.

use std::sync::Arc;

use mcp_node_core::spool_format::{self, Frame, FrameError, HEADER, Position, decode, head};
use schemas::{Epoch, Shard};

use super::{Spool, SpoolError, files::SegmentPosition, segment::Segment};

/// The most records of one batch.
pub const BATCH_RECORDS: usize = 500;
/// The most payload of one batch, unless its first record alone is larger. Unit: bytes.
pub const BATCH_BYTES: usize = 512 * 1024;
/// How much is read from a file at once. Unit: bytes.
const CHUNK: usize = 256 * 1024;
/// Reading further behind the end than this happens off the runtime's threads. Unit: bytes.
const NEAR: u64 = 1 << 20;

/// Consecutive records of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub epoch: Epoch,
    /// The position of its first record.
    pub first_seq: u64,
    pub records: usize,
    /// The records as they were written, with commas between them.
    pub joined: Vec<u8>,
    /// Where its last record stands.
    pub last: Position,
}

impl Batch {
    fn empty() -> Self {
        let (joined, last) = (Vec::new(), Position::default());
        Self { epoch: Epoch(0), first_seq: 0, records: 0, joined, last }
    }

    /// Takes the next record if it continues the batch and fits. A late end goes alone.
    fn take(&mut self, frame: &Frame<'_>) -> bool {
        let position = frame.position();
        if self.records == 0 {
            (self.epoch, self.first_seq) = (frame.epoch, frame.seq);
        } else {
            let continues = frame.epoch == self.epoch
                && (position.late, self.last.late) == (0, 0)
                && position.seq == self.last.seq + 1;
            let fits = self.records < BATCH_RECORDS
                && self.joined.len() + frame.payload.len() < BATCH_BYTES;
            if !(continues && fits) {
                return false;
            }
            self.joined.push(b',');
        }
        self.joined.extend_from_slice(frame.payload);
        self.records += 1;
        self.last = position;
        true
    }
}

/// Where records lie that were not read.
struct Unread {
    place: SegmentPosition,
    /// So far behind the end that reading may wait for the disk.
    far: bool,
    /// The last record that was written by now.
    appended: Position,
}

/// One shard's reader.
pub struct Reader {
    spool: Arc<Spool>,
    shard: Shard,
    /// The last record handed out, or known to be on the log.
    read: Position,
    /// Where the next record may lie; `None` = all was read.
    at: Option<SegmentPosition>,
    /// Where the batch began that is not confirmed.
    from: Option<SegmentPosition>,
    confirmed: Position,
}

impl Reader {
    pub(super) fn new(spool: Arc<Spool>, shard: Shard) -> Self {
        let (read, confirmed) = (Position::default(), Position::default());
        Self { spool, shard, read, at: None, from: None, confirmed }
    }

    /// The log holds everything up to here: goes on behind it, going back if need be.
    pub fn seek(&mut self, committed: Position) {
        if committed < self.confirmed {
            // The log lost what it had confirmed: send again whatever is still here.
            tracing::error!(shard = self.shard.0, ?committed, confirmed = ?self.confirmed, "The log went back");
            self.at = self.spool.files.lock().oldest();
        } else if self.from.is_some() {
            self.at = self.from;
        }
        self.read = committed;
        self.confirm_up_to(committed);
    }

    /// The log has the batch that was handed out last.
    pub fn confirm(&mut self) {
        self.confirm_up_to(self.read);
    }

    fn confirm_up_to(&mut self, position: Position) {
        self.from = None;
        self.confirmed = position;
        if let Some(state) = self.spool.files.lock().shards.get_mut(usize::from(self.shard.0)) {
            state.confirmed = position;
        }
        self.spool.confirmed.notify_waiters();
    }

    /// The next batch; waits until there is something to send.
    ///
    /// # Errors
    /// The files are not what was written: a person must look.
    pub async fn next_batch(mut self) -> (Self, Result<Batch, SpoolError>) {
        loop {
            let Some(unread) = self.unread() else {
                self.spool.appended[usize::from(self.shard.0)].notified().await;
                continue;
            };
            self.at = Some(unread.place);
            self.from.get_or_insert(unread.place);
            let result;
            (self, result) = self.read_somewhere(unread.far).await;
            match result {
                // All that was there is on the log already, or was counted and deleted.
                Ok(batch) if batch.records == 0 => self.read = self.read.max(unread.appended),
                result => return (self, result),
            }
        }
    }

    async fn read_somewhere(mut self, far: bool) -> (Self, Result<Batch, SpoolError>) {
        let read = move || {
            let result = self.read_batch();
            (self, result)
        };
        if !far {
            return read();
        }
        tokio::task::spawn_blocking(read).await.expect("reading does not panic and is not aborted")
    }

    /// Where to read on; `None` = everything was read.
    fn unread(&mut self) -> Option<Unread> {
        let mut files = self.spool.files.lock();
        let end = files.end();
        let state = files.shards.get_mut(usize::from(self.shard.0))?;
        if state.appended <= self.read {
            state.unread = None;
            (self.at, self.from) = (None, None);
            return None;
        }
        let place = self.at.or(state.unread)?;
        let far = end.segment != place.segment || end.at > place.at + NEAR;
        Some(Unread { place, far, appended: state.appended })
    }

    /// Reads from `at` on until the batch is full or everything is read.
    fn read_batch(&mut self) -> Result<Batch, SpoolError> {
        let mut batch = Batch::empty();
        let mut buffer = Vec::new();
        while let Some(place) = self.at {
            let found = self.spool.files.lock().segment_from(place.segment);
            let Some((segment, end, later)) = found else { break };
            let mut at = if segment.index == place.segment { place.at } else { 0 };
            let full = self.read_segment(&segment, &mut at, end, &mut buffer, &mut batch)?;
            self.at = Some(SegmentPosition { segment: segment.index, at });
            if full || !later {
                break;
            }
            self.at = Some(SegmentPosition { segment: segment.index + 1, at: 0 });
        }
        Ok(batch)
    }

    /// Takes this shard's records from `at` on; `true` = the batch is full, and `at` is the record that did not fit.
    fn read_segment(
        &mut self,
        segment: &Segment,
        at: &mut u64,
        end: u64,
        buffer: &mut Vec<u8>,
        batch: &mut Batch,
    ) -> Result<bool, SpoolError> {
        let mut wanted = CHUNK;
        while *at < end {
            let left = usize::try_from(end - *at).unwrap_or(usize::MAX);
            buffer.resize(wanted.min(left), 0);
            let read = segment.file.read_exact_at(buffer, *at);
            read.map_err(|e| SpoolError::io(&segment.path, e))?;
            let looked = self.look(buffer, batch);
            let Looked { used, full, next } = looked.map_err(|used| {
                SpoolError::corrupt(&segment.path, *at + used as u64, "a frame is damaged")
            })?;
            *at += used as u64;
            if full {
                return Ok(true);
            }
            if used == 0 && buffer.len() == left {
                return Err(SpoolError::corrupt(&segment.path, *at, "it ends within a frame"));
            }
            wanted = next;
        }
        Ok(false)
    }

    /// Takes this shard's records out of a piece of a segment. The error says where it is damaged.
    fn look(&mut self, bytes: &[u8], batch: &mut Batch) -> Result<Looked, usize> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let head = match head(rest) {
                Ok(head) if head.whole <= rest.len() => head,
                Ok(head) => return Ok(Looked { used, full: false, next: head.whole.max(CHUNK) }),
                Err(FrameError::CutOff(_)) => return Ok(Looked { used, full: false, next: CHUNK }),
                Err(FrameError::Length(_) | FrameError::Check) => return Err(used),
            };
            let payload = &rest[HEADER..head.whole];
            if head.shard == self.shard
                && spool_format::position(head.epoch, head.seq, payload) > self.read
            {
                let (frame, _) = decode(rest).map_err(|_| used)?;
                if !batch.take(&frame) {
                    return Ok(Looked { used, full: true, next: CHUNK });
                }
                self.read = batch.last;
            }
            used += head.whole;
        }
    }
}

/// What came of looking through a piece of a segment.
struct Looked {
    /// So many bytes are done with.
    used: usize,
    full: bool,
    /// So many bytes must be there to go on.
    next: usize,
}
