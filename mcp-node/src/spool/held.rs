//! Dead epochs whose process may live on elsewhere: ended only when nobody can spend their leases any more.
//!
//! 1. The new epoch says something in each shard where an older one is held. From when the ledger has counted that,
//!    as its watermark shows, it grants the older ones no lease.
//! 2. From then on the longest lease and the longest request must pass. The end of that time is kept on disk, on the
//!    clock of this boot, so that neither a kill nor a restart shortens or lengthens it.
//! 3. Then the epochs are ended where the ledger has them open, each behind the records that newer ones have said.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use schemas::{Epoch, LeaseId, Record, Shard, TenantId};
use uuid::Uuid;

use super::{Spool, SpoolError, files::WriteError, place::Placed};
use crate::clock::boot_ms;

/// The epochs that are held.
pub(super) struct HeldEpochs(Mutex<State>);

struct State {
    placed: Placed,
    /// The folder does not say the same yet.
    unsaved: bool,
}

impl HeldEpochs {
    /// As the folder says.
    pub fn new(placed: Placed) -> Self {
        Self(Mutex::new(State { placed, unsaved: false }))
    }

    /// Whether an epoch must not be ended yet.
    pub fn has(&self, epoch: Epoch) -> bool {
        self.0.lock().placed.held.contains(&epoch.0)
    }

    /// Whether [`Spool::end_held`] has something to do, now or later.
    pub fn any(&self) -> bool {
        let state = self.0.lock();
        state.unsaved || !state.placed.held.is_empty()
    }
}

impl Spool {
    /// Lets the ledger know of the new epoch wherever an older one is held: a lease that was never asked for is closed.
    pub(super) fn announce(&self) -> Result<(), SpoolError> {
        let (epochs, unknown): (usize, Vec<Shard>) = {
            let (state, files) = (self.held.0.lock(), self.files.lock());
            let placed = &state.placed;
            let open = |shard: &Shard| !files.open_in(*shard, &placed.held).is_empty();
            let unknown = |shard: &Shard| !placed.until_ms.contains_key(&shard.0);
            (placed.held.len(), self.all_shards().filter(open).filter(unknown).collect())
        };
        if epochs > 0 {
            tracing::warn!(
                epochs,
                hold_s = self.limits.hold.as_secs(),
                "The spool folder was moved or copied, the machine booted, or this node is new to it: \
                 the units of its unfinished epochs stay reserved until their leases have surely ended"
            );
        }
        self.show_held(epochs);
        for shard in unknown {
            let (lease, tenant) = (LeaseId(Uuid::now_v7()), TenantId(Uuid::nil()));
            let closed = Record::LeaseClosed { lease, tenant, spent: BTreeMap::new() };
            let written = self.append(shard, &closed);
            written.map_err(|error| {
                SpoolError::io(&self.folder.segments(), std::io::Error::other(error.0))
            })?;
        }
        Ok(())
    }

    /// Ends what needs not be held any more.
    pub(super) fn end_held(&self) -> Result<(), WriteError> {
        if !self.held.any() {
            return Ok(());
        }
        let mut state = self.held.0.lock();
        let State { placed, unsaved } = &mut *state;
        let (now_ms, mut waits) = (boot_ms(), false);
        let hold_ms = u64::try_from(self.limits.hold.as_millis()).unwrap_or(u64::MAX);
        for shard in self.all_shards() {
            let mut files = self.files.lock();
            let open = files.open_in(shard, &placed.held);
            let Some(newest) = open.last() else { continue };
            match placed.until_ms.get(&shard.0) {
                Some(until_ms) if *until_ms <= now_ms && files.is_counted_in(shard) => {
                    for epoch in open {
                        if let Some(segment) = files.end_late(epoch, shard)? {
                            self.wrote(files.bytes, shard, &segment);
                        }
                    }
                    continue;
                }
                None if files.is_replaced(shard, *newest) => {
                    placed.until_ms.insert(shard.0, now_ms.saturating_add(hold_ms));
                    *unsaved = true;
                }
                None | Some(_) => {}
            }
            waits = true;
        }
        if !waits && !placed.held.is_empty() {
            tracing::info!(epochs = placed.held.len(), "Ended the epochs that were held");
            placed.held.clear();
            placed.until_ms.clear();
            *unsaved = true;
        }
        if *unsaved {
            self.folder.set_place(placed)?;
            *unsaved = false;
        }
        self.show_held(placed.held.len());
        Ok(())
    }

    fn all_shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.shards()).map(Shard)
    }

    fn show_held(&self, epochs: usize) {
        metrics::gauge!("mcp_spool_held_epochs").set(u32::try_from(epochs).unwrap_or(u32::MAX));
    }
}
