//! Positions: where a record stands in what one node ever said to one shard, and which were seen.
//!
//! A node numbers its records from 1 without a hole, apart for each of its epochs and each shard: the
//! position `(node, epoch, shard, seq)` names a record for ever. Dedupe is by position, so it needs no window.
//!
//! Invariants of [`Seen`]: `watermark` is the highest position below which nothing is missing; `beyond`
//! holds disjoint, non-adjacent ranges above `watermark + 1`. Its memory grows with the gaps, not the records.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One start of a node. A later start of the same spool folder has a higher number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// The positions of one `(node, epoch, shard)` that were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Seen {
    /// Every position from 1 to here was seen; 0 = none.
    pub watermark: u64,
    /// What was seen past the first gap: first position of a run → its last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beyond: BTreeMap<u64, u64>,
}

impl Seen {
    /// Marks `seq` (from 1) as seen; `true` if it is new, `false` if it was seen before (or is 0, which no record has).
    pub fn insert(&mut self, seq: u64) -> bool {
        if seq <= self.watermark {
            return false;
        }
        if seq == self.watermark + 1 {
            self.watermark = seq;
            self.join_first_run();
            return true;
        }
        let before = self.beyond.range(..=seq).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| seq <= last) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last + 1 == seq => first,
            _ => seq,
        };
        let last = self.beyond.remove(&(seq + 1)).unwrap_or(seq);
        self.beyond.insert(first, last);
        true
    }

    /// Whether `seq` was seen.
    #[must_use]
    pub fn contains(&self, seq: u64) -> bool {
        seq <= self.watermark
            || self.beyond.range(..=seq).next_back().is_some_and(|(_, last)| seq <= *last)
    }

    /// The first gap, `first..=last`, or `None` when nothing is missing.
    #[must_use]
    pub fn first_gap(&self) -> Option<(u64, u64)> {
        self.beyond.first_key_value().map(|(next, _)| (self.watermark + 1, next - 1))
    }

    fn join_first_run(&mut self) {
        if let Some(last) = self.beyond.remove(&(self.watermark + 1)) {
            self.watermark = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any order with any repeats ends as a plain set would, and only the first sight of a position is new.
        #[test]
        fn seen_is_a_set(seqs in proptest::collection::vec(1..60u64, 0..200)) {
            let (mut seen, mut model) = (Seen::default(), BTreeSet::new());
            for seq in seqs {
                prop_assert_eq!(seen.contains(seq), model.contains(&seq));
                prop_assert_eq!(seen.insert(seq), model.insert(seq));
                let watermark = (1..).take_while(|s| model.contains(s)).count() as u64;
                prop_assert_eq!(seen.watermark, watermark);
                let runs: Vec<_> = seen.beyond.iter().collect();
                prop_assert!(runs.iter().all(|(first, last)| first <= last && **first > watermark + 1));
                prop_assert!(runs.windows(2).all(|w| *w[0].1 + 1 < *w[1].0), "runs touch: {:?}", runs);
                let beyond: u64 = runs.iter().map(|(f, l)| **l - **f + 1).sum();
                prop_assert_eq!(watermark + beyond, model.len() as u64);
            }
        }
    }

    #[test]
    fn a_gap_shows_until_it_is_filled() {
        let mut seen = Seen::default();
        assert!(!seen.insert(0));
        assert!(seen.insert(1) && seen.insert(4));
        assert_eq!(seen.first_gap(), Some((2, 3)));
        assert!(seen.insert(3) && seen.insert(2));
        assert_eq!((seen.watermark, seen.first_gap()), (4, None));
    }
}
