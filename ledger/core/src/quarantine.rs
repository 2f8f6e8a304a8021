//! What could not be counted, and what a person decided becomes of it.
//!
//! Everything in quarantine has a place: a sequence of `LOG` and a position in it (0 = the whole message). It is
//! resolved once; a second resolution of the same place changes nothing and is told as an anomaly.

use schemas::{Resolution, UsageBatch};
use serde::Serialize;

use crate::{
    change::{Changes, Quarantined, Resolved},
    state::{Held, ShardState},
};

/// Added to a position that another record of the same message has.
const SAME_PLACE: u64 = 1 << 40;

impl ShardState {
    pub(crate) fn quarantine(
        &mut self,
        seq: u64,
        record: u64,
        reason: String,
        what: &impl Serialize,
        out: &mut Changes,
    ) {
        let payload = serde_json::to_string(what).unwrap_or_else(|error| error.to_string());
        self.put_in_quarantine(Quarantined { seq, record, reason, payload }, out);
    }

    pub(crate) fn put_in_quarantine(&mut self, mut found: Quarantined, out: &mut Changes) {
        // One message of the ledger can replay two messages whose records stand at the same position.
        while !self.quarantined.insert((found.seq, found.record)) {
            found.record += SAME_PLACE;
        }
        out.held.insert(Held::Quarantined(found.seq, found.record));
        out.quarantined.push(found);
    }

    /// Takes a resolution in, at `seq`.
    pub(crate) fn resolve(
        &mut self,
        seq: u64,
        place: (u64, u64),
        resolution: &Resolution,
        out: &mut Changes,
    ) {
        if !self.quarantined.remove(&place) {
            let detail = format!("nothing is in quarantine at {}/{}", place.0, place.1);
            return out.anomaly(seq, "resolution_of_nothing", detail);
        }
        out.held.insert(Held::Quarantined(place.0, place.1));
        let how = match resolution {
            Resolution::Discarded { .. } => "discarded",
            Resolution::Counted(event) => {
                self.count_resolved(seq, event, out);
                "counted"
            }
            Resolution::Replayed(batch) => {
                self.replay(seq, batch, out);
                "replayed"
            }
        };
        out.resolved.push(Resolved { place, how, seq });
    }

    /// The message as it should have been. What is wrong with it still is found as with any other, at this place.
    fn replay(&mut self, seq: u64, batch: &UsageBatch, out: &mut Changes) {
        let stored_at = self.at;
        self.apply_usage(seq, stored_at, batch, out);
    }
}
