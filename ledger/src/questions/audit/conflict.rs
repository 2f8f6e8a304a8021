//! Positions that came more than once: the same record again is harmless, another record is a conflict.
//!
//! The first one was counted and stays; a conflict is told with both places, never settled here.

use std::collections::HashMap;

use runtime::nats::Nats;
use schemas::{Epoch, NodeId, Shard};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::scan::{Place, Scan, sound};
use crate::questions::{QuestionError, log::ShardLog};

/// Two messages that say different things at one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub shard: Shard,
    pub node: NodeId,
    pub epoch: Epoch,
    pub position: u64,
    /// The message that was counted.
    pub first_seq: u64,
    /// The one that differs.
    pub seq: u64,
}

/// What came of all repetitions in a shard.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    /// Records that came again as they were.
    pub resent: u64,
    pub conflicts: Vec<Conflict>,
}

/// The records of a message as they were written, byte for byte.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
}

/// Walks the shard again and compares the records of all positions that came more than once. Memory: O(of those).
///
/// # Errors
/// The log cannot be read.
pub(super) async fn compare(
    nats: &Nats,
    shard: Shard,
    scan: &Scan,
) -> Result<Repeated, QuestionError> {
    let mut found = Repeated::default();
    let of_place = |place: &Place| scan.places.get(place).map(|known| &known.repeated);
    let is_empty = |scan: &super::scan::PlaceScan| scan.repeated == schemas::Seen::default();
    if scan.places.values().all(is_empty) {
        return Ok(found);
    }
    let mut first: HashMap<(Place, u64), ([u8; 32], u64)> = HashMap::new();
    let mut log = ShardLog::from_what_is_left(nats, shard).await?;
    loop {
        let messages = log.next().await?;
        if messages.is_empty() {
            return Ok(found);
        }
        for logged in messages {
            let Some(batch) = sound(&logged.entry, shard) else { continue };
            let place = (batch.node.clone(), batch.epoch);
            let Some(repeated) = of_place(&place) else { continue };
            let positions =
                batch.first_seq..batch.first_seq.saturating_add(batch.records.len() as u64);
            if !positions.clone().any(|position| repeated.contains(position)) {
                continue;
            }
            let raw: Raw<'_> = serde_json::from_slice(&logged.payload)?;
            for (position, record) in positions.zip(raw.records) {
                if repeated.contains(position) {
                    let digest = Sha256::digest(record.get().as_bytes()).into();
                    let known =
                        first.entry((place.clone(), position)).or_insert((digest, logged.seq));
                    found.note(shard, (&place, position), *known, (digest, logged.seq));
                }
            }
        }
    }
}

impl Repeated {
    fn note(
        &mut self,
        shard: Shard,
        ((node, epoch), position): (&Place, u64),
        (digest, first_seq): ([u8; 32], u64),
        (found, seq): ([u8; 32], u64),
    ) {
        if seq == first_seq {
            return; // The first of them.
        }
        if digest == found {
            self.resent += 1;
        } else {
            let (node, epoch) = (node.clone(), *epoch);
            self.conflicts.push(Conflict { shard, node, epoch, position, first_seq, seq });
        }
    }
}
