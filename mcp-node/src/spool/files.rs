//! The segments of one start and the counts over them: what the spool's lock guards.
//!
//! Invariants: records are written one behind the other, each with the next position of its epoch and shard; only
//! the last segment is written to; a segment goes when the ledger has counted all of it, the oldest first.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use mcp_node_core::spool_format::{self, Frame, Position};
use schemas::{Epoch, Shard, Watermark};

use super::{
    Folder, SpoolError, SpoolLimits,
    file::is_no_room,
    recover::Recovered,
    segment::{Highest, Segment, Tail, Tails},
};

/// How much room there must be before a spool that had none takes records again. Unit: bytes.
const ROOM: usize = 256 * 1024;

/// A place in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentPosition {
    pub segment: u64,
    pub at: u64,
}

/// One segment and what it holds of each shard.
pub(super) struct KeptSegment {
    pub segment: Arc<Segment>,
    pub bytes: u64,
    highest: Highest,
}

/// What is known of one shard.
#[derive(Default)]
pub(super) struct ShardState {
    pub appended: Position,
    /// What the log is known to have.
    pub confirmed: Position,
    /// Where the first record lies that the reader has not seen; set when it had seen all.
    pub unread: Option<SegmentPosition>,
    watermark: Watermark,
}

/// All segments.
pub(super) struct Files {
    folder: PathBuf,
    limits: SpoolLimits,
    epoch: Epoch,
    kept: VecDeque<KeptSegment>,
    tails: Tails,
    pub shards: Vec<ShardState>,
    frame: Vec<u8>,
    /// All segments together. Unit: bytes.
    pub bytes: u64,
}

/// Why a record was not written.
pub(super) enum WriteError {
    /// It cannot be written; the next one may.
    Refused(&'static str),
    /// The disk has no room: nothing more can be written until [`Files::mend`] has found some.
    NoRoom(SpoolError),
    /// The disk refused: nothing more can be written.
    Broken(SpoolError),
}

impl From<SpoolError> for WriteError {
    fn from(error: SpoolError) -> Self {
        match &error {
            SpoolError::Io { source, .. } if is_no_room(source) => Self::NoRoom(error),
            _ => Self::Broken(error),
        }
    }
}

impl Files {
    /// What was recovered, and a new segment for a new epoch.
    pub fn begin(
        folder: &Folder,
        limits: SpoolLimits,
        epoch: Epoch,
        recovered: Recovered,
        shards: u16,
    ) -> Result<Self, SpoolError> {
        let states = (0..shards).map(|shard| {
            let (appended, on_file) = recovered.last_of(shard);
            let oldest = recovered.segments.first().filter(|_| on_file);
            let unread =
                oldest.map(|found| SegmentPosition { segment: found.segment.index, at: 0 });
            ShardState { appended, unread, ..ShardState::default() }
        });
        let shards = states.collect();
        let index = recovered.segments.last().map_or(1, |found| found.segment.index + 1);
        let kept = recovered.segments.into_iter().map(|found| KeptSegment {
            segment: Arc::new(found.segment),
            bytes: found.bytes,
            highest: found.highest,
        });
        let kept: VecDeque<KeptSegment> = kept.collect();
        let mut tails = recovered.tails;
        tails.insert(epoch.0, BTreeMap::new());
        let (folder, frame) = (folder.segments(), Vec::new());
        let bytes = kept.iter().map(|kept| kept.bytes).sum();
        let mut files = Self { folder, limits, epoch, kept, tails, shards, frame, bytes };
        files.add_segment(index)?;
        Ok(files)
    }

    /// Every epoch and shard before this start that nobody has ended.
    pub fn not_ended(&self) -> Vec<(Epoch, Shard)> {
        let all = 0..u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        let old = self.tails.range(..self.epoch.0);
        let open = old.flat_map(|(epoch, tails)| {
            let ended = |shard: &u16| tails.get(shard).is_some_and(|tail| tail.ended);
            all.clone()
                .filter(move |shard| !ended(shard))
                .map(|shard| (Epoch(*epoch), Shard(shard)))
        });
        open.collect()
    }

    /// The shards in which anything was recorded in this epoch.
    pub fn used_shards(&self) -> Vec<Shard> {
        self.tails
            .get(&self.epoch.0)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .copied()
            .map(Shard)
            .collect()
    }

    /// Of the epochs `held`, those that have not ended in a shard.
    pub fn open_in(&self, shard: Shard, held: &BTreeSet<u64>) -> Vec<Epoch> {
        let open = |epoch: &&u64| !self.tail(Epoch(**epoch), shard).ended;
        held.iter().filter(open).map(|epoch| Epoch(*epoch)).collect()
    }

    /// Whether the ledger knows a later epoch of this node in a shard: it grants no lease to `epoch` any more.
    pub fn is_replaced(&self, shard: Shard, epoch: Epoch) -> bool {
        let Some(state) = self.shards.get(usize::from(shard.0)) else { return false };
        let mut later = state.watermark.epochs.range(Epoch(epoch.0 + 1)..);
        later.any(|(_, counted)| *counted > 0)
    }

    fn tail(&self, epoch: Epoch, shard: Shard) -> Tail {
        let tails = self.tails.get(&epoch.0);
        tails.and_then(|tails| tails.get(&shard.0)).copied().unwrap_or_default()
    }

    /// Writes a record at the next position; returns the segment that needs a sync now.
    pub fn write(
        &mut self,
        epoch: Epoch,
        shard: Shard,
        payload: &[u8],
    ) -> Result<Arc<Segment>, WriteError> {
        let seq = self.last_seq(epoch, shard)? + 1;
        self.write_at(Frame { epoch, shard, seq, payload })
    }

    /// The last position of an epoch that may go on.
    fn last_seq(&self, epoch: Epoch, shard: Shard) -> Result<u64, WriteError> {
        if usize::from(shard.0) >= self.shards.len() {
            return Err(WriteError::Refused("there is no such shard"));
        }
        match self.tail(epoch, shard) {
            Tail { ended: true, .. } => Err(WriteError::Refused("the epoch has ended")),
            Tail { seq, .. } => Ok(seq),
        }
    }

    /// Whether the ledger has said of a shard what it has counted, since this start.
    pub fn is_counted_in(&self, shard: Shard) -> bool {
        self.shards.get(usize::from(shard.0)).is_some_and(|state| state.watermark.as_of > 0)
    }

    /// Ends an epoch behind records of newer ones. It stands behind all that the ledger has of it, too: whoever ran
    /// under it elsewhere may have said more than this folder ever held. `None` = the ledger has nothing open of it
    /// here, so nothing is to be said.
    pub fn end_late(
        &mut self,
        epoch: Epoch,
        shard: Shard,
    ) -> Result<Option<Arc<Segment>>, WriteError> {
        let last = self.last_seq(epoch, shard)?;
        let state = &self.shards[usize::from(shard.0)];
        let Some(counted) = state.watermark.epochs.get(&epoch) else {
            let tails = self.tails.entry(epoch.0).or_default();
            tails.entry(shard.0).or_default().ended = true;
            return Ok(None);
        };
        let seq = last.max(*counted) + 1;
        let payload = spool_format::late_end(state.appended);
        self.write_at(Frame { epoch, shard, seq, payload: &payload }).map(Some)
    }

    fn write_at(&mut self, frame: Frame<'_>) -> Result<Arc<Segment>, WriteError> {
        let Frame { epoch, shard, seq, payload } = frame;
        self.frame.clear();
        spool_format::encode(frame, &mut self.frame)
            .map_err(|_| WriteError::Refused("the record is empty or too large"))?;
        let (place, segment) = self.write_frame(epoch, shard, seq)?;
        let ended = spool_format::is_end(payload);
        self.tails.entry(epoch.0).or_default().insert(shard.0, Tail { seq, ended });
        let state = &mut self.shards[usize::from(shard.0)];
        // The end of an epoch of which the ledger has nothing open may stand behind newer ones: nobody waits for it.
        state.appended = state.appended.max(frame.position());
        state.unread.get_or_insert(place);
        Ok(segment)
    }

    /// After the disk had no room: makes good what that broke, and finds out whether there is some now.
    pub fn mend(&mut self) -> Result<(), WriteError> {
        // Half a record may stand behind the last whole one.
        let active = &self.active().segment;
        active.file.cut().map_err(|e| SpoolError::io(&active.path, e))?;
        for KeptSegment { segment, .. } in &self.kept {
            segment.file.rewrite().map_err(|e| SpoolError::io(&segment.path, e))?;
        }
        Ok(active.file.probe(ROOM).map_err(|e| SpoolError::io(&active.path, e))?)
    }

    fn write_frame(
        &mut self,
        epoch: Epoch,
        shard: Shard,
        seq: u64,
    ) -> Result<(SegmentPosition, Arc<Segment>), SpoolError> {
        let size = self.frame.len() as u64;
        let active = self.active();
        if active.bytes + size > self.limits.segment_bytes && !active.highest.is_empty() {
            self.begin_segment()?;
        }
        let active = self.kept.back_mut().expect("there is always an active segment");
        let (at, segment) = (active.bytes, active.segment.clone());
        segment.file.append(&self.frame, at).map_err(|e| SpoolError::io(&segment.path, e))?;
        active.bytes += size;
        active.highest.insert((epoch.0, shard.0), seq);
        self.bytes += size;
        Ok((SegmentPosition { segment: segment.index, at }, segment))
    }

    fn active(&self) -> &KeptSegment {
        self.kept.back().expect("there is always an active segment")
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        let full = self.active().segment.clone();
        // Durable before the next begins: so only the last segment can ever be torn.
        full.file.sync().map_err(|e| SpoolError::io(&full.path, e))?;
        let (shards, current) = (&self.shards, self.epoch.0);
        self.tails.retain(|epoch, tails| *epoch == current || !is_over(*epoch, tails, shards));
        self.add_segment(full.index + 1)
    }

    fn add_segment(&mut self, index: u64) -> Result<(), SpoolError> {
        let (segment, bytes) = Segment::create(&self.folder, index, &self.tails)?;
        self.kept.push_back(KeptSegment {
            segment: Arc::new(segment),
            bytes,
            highest: Highest::new(),
        });
        self.bytes += bytes;
        Ok(())
    }

    /// The ledger has counted this far: deletes the segments that hold nothing beyond.
    pub fn release(&mut self, shard: Shard, watermark: Watermark) {
        let Some(state) = self.shards.get_mut(usize::from(shard.0)) else { return };
        if watermark.as_of < state.watermark.as_of {
            return;
        }
        state.watermark = watermark;
        while self.kept.len() > 1 && is_counted(&self.kept[0].highest, &self.shards) {
            let Some(kept) = self.kept.pop_front() else { return };
            self.bytes -= kept.bytes;
            if let Err(error) = std::fs::remove_file(&kept.segment.path) {
                // It will be read again at the next start; positions make that harmless.
                let path = kept.segment.path.display();
                tracing::warn!(%error, %path, "Cannot delete a segment");
            }
        }
    }

    /// The place of the oldest record.
    pub fn oldest(&self) -> Option<SegmentPosition> {
        self.kept.front().map(|kept| SegmentPosition { segment: kept.segment.index, at: 0 })
    }

    /// Where the last record ends.
    pub fn end(&self) -> SegmentPosition {
        let active = self.active();
        SegmentPosition { segment: active.segment.index, at: active.bytes }
    }

    /// The segment `index`, or the first kept one after it, with where it ends, and whether another follows.
    pub fn segment_from(&self, index: u64) -> Option<(Arc<Segment>, u64, bool)> {
        let kept = self.kept.iter().find(|kept| kept.segment.index >= index)?;
        let later = self.active().segment.index > kept.segment.index;
        Some((kept.segment.clone(), kept.bytes, later))
    }

    #[cfg(test)]
    pub fn active_mut(&mut self) -> &mut KeptSegment {
        self.kept.back_mut().expect("there is always an active segment")
    }
}

/// Whether the ledger has counted every record of a segment.
fn is_counted(highest: &Highest, shards: &[ShardState]) -> bool {
    highest.iter().all(|((epoch, shard), seq)| {
        shards.get(usize::from(*shard)).is_some_and(|state| {
            let mark = state.watermark.epochs.get(&Epoch(*epoch));
            mark.is_some_and(|mark| mark >= seq) || has_ended(*epoch, state)
        })
    })
}

/// Whether an epoch has ended in every shard and the ledger knows.
fn is_over(epoch: u64, tails: &BTreeMap<u16, Tail>, shards: &[ShardState]) -> bool {
    let known =
        |shard: &u16| shards.get(usize::from(*shard)).is_some_and(|state| has_ended(epoch, state));
    tails.values().all(|tail| tail.ended) && tails.keys().all(known)
}

fn has_ended(epoch: u64, state: &ShardState) -> bool {
    state.watermark.ended.is_some_and(|ended| ended.0 >= epoch)
}
