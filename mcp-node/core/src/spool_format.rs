//! Frames of the spool: `len u32 | crc32 u32 | epoch u64 | shard u16 | seq u64 | payload`, little endian.
//!
//! `len` counts the payload; the check covers everything but itself. A frame that was cut off, or whose bytes are
//! not what was written, is never taken for a whole one. Absent on purpose: files (see `spool` in `mcp-node`).

use schemas::{Epoch, Shard};
use serde::Deserialize;

/// What stands before each payload. Unit: bytes.
pub const HEADER: usize = 26;
/// The largest payload. Unit: bytes.
pub const LARGEST_PAYLOAD: usize = 256 * 1024;

/// How the end of an epoch is written, unless it comes late.
pub const EPOCH_ENDED: &[u8] = br#"{"type":"epoch_ended"}"#;
/// What the end of any epoch begins with.
const END_PREFIX: &[u8] = br#"{"type":"epoch_ended""#;

/// Where a record stands in all that one node says to one shard; ordered as it is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub epoch: u64,
    /// From 1; 0 = before the first.
    pub seq: u64,
    /// The older epoch whose late end stands here, behind the record `(epoch, seq)`; 0 = the record itself.
    pub late: u64,
}

impl Position {
    /// The place of an ordinary record.
    #[must_use]
    pub fn new(epoch: Epoch, seq: u64) -> Self {
        Self { epoch: epoch.0, seq, late: 0 }
    }
}

/// The end of an epoch that is said after records of newer epochs; `after` = the record that it stands behind.
#[must_use]
pub fn late_end(after: Position) -> Vec<u8> {
    let Position { epoch, seq, late: _ } = after;
    format!(r#"{{"type":"epoch_ended","after":{{"epoch":{epoch},"seq":{seq}}}}}"#).into_bytes()
}

/// Whether a payload ends its epoch.
#[must_use]
pub fn is_end(payload: &[u8]) -> bool {
    payload.starts_with(END_PREFIX)
}

/// Where a record stands: at its own count, or, as the late end of its epoch, behind the record that it names.
#[must_use]
pub fn position(epoch: Epoch, seq: u64, payload: &[u8]) -> Position {
    #[derive(Deserialize)]
    struct LateEnd {
        after: After,
    }
    #[derive(Deserialize)]
    struct After {
        epoch: u64,
        seq: u64,
    }
    if payload.len() > EPOCH_ENDED.len()
        && is_end(payload)
        && let Ok(LateEnd { after }) = serde_json::from_slice(payload)
    {
        return Position { epoch: after.epoch, seq: after.seq, late: epoch.0 };
    }
    Position::new(epoch, seq)
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub epoch: Epoch,
    pub shard: Shard,
    pub seq: u64,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Where its record stands.
    #[must_use]
    pub fn position(&self) -> Position {
        position(self.epoch, self.seq, self.payload)
    }
}

/// Why no frame could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end within a frame. Holds how many bytes it has in all, as far as its head says.
    #[error("the bytes end within a frame of {0} bytes")]
    CutOff(usize),
    #[error("a frame says it has {0} bytes of payload")]
    Length(u32),
    #[error("a frame's bytes are not what was written")]
    Check,
}

/// The payload is larger than [`LARGEST_PAYLOAD`], or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of {0} bytes does not fit a frame")]
pub struct PayloadSize(pub usize);

/// Writes a frame behind what `out` holds.
///
/// # Errors
/// The payload is empty or too large; `out` is as it was.
pub fn encode(frame: Frame<'_>, out: &mut Vec<u8>) -> Result<(), PayloadSize> {
    let size = frame.payload.len();
    let len =
        u32::try_from(size).ok().filter(|len| (1..=LARGEST_PAYLOAD).contains(&(*len as usize)));
    let len = len.ok_or(PayloadSize(size))?.to_le_bytes();
    let (epoch, shard, seq) =
        (frame.epoch.0.to_le_bytes(), frame.shard.0.to_le_bytes(), frame.seq.to_le_bytes());
    let crc = check(&[&len, &epoch, &shard, &seq, frame.payload]).to_le_bytes();
    for part in [&len[..], &crc, &epoch, &shard, &seq, frame.payload] {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// What a frame's head says; its bytes are not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub epoch: Epoch,
    pub shard: Shard,
    pub seq: u64,
    /// All of the frame. Unit: bytes.
    pub whole: usize,
}

/// Reads the head of the frame that `bytes` begin with, to step over it.
///
/// # Errors
/// `CutOff` or `Length`.
pub fn head(bytes: &[u8]) -> Result<Head, FrameError> {
    let head = bytes.first_chunk::<HEADER>().ok_or(FrameError::CutOff(HEADER))?;
    let len = u32::from_le_bytes(part(head, 0));
    if !(1..=LARGEST_PAYLOAD).contains(&(len as usize)) {
        return Err(FrameError::Length(len));
    }
    Ok(Head {
        epoch: Epoch(u64::from_le_bytes(part(head, 8))),
        shard: Shard(u16::from_le_bytes(part(head, 16))),
        seq: u64::from_le_bytes(part(head, 18)),
        whole: HEADER + len as usize,
    })
}

/// Reads the frame that `bytes` begin with, and says how many bytes it has.
///
/// # Errors
/// See [`FrameError`].
pub fn decode(bytes: &[u8]) -> Result<(Frame<'_>, usize), FrameError> {
    let Head { epoch, shard, seq, whole } = head(bytes)?;
    let frame = bytes.get(..whole).ok_or(FrameError::CutOff(whole))?;
    let (head, payload) = frame.split_first_chunk::<HEADER>().ok_or(FrameError::CutOff(whole))?;
    if check(&[&head[..4], &head[8..], payload]) != u32::from_le_bytes(part(head, 4)) {
        return Err(FrameError::Check);
    }
    Ok((Frame { epoch, shard, seq, payload }, whole))
}

fn part<const N: usize>(head: &[u8; HEADER], at: usize) -> [u8; N] {
    std::array::from_fn(|place| head[at + place])
}

fn check(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: &[u8]) -> Frame<'_> {
        Frame { epoch: Epoch(1_700_000_000_000), shard: Shard(515), seq: 99, payload }
    }

    #[test]
    fn the_layout_never_changes() {
        let mut bytes = Vec::new();
        encode(Frame { epoch: Epoch(1), shard: Shard(2), seq: 3, payload: b"{}" }, &mut bytes)
            .unwrap();
        let frozen = [
            2, 0, 0, 0, 73, 181, 238, 250, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0,
            123, 125,
        ];
        assert_eq!(bytes, frozen, "spools on disk are read by newer nodes");
    }

    #[test]
    fn a_late_end_stands_behind_the_record_that_it_names() {
        let record = Position::new(Epoch(9), 4);
        let late = |epoch| position(Epoch(epoch), 77, &late_end(record));
        assert_eq!(late(5), Position { epoch: 9, seq: 4, late: 5 });
        assert!(record < late(5) && late(5) < late(6) && late(6) < Position::new(Epoch(9), 5));
        assert!(is_end(EPOCH_ENDED) && is_end(&late_end(record)) && !is_end(b"{}"));
        assert_eq!(position(Epoch(9), 4, EPOCH_ENDED), record);
        let read: schemas::Record = serde_json::from_slice(&late_end(record)).unwrap();
        assert_eq!(
            read,
            schemas::Record::EpochEnded,
            "every reader of the log takes it for an end"
        );
    }

    #[test]
    fn no_frame_is_empty_or_too_large() {
        let mut out = vec![7];
        assert_eq!(encode(frame(b""), &mut out), Err(PayloadSize(0)));
        let large = vec![0; LARGEST_PAYLOAD + 1];
        assert_eq!(encode(frame(&large), &mut out), Err(PayloadSize(large.len())));
        assert_eq!(out, [7]);
        assert_eq!(decode(&[0; 64]), Err(FrameError::Length(0)), "a hole of zeros is no frame");
    }

    proptest! {
        /// A frame cut at any byte is seen as cut; one with any bit turned is never taken for whole.
        #[test]
        fn damage_shows(payload in proptest::collection::vec(any::<u8>(), 1..80), bit in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode(frame(&payload), &mut bytes).unwrap();
            prop_assert_eq!(decode(&bytes), Ok((frame(&payload), bytes.len())));
            for cut in 0..bytes.len() {
                prop_assert!(matches!(decode(&bytes[..cut]), Err(FrameError::CutOff(_))), "cut at {}", cut);
            }
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes).is_err(), "bit {} turned", bit);
        }
    }
}
