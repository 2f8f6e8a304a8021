//! One file of the spool: a head frame that says where every count stood, then records.
//!
//! A segment is written once, from front to back; when it is full the next begins and this one never changes again.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use mcp_node_core::spool_format::{Frame, encode};
use schemas::{Epoch, Shard};
use serde::{Deserialize, Serialize};

use super::{SpoolError, file::SegmentFile, folder::sync_folder};

/// The shard that stands in a head frame: no log has so many.
pub(super) const HEAD_SHARD: Shard = Shard(u16::MAX);

/// Where the count of one epoch and shard stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tail {
    /// The last position; 0 = none.
    pub seq: u64,
    /// Its last record was `epoch_ended`.
    pub ended: bool,
}

/// Every count that is not yet over, by epoch and shard.
pub(super) type Tails = BTreeMap<u64, BTreeMap<u16, Tail>>;

/// What a head frame holds.
#[derive(Serialize, Deserialize)]
pub(super) struct HeadRecord {
    pub v: u8,
    pub tails: Tails,
}

/// The highest position of each epoch and shard in one segment.
pub(super) type Highest = BTreeMap<(u64, u16), u64>;

/// One file.
pub(super) struct Segment {
    pub index: u64,
    pub path: PathBuf,
    pub file: SegmentFile,
}

impl Segment {
    pub fn path_of(folder: &Path, index: u64) -> PathBuf {
        folder.join(format!("{index:020}.seg"))
    }

    /// Makes the file with its head, durably; it has its name only then, so that one that could not be made whole
    /// is in nobody's way. Returns it with its length.
    pub fn create(folder: &Path, index: u64, tails: &Tails) -> Result<(Self, u64), SpoolError> {
        let path = Self::path_of(folder, index);
        let head = HeadRecord { v: 1, tails: tails.clone() };
        let payload = serde_json::to_vec(&head).expect("numbers and flags are JSON");
        let mut bytes = Vec::new();
        let frame = Frame { epoch: Epoch(0), shard: HEAD_SHARD, seq: index, payload: &payload };
        encode(frame, &mut bytes).map_err(|_| SpoolError::TooManyEpochs(tails.len()))?;
        let length = bytes.len() as u64;
        let new = path.with_extension("new");
        let make = || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(true).open(&new)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            sync_folder(folder)?;
            Ok(file)
        };
        let file = make().map_err(|e| SpoolError::io(&path, e))?;
        Ok((Self { index, path, file: SegmentFile::new(file, length) }, length))
    }

    /// The segments in a folder, in order.
    pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, SpoolError> {
        let entries = std::fs::read_dir(folder).map_err(|e| SpoolError::io(folder, e))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| SpoolError::io(folder, e))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(index) = name.strip_suffix(".seg").and_then(|stem| stem.parse().ok()) {
                found.push((index, path));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}
