//! Reads a spool folder after whatever ended the last process.
//!
//! Only the last segment can end within a frame, since a segment is durable before the next begins. Such a tail is
//! cut, and kept beside it for a person to look at. Anything else that is not as it was written stops the start:
//! a node that guessed here could lose usage in silence.

use std::{collections::BTreeMap, fs::OpenOptions, path::Path};

use mcp_node_core::spool_format::{Frame, FrameError, Position, decode, is_end};
use schemas::Epoch;

use super::{
    SpoolError,
    file::SegmentFile,
    folder::sync_folder,
    segment::{HEAD_SHARD, HeadRecord, Highest, Segment, Tail, Tails},
};

/// One segment as it was found.
pub(super) struct RecoveredSegment {
    pub segment: Segment,
    pub bytes: u64,
    pub highest: Highest,
}

/// What a folder holds.
#[derive(Default)]
pub(super) struct Recovered {
    pub segments: Vec<RecoveredSegment>,
    pub tails: Tails,
    /// The last late end of an epoch that is on file, by shard.
    late: BTreeMap<u16, Position>,
}

/// Reads all segments, from the oldest on.
pub(super) fn recover(folder: &Path) -> Result<Recovered, SpoolError> {
    let listed = Segment::list(folder)?;
    let mut recovered = Recovered::default();
    for (place, (index, path)) in listed.iter().enumerate() {
        let last = place + 1 == listed.len();
        if let Some(before) = recovered.segments.last()
            && before.segment.index + 1 != *index
        {
            return Err(SpoolError::corrupt(path, 0, "the segment before it is missing"));
        }
        if let Some(found) = read_segment(path, *index, last, &mut recovered)? {
            recovered.segments.push(found);
        }
    }
    Ok(recovered)
}

/// Reads one segment; `None` = it was the last and held nothing whole.
fn read_segment(
    path: &Path,
    index: u64,
    last: bool,
    recovered: &mut Recovered,
) -> Result<Option<RecoveredSegment>, SpoolError> {
    // A segment is 64 MiB at most, and this happens once, before anything is served.
    let bytes = std::fs::read(path).map_err(|e| SpoolError::io(path, e))?;
    let (mut at, mut highest) = (0, Highest::new());
    while at < bytes.len() {
        match decode(&bytes[at..]) {
            Ok((frame, whole)) => {
                fold(frame, index, at == 0, &mut recovered.tails)
                    .map_err(|what| SpoolError::corrupt(path, at as u64, what))?;
                if frame.shard != HEAD_SHARD {
                    highest.insert((frame.epoch.0, frame.shard.0), frame.seq);
                    let position = frame.position();
                    if position.late != 0 {
                        recovered.late.insert(frame.shard.0, position);
                    }
                }
                at += whole;
            }
            Err(error) if last => {
                cut_tail(path, &bytes, at, error)?;
                break;
            }
            Err(_) => return Err(SpoolError::corrupt(path, at as u64, "a frame is damaged")),
        }
    }
    if at == 0 {
        std::fs::remove_file(path).map_err(|e| SpoolError::io(path, e))?;
        return Ok(None);
    }
    let file = OpenOptions::new().read(true).open(path).map_err(|e| SpoolError::io(path, e))?;
    if last {
        // What a killed process wrote may be in the page cache alone: only the last segment can ever be torn.
        file.sync_data().map_err(|e| SpoolError::io(path, e))?;
    }
    let file = SegmentFile::new(file, at as u64);
    let segment = Segment { index, path: path.to_owned(), file };
    Ok(Some(RecoveredSegment { segment, bytes: at as u64, highest }))
}

/// Takes one frame into the counts; says what is wrong if it does not continue them.
fn fold(frame: Frame<'_>, index: u64, first: bool, tails: &mut Tails) -> Result<(), &'static str> {
    if first != (frame.shard == HEAD_SHARD) {
        return Err("a segment begins with its head, and only there");
    }
    if first {
        let head: HeadRecord =
            serde_json::from_slice(frame.payload).map_err(|_| "its head cannot be read")?;
        if frame.seq != index || head.v != 1 {
            return Err("its head belongs to another segment");
        }
        if !tails.is_empty()
            && !head.tails.iter().all(|(epoch, said)| continues(tails.get(epoch), said))
        {
            return Err("its head does not continue the segment before");
        }
        *tails = head.tails;
        return Ok(());
    }
    let tail = tails.entry(frame.epoch.0).or_default().entry(frame.shard.0).or_default();
    // A late end stands behind all that the ledger had by then, which may be more than this copy ever held.
    let late = frame.position().late != 0;
    if tail.ended || frame.seq <= tail.seq || (!late && frame.seq != tail.seq + 1) {
        return Err("a record does not continue its count");
    }
    tail.seq = frame.seq;
    tail.ended = is_end(frame.payload);
    Ok(())
}

/// Whether what a head says of an epoch is what the segments before it say.
fn continues(before: Option<&BTreeMap<u16, Tail>>, said: &BTreeMap<u16, Tail>) -> bool {
    let seen =
        |shard: &u16| before.and_then(|before| before.get(shard)).copied().unwrap_or_default();
    said.iter().all(|(shard, tail)| tail.seq == seen(shard).seq)
}

/// Keeps what cannot be read beside the segment and cuts it off.
fn cut_tail(path: &Path, bytes: &[u8], at: usize, error: FrameError) -> Result<(), SpoolError> {
    let kept = path.with_extension(format!("torn-{at}"));
    let cut = || {
        std::fs::write(&kept, &bytes[at..])?;
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(at as u64)?;
        file.sync_all()?;
        sync_folder(path.parent().unwrap_or(Path::new(".")))
    };
    cut().map_err(|e| SpoolError::io(path, e))?;
    let (segment, bytes) = (path.display(), bytes.len() - at);
    tracing::warn!(%segment, at, bytes, %error, "Cut a torn tail; it is kept as *.torn-*");
    Ok(())
}

impl Recovered {
    /// The last position of a shard in all of the spool, and whether any record of it is on file.
    pub fn last_of(&self, shard: u16) -> (Position, bool) {
        let mut counts =
            self.tails.iter().filter_map(|(epoch, shards)| Some((*epoch, shards.get(&shard)?.seq)));
        let last = counts.rfind(|(_, seq)| *seq > 0);
        let position =
            last.map_or(Position::default(), |(epoch, seq)| Position::new(Epoch(epoch), seq));
        let position = position.max(self.late.get(&shard).copied().unwrap_or_default());
        (position, self.segments.iter().any(|found| found.highest.keys().any(|(_, s)| *s == shard)))
    }

    /// Takes into account that the epoch `clean` ended in order, and forgets epochs of which nothing is left to say.
    pub fn settle(&mut self, clean: Option<u64>, shards: u16) {
        if let Some(tails) = clean.and_then(|epoch| self.tails.get_mut(&epoch)) {
            for shard in 0..shards {
                tails.entry(shard).or_default().ended = true;
            }
        }
        let segments = &self.segments;
        let on_file =
            |epoch: u64| segments.iter().any(|s| s.highest.keys().any(|(e, _)| *e == epoch));
        self.tails.retain(|epoch, tails| {
            let ended = (0..shards).all(|shard| tails.get(&shard).is_some_and(|tail| tail.ended));
            !ended || on_file(*epoch)
        });
    }
}
