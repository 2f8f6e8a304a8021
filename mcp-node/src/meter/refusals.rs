//! Refused calls of known keys, counted and recorded once a second for each key, tool and reason.
//!
//! Bounded: a key that is refused may name any tool, so beyond so many different ones a second the tool is left
//! out (recorded as an empty name), never the count.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use schemas::{KeyState, Quantity, Record, RefusalReason, Shard};

use crate::{clock, spool::Spool};

const MAX_ENTRIES: usize = 4_096;

type RefusalKey = (schemas::KeyId, RefusalReason, String);

struct Refused {
    state: Arc<KeyState>,
    calls: u64,
}

/// What was refused since the last flush.
#[derive(Default)]
pub struct Refusals {
    entries: Mutex<HashMap<RefusalKey, Refused, std::hash::RandomState>>,
}

impl Refusals {
    pub fn note(&self, state: &Arc<KeyState>, tool: &str, reason: RefusalReason) {
        let mut entries = self.entries.lock();
        let mut place = (state.key, reason, tool.to_owned());
        if entries.len() >= MAX_ENTRIES && !entries.contains_key(&place) {
            place.2.clear();
        }
        entries.entry(place).or_insert_with(|| Refused { state: state.clone(), calls: 0 }).calls +=
            1;
    }

    /// Records what was counted.
    pub fn flush(&self, spool: &Spool) {
        let entries = std::mem::take(&mut *self.entries.lock());
        for record in entries.into_iter().map(|(place, refused)| record(place, &refused)) {
            let (shard, record) = record;
            if let Err(error) = spool.append(shard, &record) {
                tracing::warn!(%error, "Refused calls were not recorded");
            }
        }
    }
}

fn record((key, reason, tool): RefusalKey, refused: &Refused) -> (Shard, Record) {
    let KeyState { tenant, project, shard, .. } = *refused.state;
    let calls = Quantity(refused.calls);
    (shard, Record::Refused { at: clock::wall(), tenant, project, key, tool, reason, calls })
}
