//! The node's record of what was called, on its own disk, until the ledger has counted it.
//!
//! Invariants: a record has its position `(epoch, shard, seq)` from the moment it is written, under one lock, and
//! positions of one epoch and shard have no hole; a record is in the page cache when [`Spool::append`] returns, so
//! the death of the process does not lose it; a segment is deleted only when the ledger has counted all of it.
//! When the disk has no room the spool takes no records until it has some; when anything else of this cannot be kept,
//! it is broken until the next start.
//! Absent on purpose: sending (see `publish`), and records in memory: readers read the files.

mod error;
#[cfg(test)]
mod fault;
mod file;
mod files;
mod folder;
mod held;
mod place;
mod reader;
mod recover;
mod segment;
mod sync;
#[cfg(test)]
mod tests;
mod trouble;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mcp_node_core::spool_format::{EPOCH_ENDED, Position};
use parking_lot::Mutex;
use schemas::{Epoch, NodeId, Record, Shard, Watermark, lease::MAX_LEASE_TTL_MS};
use tokio::sync::Notify;

pub use self::{
    error::{CannotRecord, Holder, SpoolError},
    folder::Folder,
    reader::{Batch, Reader},
};
use self::{
    files::{Files, WriteError},
    held::HeldEpochs,
    place::Placed,
    segment::Segment,
    sync::Syncer,
    trouble::Troubles,
};

/// How often room is looked for, and whether an epoch must be held still.
const UPKEEP: Duration = Duration::from_millis(250);

/// What clocks of two machines may differ in, and a call may take beside its request. Unit: milliseconds.
const MARGIN_MS: u64 = 10_000;

/// How much the spool holds.
#[derive(Clone, Copy, Debug)]
pub struct SpoolLimits {
    /// A segment ends when it would grow past this. Unit: bytes.
    pub segment_bytes: u64,
    /// From here on no new calls are taken; those that run are still recorded. Unit: bytes.
    pub max_bytes: u64,
    /// For how long the leases of a process that may live on elsewhere are left alone.
    pub hold: Duration,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        let hold = Self::hold_for(Duration::from_secs(60));
        Self { segment_bytes: 64 << 20, max_bytes: 8 << 30, hold }
    }
}

impl SpoolLimits {
    /// How long a process may go on with the leases that it has: the longest lease, and the longest request, which may
    /// begin at its very end.
    #[must_use]
    pub fn hold_for(request_timeout: Duration) -> Duration {
        Duration::from_millis(u64::from(MAX_LEASE_TTL_MS) + MARGIN_MS) + request_timeout
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
    troubles: Troubles,
    /// Closed leases that could not be recorded since there was no room: they go first when there is some.
    owed: Mutex<Vec<(Shard, Vec<u8>)>>,
    held: HeldEpochs,
    syncer: Syncer,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// One a shard: something was appended.
    appended: Vec<Notify>,
    confirmed: Notify,
}

impl Spool {
    /// Recovers the folder, begins a new epoch, and ends those that nobody ended; on a folder that lies elsewhere than
    /// at the last start, only when their leases have ended.
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
        let open: BTreeSet<u64> = files.not_ended().iter().map(|(epoch, _)| epoch.0).collect();
        let placed = Placed::at_start(folder.place()?, folder.last_place()?, &open);
        folder.set_place(&placed)?;
        let spool = Arc::new(Self {
            folder,
            epoch,
            limits,
            bytes: AtomicU64::new(files.bytes),
            files: Mutex::new(files),
            troubles: Troubles::default(),
            owed: Mutex::default(),
            held: HeldEpochs::new(placed),
            syncer: Syncer::default(),
            thread: Mutex::new(None),
            appended: (0..shards).map(|_| Notify::new()).collect(),
            confirmed: Notify::new(),
        });
        spool.end_old_epochs()?;
        spool.announce()?;
        spool.syncer.sync_now()?;
        spool.spawn_upkeep()?;
        Ok(spool)
    }

    /// A process died: says of each of its shards that nothing more will come.
    fn end_old_epochs(&self) -> Result<(), SpoolError> {
        let (open, folder) = (self.files.lock().not_ended(), self.folder.segments());
        for (epoch, shard) in open.into_iter().filter(|(epoch, _)| !self.held.has(*epoch)) {
            let written = self.write(epoch, shard, EPOCH_ENDED);
            written
                .map_err(|CannotRecord(why)| SpoolError::io(&folder, std::io::Error::other(why)))?;
        }
        Ok(())
    }

    fn spawn_upkeep(self: &Arc<Self>) -> Result<(), SpoolError> {
        let spool = self.clone();
        let run = move || spool.keep_up();
        let thread = std::thread::Builder::new().name("spool-sync".into()).spawn(run);
        *self.thread.lock() = Some(thread.map_err(|e| SpoolError::io(&self.folder.segments(), e))?);
        Ok(())
    }

    /// Syncs group after group, looks for room when there was none, and ends what was held, until told to stop.
    fn keep_up(&self) {
        loop {
            let waits = self.troubles.may_pass() || self.held.any();
            let stop = self.syncer.wait(waits.then_some(UPKEEP));
            if let Err(error) = self.syncer.sync_now() {
                self.failed(error.into());
            }
            if stop {
                return;
            }
            if self.troubles.may_pass() {
                self.mend();
            }
            if !self.troubles.any()
                && let Err(error) = self.end_held()
            {
                self.failed(error);
            }
        }
    }

    /// Looks for room; what had to wait for it goes first.
    fn mend(&self) {
        let mut files = self.files.lock();
        if let Err(error) = files.mend() {
            self.failed(error);
            return;
        }
        let mut owed = self.owed.lock();
        while let Some((shard, payload)) = owed.first() {
            match files.write(self.epoch, *shard, payload) {
                Ok(segment) => self.wrote(files.bytes, *shard, &segment),
                Err(WriteError::Refused(why)) => tracing::warn!(why, "Cannot close a lease"),
                Err(error) => {
                    self.failed(error);
                    return;
                }
            }
            owed.remove(0);
        }
        self.troubles.passed();
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
        !self.troubles.any() && !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.bytes() >= self.limits.max_bytes
    }

    /// What keeps it from taking new calls and since when, in words.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let full = self.troubles.full(self.is_full());
        let full = full
            .map(|since| format!("full since {since}: {} bytes wait for the ledger", self.bytes()));
        self.troubles.now().map(|trouble| trouble.to_string()).or(full)
    }

    /// Records at the next position of this epoch in the shard. While the disk has no room, a closed lease is kept in
    /// memory until it has some: nothing else would free what the lease did not spend before this process ends.
    ///
    /// # Errors
    /// The disk has no room or has failed, or the epoch has ended.
    pub fn append(&self, shard: Shard, record: &Record) -> Result<(), CannotRecord> {
        let payload = serde_json::to_vec(record).map_err(|e| CannotRecord(e.to_string()))?;
        let written = self.write(self.epoch, shard, &payload);
        if written.is_err() && matches!(record, Record::LeaseClosed { .. }) {
            let files = self.files.lock();
            if self.troubles.may_pass() {
                self.owed.lock().push((shard, payload));
                return Ok(());
            }
            drop(files);
            return self.write(self.epoch, shard, &payload); // There is room again, or never.
        }
        written
    }

    fn write(&self, epoch: Epoch, shard: Shard, payload: &[u8]) -> Result<(), CannotRecord> {
        let mut files = self.files.lock();
        if self.troubles.any() {
            let why = self.troubles.now().map(|trouble| trouble.to_string());
            return Err(CannotRecord(why.unwrap_or_default()));
        }
        match files.write(epoch, shard, payload) {
            Ok(segment) => {
                let bytes = files.bytes;
                drop(files);
                self.wrote(bytes, shard, &segment);
                Ok(())
            }
            Err(WriteError::Refused(why)) => Err(CannotRecord(why.to_owned())),
            Err(error) => Err(CannotRecord(self.failed(error))),
        }
    }

    /// A record is in the page cache: it is to be made durable, and sent.
    fn wrote(&self, bytes: u64, shard: Shard, segment: &Arc<Segment>) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.syncer.wrote(segment);
        self.appended[usize::from(shard.0)].notify_one();
    }

    /// The disk refused; why, in words.
    fn failed(&self, error: WriteError) -> String {
        let (error, passes) = match error {
            WriteError::NoRoom(error) => (error, true),
            WriteError::Broken(error) => (error, false),
            WriteError::Refused(why) => return why.to_owned(),
        };
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let why = format!("{error}: {}", source.unwrap_or_default());
        if passes {
            self.troubles.no_room(why.clone());
        } else {
            self.troubles.broken(why.clone());
        }
        why
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
        self.syncer.sync_now().map_err(|error| CannotRecord(self.failed(error.into())))?;
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
            self.troubles.broken("the thread that syncs has panicked".to_owned());
        }
    }
}
