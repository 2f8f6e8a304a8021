//! The node's record of what was called, on its own disk, until the ledger has counted it.
//!
//! Invariants: a record has its position `(epoch, shard, seq)` from the moment it is written, under one lock, and
//! positions of one epoch and shard have no hole; a record is in the page cache when [`Spool::append`] returns, so
//! the death of the process does not lose it; a segment is deleted only when the ledger has counted all of it.
//! When anything of this cannot be kept, the spool is broken until the next start and takes no more.
//! Absent on purpose: sending (see `publish`), and records in memory: readers read the files.

mod error;
mod files;
mod folder;
mod reader;
mod recover;
mod segment;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use mcp_node_core::spool_format::Position;
use parking_lot::Mutex;
use schemas::{Epoch, NodeId, Record, Shard, Watermark};
use tokio::sync::Notify;

pub use self::{
    error::{CannotRecord, SpoolError},
    folder::Folder,
    reader::{Batch, Reader},
};
use self::{
    files::{Files, WriteError},
    sync::Syncer,
};

/// How `Record::EpochEnded` is written.
const EPOCH_ENDED: &[u8] = br#"{"type":"epoch_ended"}"#;

/// How much the spool holds.
#[derive(Clone, Copy, Debug)]
pub struct SpoolLimits {
    /// A segment ends when it would grow past this. Unit: bytes.
    pub segment_bytes: u64,
    /// From here on no new calls are taken; those that run are still recorded. Unit: bytes.
    pub max_bytes: u64,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, max_bytes: 8 << 30 }
    }
}

/// The spool of this start of the node.
pub struct Spool {
    folder: Folder,
    epoch: Epoch,
    limits: SpoolLimits,
    files: Mutex<Files>,
    /// All segments together, as of the last change. Unit: bytes.
    bytes: AtomicU64,
    broken: OnceLock<String>,
    syncer: Syncer,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// One a shard: something was appended.
    appended: Vec<Notify>,
    confirmed: Notify,
}

impl Spool {
    /// Recovers the folder, begins a new epoch, and ends those that nobody ended.
    ///
    /// `now_ms` = Unix time in milliseconds; `shards` = how many the log has.
    ///
    /// # Errors
    /// The disk refuses, or the folder holds what cannot be read.
    pub fn start(
        folder: Folder,
        limits: SpoolLimits,
        now_ms: u64,
        shards: u16,
    ) -> Result<Arc<Self>, SpoolError> {
        let mut recovered = recover::recover(&folder.segments())?;
        let last = folder.last_epoch()?;
        let known = recovered.tails.keys().next_back().copied().unwrap_or(0).max(last.epoch);
        let epoch = Epoch(known.saturating_add(1).max(now_ms));
        folder.set_epoch(epoch, false)?;
        recovered.settle(last.clean.then_some(last.epoch), shards);
        let files = Files::begin(&folder, limits, epoch, recovered, shards)?;
        let spool = Arc::new(Self {
            folder,
            epoch,
            limits,
            bytes: AtomicU64::new(files.bytes),
            files: Mutex::new(files),
            broken: OnceLock::new(),
            syncer: Syncer::default(),
            thread: Mutex::new(None),
            appended: (0..shards).map(|_| Notify::new()).collect(),
            confirmed: Notify::new(),
        });
        spool.end_old_epochs()?;
        spool.spawn_syncer()?;
        Ok(spool)
    }

    /// A process died: says of each of its shards that nothing more will come.
    fn end_old_epochs(&self) -> Result<(), SpoolError> {
        let (open, folder) = (self.files.lock().not_ended(), self.folder.segments());
        for (epoch, shard) in open {
            let written = self.write(epoch, shard, EPOCH_ENDED);
            written
                .map_err(|CannotRecord(why)| SpoolError::io(&folder, std::io::Error::other(why)))?;
        }
        self.syncer.sync_now().map_err(|e| SpoolError::io(&folder, e))
    }

    fn spawn_syncer(self: &Arc<Self>) -> Result<(), SpoolError> {
        let spool = self.clone();
        let run =
            move || spool.syncer.run(|error| spool.set_broken(format!("fsync failed: {error}")));
        let thread = std::thread::Builder::new().name("spool-sync".into()).spawn(run);
        *self.thread.lock() = Some(thread.map_err(|e| SpoolError::io(&self.folder.segments(), e))?);
        Ok(())
    }

    /// The node that this spool belongs to.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        self.folder.node()
    }

    /// The epoch of this start.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.appended.len()).expect("made from a u16")
    }

    /// How many bytes are on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a new call may be taken: the spool is neither broken nor full.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.broken.get().is_none() && self.bytes() < self.limits.max_bytes
    }

    /// What keeps it from taking new calls, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let full = || format!("full: {} bytes wait for the ledger", self.bytes());
        self.broken.get().cloned().or_else(|| (!self.accepts()).then(full))
    }

    /// Records at the next position of this epoch in the shard.
    ///
    /// # Errors
    /// The disk refused (then the spool is broken), or the epoch has ended.
    pub fn append(&self, shard: Shard, record: &Record) -> Result<(), CannotRecord> {
        let payload = serde_json::to_vec(record).map_err(|e| CannotRecord(e.to_string()))?;
        self.write(self.epoch, shard, &payload)
    }

    fn write(&self, epoch: Epoch, shard: Shard, payload: &[u8]) -> Result<(), CannotRecord> {
        let mut files = self.files.lock();
        if let Some(why) = self.broken.get() {
            return Err(CannotRecord(why.clone()));
        }
        let segment = match files.write(epoch, shard, payload) {
            Ok(segment) => segment,
            Err(WriteError::Refused(why)) => return Err(CannotRecord(why.to_owned())),
            Err(WriteError::Broken(error)) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let why = format!("{error}: {}", source.unwrap_or_default());
                self.set_broken(why.clone());
                return Err(CannotRecord(why));
            }
        };
        self.bytes.store(files.bytes, Ordering::Relaxed);
        drop(files);
        self.syncer.wrote(&segment);
        self.appended[usize::from(shard.0)].notify_one();
        Ok(())
    }

    fn set_broken(&self, why: String) {
        if self.broken.set(why).is_ok() {
            tracing::error!(
                why = self.broken.get(),
                "The spool is broken: no more calls are served"
            );
            metrics::gauge!("mcp_spool_broken").set(1);
        }
    }

    /// The ledger has counted this far: deletes the segments that hold nothing beyond.
    pub fn release(&self, shard: Shard, watermark: Watermark) {
        let mut files = self.files.lock();
        files.release(shard, watermark);
        self.bytes.store(files.bytes, Ordering::Relaxed);
    }

    /// A reader of one shard's records, from the oldest on file. There must be one at a time.
    #[must_use]
    pub fn reader(self: &Arc<Self>, shard: Shard) -> Reader {
        Reader::new(self.clone(), shard)
    }

    /// The last position written in a shard.
    #[must_use]
    pub fn appended(&self, shard: Shard) -> Position {
        let files = self.files.lock();
        files.shards.get(usize::from(shard.0)).map(|state| state.appended).unwrap_or_default()
    }

    /// Ends this epoch in the shards where anything was said or asked: the last thing that a node does.
    ///
    /// # Errors
    /// As for [`Spool::append`], or the fsync failed.
    pub fn end_epoch(&self, asked: &[Shard]) -> Result<(), CannotRecord> {
        let mut shards = self.files.lock().used_shards();
        shards.extend(asked);
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            self.append(shard, &Record::EpochEnded)?;
        }
        self.syncer.sync_now().map_err(|e| CannotRecord(e.to_string()))?;
        self.folder.set_epoch(self.epoch, true).map_err(|e| CannotRecord(e.to_string()))
    }

    /// Waits until the log has everything that was written.
    pub async fn flushed(&self) {
        loop {
            let confirmed = self.confirmed.notified();
            if self.files.lock().shards.iter().all(|state| state.confirmed >= state.appended) {
                return;
            }
            confirmed.await;
        }
    }

    /// Ends the thread that syncs, after a last sync. Nothing may be appended after this.
    pub fn stop(&self) {
        self.syncer.stop();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            self.set_broken("the thread that syncs has panicked".to_owned());
        }
    }
}
