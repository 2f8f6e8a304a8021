//! The file of one segment: what was written to it, how much of that is durable, and what a full disk did to it.
//!
//! Invariants: after a failed fsync nothing that was written since the last good one counts as durable, however many
//! fsyncs succeed later (the kernel reports the error once and may have dropped the pages); it is durable again only
//! when the same bytes were read back, checked, written anew and synced.

use std::{
    fs::File,
    io::{Error, ErrorKind, Result},
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering},
};

use mcp_node_core::spool_format::decode;
use parking_lot::Mutex;

#[cfg(test)]
use super::fault::Faults;

/// How far a file is on the disk itself.
struct Durable {
    /// All before this survives a power cut. Unit: bytes.
    upto: u64,
    /// The fsync that failed behind it.
    failed: Option<ErrorKind>,
}

/// A segment's file.
pub(super) struct SegmentFile {
    file: File,
    /// Where the last whole record ends. Unit: bytes.
    written: AtomicU64,
    durable: Mutex<Durable>,
    #[cfg(test)]
    pub faults: Faults,
}

impl SegmentFile {
    /// A file whose first `bytes` are durable.
    pub fn new(file: File, bytes: u64) -> Self {
        Self {
            file,
            written: AtomicU64::new(bytes),
            durable: Mutex::new(Durable { upto: bytes, failed: None }),
            #[cfg(test)]
            faults: Faults::default(),
        }
    }

    /// Writes a whole record behind the last one.
    ///
    /// # Errors
    /// As the disk says; a part of it may stand in the file then, see [`SegmentFile::cut`].
    pub fn append(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.write(bytes, at)?;
        self.written.store(at + bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        #[cfg(test)]
        if let Some((kind, part)) = *self.faults.write.lock() {
            self.file.write_all_at(&bytes[..part.min(bytes.len())], at)?;
            return Err(kind.into());
        }
        self.file.write_all_at(bytes, at)
    }

    /// Reads exactly as much as `buffer` holds.
    ///
    /// # Errors
    /// As the disk says, or the file is shorter.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// This fsync failed, or one before it and [`SegmentFile::rewrite`] has not mended it.
    pub fn sync(&self) -> Result<()> {
        let mut durable = self.durable.lock();
        if let Some(kind) = durable.failed {
            return Err(kind.into());
        }
        let written = self.written.load(Ordering::Acquire);
        let synced = self.sync_data();
        match &synced {
            Ok(()) => durable.upto = durable.upto.max(written),
            Err(error) => durable.failed = Some(error.kind()),
        }
        synced
    }

    fn sync_data(&self) -> Result<()> {
        #[cfg(test)]
        if let Some(kind) = *self.faults.sync.lock() {
            return Err(kind.into());
        }
        self.file.sync_data()
    }

    /// After a failed fsync: writes what it may have lost anew, and syncs it.
    ///
    /// # Errors
    /// `InvalidData` = records are lost. Else the disk refuses still, and this can be tried again.
    pub fn rewrite(&self) -> Result<()> {
        let mut durable = self.durable.lock();
        if durable.failed.is_none() {
            return Ok(());
        }
        let written = self.written.load(Ordering::Acquire);
        let length = usize::try_from(written - durable.upto).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, durable.upto).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => lost(),
            _ => error,
        })?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (_, whole) = decode(rest).map_err(|_| lost())?;
            rest = &rest[whole..];
        }
        self.write(&bytes, durable.upto)?;
        self.sync_data()?;
        *durable = Durable { upto: written, failed: None };
        Ok(())
    }

    /// Cuts off what stands behind the last whole record.
    ///
    /// # Errors
    /// As the disk says.
    pub fn cut(&self) -> Result<()> {
        self.file.set_len(self.written.load(Ordering::Acquire))
    }

    /// Tries whether there is room for `size` bytes more, and leaves nothing of them.
    ///
    /// # Errors
    /// There is none, or as the disk says.
    pub fn probe(&self, size: usize) -> Result<()> {
        let room = self.write(&vec![0; size], self.written.load(Ordering::Acquire));
        let room = room.and_then(|()| self.sync());
        room.and(self.cut())
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::InvalidData, "records were lost by a failed fsync")
}

/// Whether an error passes when there is room again.
pub(super) fn is_no_room(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}
