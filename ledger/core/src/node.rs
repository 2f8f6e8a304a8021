//! What the ledger knows of one node: which positions it has seen, epoch by epoch.
//!
//! A lease is closed, or an epoch ended, only when nothing before that record is missing: both wait in `waiting`
//! until the watermark reaches them, since events of that lease may still be in the gap.

use std::collections::BTreeMap;

use schemas::{Epoch, Record, Seen};
use serde::{Deserialize, Serialize};

/// How many ended epochs of a node are remembered. A record of an older one is quarantined, never counted twice.
const ENDED_KEPT: usize = 64;

/// One epoch of a node in this shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochState {
    pub seen: Seen,
    /// Records that wait for a gap before them to be filled, by position.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waiting: BTreeMap<u64, Record>,
    /// Whether its last record was folded.
    pub ended: bool,
}

/// One node in this shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    pub epochs: BTreeMap<Epoch, EpochState>,
    /// Epochs below this one were forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten_below: Option<Epoch>,
}

impl NodeState {
    /// Whether an epoch may still say something new.
    #[must_use]
    pub fn is_over(&self, epoch: Epoch) -> bool {
        self.is_forgotten(epoch) || self.epochs.get(&epoch).is_some_and(|state| state.ended)
    }

    pub(crate) fn is_forgotten(&self, epoch: Epoch) -> bool {
        self.forgotten_below.is_some_and(|first| epoch < first)
    }

    /// The highest epoch up to which all that are known have ended.
    #[must_use]
    pub fn ended(&self) -> Option<Epoch> {
        self.epochs.iter().take_while(|(_, state)| state.ended).map(|(epoch, _)| *epoch).last()
    }

    /// Forgets the oldest ended epochs, but never one that still runs or one after it.
    pub(crate) fn forget(&mut self) {
        while self.epochs.len() > ENDED_KEPT {
            let Some(oldest) = self.epochs.first_entry().filter(|entry| entry.get().ended) else {
                return;
            };
            oldest.remove();
            self.forgotten_below = self.epochs.first_key_value().map(|(epoch, _)| *epoch);
        }
    }
}
