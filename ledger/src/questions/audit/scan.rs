//! One walk over a shard's messages: since when positions are missing, which positions came more than once, and
//! what ClickHouse has not read yet.
//!
//! Memory: O(nodes + gaps + runs of repeated positions), never O(records). A log whose first messages expired is
//! walked from what is left; what those showed is then older than the log.

use std::collections::{BTreeMap, HashMap, HashSet};

use ledger_core::Entry;
use runtime::nats::Nats;
use schemas::{
    ControlFact, Epoch, Hour, LedgerBatch, LedgerFact, NodeId, Record, Resolution, Seen, Shard,
    TenantId, Timestamp, UsageBatch, UsageEvent,
};

use crate::questions::log::{LogError, Logged, ShardLog};

/// One epoch of a node.
pub(super) type Place = (NodeId, Epoch);

/// The message that showed something, and when the stream stored it.
pub(super) type Shown = (u64, Timestamp);

/// What is told of one shard.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub places: HashMap<Place, PlaceScan>,
    /// Messages behind the ledger's checkpoint.
    pub unfolded: Behind,
    /// Messages that the ledger had folded and ClickHouse had not read.
    pub unread: Behind,
    /// Tenants and hours that those count for, and those of events that a person released later than was compared.
    pub touched: HashSet<(TenantId, Hour)>,
}

/// Messages that a reader has yet to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    pub messages: u64,
    /// When the first of them was stored.
    pub oldest: Option<Timestamp>,
}

impl Behind {
    fn add(&mut self, stored_at: Timestamp) {
        self.messages += 1;
        self.oldest = self.oldest.or(Some(stored_at));
    }

    /// Both together.
    pub fn with(self, other: Self) -> Self {
        let oldest = self.oldest.into_iter().chain(other.oldest).min();
        Self { messages: self.messages + other.messages, oldest }
    }
}

/// The positions of one place.
#[derive(Debug, Default)]
pub(super) struct PlaceScan {
    seen: Seen,
    /// First position of a run past a gap → the message that first showed that something before it is missing.
    since: BTreeMap<u64, Shown>,
    /// Positions that came again.
    pub repeated: Seen,
}

impl PlaceScan {
    fn take(&mut self, position: u64, shown: Shown, folded: bool) {
        if !self.seen.insert(position) {
            self.repeated.insert(position);
            return;
        }
        if !folded {
            return;
        }
        if self.seen.beyond.contains_key(&position) {
            // What lies before it was missed already when a later run was seen.
            let later = self.since.range(position..).next().map(|(_, shown)| *shown);
            self.since.entry(position).or_insert(later.map_or(shown, |later| later.min(shown)));
        }
        if self.since.len() != self.seen.beyond.len() {
            self.since.retain(|first, _| self.seen.beyond.contains_key(first));
        }
    }

    /// What first showed the gap before the run that begins at `first`; `None` = it is older than the log.
    pub fn shown(&self, first: u64) -> Option<Shown> {
        self.since.get(&first).copied()
    }
}

/// Which parts of the order others have reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    /// What the ledger has folded of this shard, where gaps are looked for.
    pub ledger: u64,
    /// What it had folded when its hours were compared with ClickHouse's, and ClickHouse's own mark.
    pub compared: u64,
    pub clickhouse: u64,
}

/// Walks the shard to its end.
///
/// # Errors
/// The log cannot be read.
pub(super) async fn scan(nats: &Nats, shard: Shard, reached: Reached) -> Result<Scan, LogError> {
    let mut log = ShardLog::from_what_is_left(nats, shard).await?;
    let mut scan = Scan::default();
    loop {
        let messages = log.next().await?;
        if messages.is_empty() {
            return Ok(scan);
        }
        for logged in messages {
            scan.take(shard, &logged, reached);
        }
    }
}

impl Scan {
    fn take(&mut self, shard: Shard, logged: &Logged, reached: Reached) {
        let folded = logged.seq <= reached.ledger;
        if !folded {
            self.unfolded.add(logged.stored_at);
        }
        let unread = logged.seq > reached.clickhouse && logged.seq <= reached.compared;
        if unread {
            self.unread.add(logged.stored_at);
        }
        if let Entry::Ledger(batch) = &logged.entry
            && (unread || logged.seq > reached.compared)
        {
            let of = |event: &UsageEvent| (event.tenant, event.at.hour());
            self.touched.extend(released(batch).map(of));
        }
        let Some(batch) = sound(&logged.entry, shard) else { return };
        let place = self.places.entry((batch.node.clone(), batch.epoch)).or_default();
        for (position, record) in (batch.first_seq..).zip(&batch.records) {
            place.take(position, (logged.seq, logged.stored_at), folded);
            if let Some(event) = usage(record)
                && unread
            {
                self.touched.insert((event.tenant, event.at.hour()));
            }
        }
    }
}

/// The events that a message lets out of quarantine. In ClickHouse they stand at no position, so in no shard.
fn released(batch: &LedgerBatch) -> impl Iterator<Item = &UsageEvent> {
    let decisions = batch.facts.iter().filter_map(|fact| match fact {
        LedgerFact::ControlTaken { decision, .. } => Some(&decision.facts),
        _ => None,
    });
    let resolutions = decisions.flatten().filter_map(|fact| match fact {
        ControlFact::QuarantineResolved { resolution, .. } => Some(resolution),
        _ => None,
    });
    resolutions.flat_map(|resolution| match resolution {
        Resolution::Discarded { .. } => Vec::new(),
        Resolution::Counted(event) => vec![&**event],
        Resolution::Replayed(batch) => batch.records.iter().filter_map(usage).collect(),
    })
}

fn usage(record: &Record) -> Option<&UsageEvent> {
    match record {
        Record::Usage(event) => Some(event),
        Record::Refused { .. } | Record::LeaseClosed { .. } | Record::EpochEnded => None,
    }
}

/// A message whose records have positions of this shard.
pub(super) fn sound(entry: &Entry, shard: Shard) -> Option<&UsageBatch> {
    match entry {
        Entry::Usage { batch, .. } if batch.shard == shard && batch.first_seq > 0 => Some(batch),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Shown {
        (seq, Timestamp(i64::try_from(seq).unwrap()))
    }

    #[test]
    fn a_gap_is_as_old_as_the_first_message_that_showed_it() {
        let mut place = PlaceScan::default();
        place.take(1, at(1), true);
        place.take(10, at(2), true); // 2..=9 are missing since 2.
        place.take(5, at(3), true); // So are 2..=4 and 6..=9 still.
        assert_eq!((place.shown(5), place.shown(10)), (Some(at(2)), Some(at(2))));
        place.take(9, at(4), true); // The run begins earlier now.
        assert_eq!((place.shown(9), place.shown(10)), (Some(at(2)), None));
        place.take(20, at(5), true);
        assert_eq!(place.shown(20), Some(at(5)));
        for position in [2, 3, 4] {
            place.take(position, at(6), true);
        }
        assert_eq!((place.shown(5), place.shown(9)), (None, Some(at(2))));
        assert_eq!(place.repeated, Seen::default());
    }

    #[test]
    fn an_event_that_was_released_after_the_comparison_is_left_out_of_it() {
        let sample = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../schemas/golden/decision.v1/quarantine_resolved.json"
        ));
        let decision = serde_json::from_str(sample).unwrap();
        let facts = vec![LedgerFact::ControlTaken { control_seq: 1, decision }];
        let batch = LedgerBatch { v: 1, shard: Shard(0), at: Timestamp(0), facts };
        let entry = Entry::Ledger(batch);
        let logged = Logged { seq: 7, stored_at: Timestamp(1), payload: Default::default(), entry };
        let touched = |compared, clickhouse| {
            let mut scan = Scan::default();
            scan.take(Shard(0), &logged, Reached { ledger: 7, compared, clickhouse });
            scan.touched.len()
        };
        assert_eq!(touched(7, 7), 0, "both have it");
        assert_eq!(touched(7, 6), 1, "ClickHouse has not read it");
        assert_eq!(touched(6, 7), 1, "the ledger had not folded it");
    }

    #[test]
    fn a_position_that_comes_again_is_remembered() {
        let mut place = PlaceScan::default();
        for position in [1, 2, 3, 2, 3, 7, 7] {
            place.take(position, at(1), true);
        }
        let again: Vec<u64> =
            (1..9).filter(|position| place.repeated.contains(*position)).collect();
        assert_eq!(again, [2, 3, 7], "nothing that came once");
    }
}
