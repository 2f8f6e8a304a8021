//! Which positions are stored: what tells a record that was published twice from one that is new.
//!
//! Held in memory as one watermark (and its gaps) for each node, epoch and shard that ever wrote; built from the
//! raw table at the start, which proves on the way that no position is in it twice. Positions are compared across
//! all lives of the stream: a node that resends its spool into a new stream adds nothing.

use std::collections::HashMap;

use clickhouse::Client;
use schemas::{Epoch, NodeId, Seen, Shard, UsageBatch};

/// The raw table holds positions that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum PositionsError {
    #[error("reading the positions that are stored")]
    ClickHouse(#[from] clickhouse::error::Error),
    #[error(
        "usage_events holds {rows} rows of node {node}, epoch {epoch}, shard {shard} up to position {max}: some twice"
    )]
    Twice { node: String, epoch: u64, shard: u16, rows: u64, max: u64 },
    #[error("usage_events holds rows of a node named `{0}`, which is no name")]
    Node(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    node: NodeId,
    epoch: Epoch,
    shard: Shard,
}

/// All positions that are stored or on their way.
#[derive(Debug, Default)]
pub struct Positions {
    places: HashMap<Place, Seen>,
    gaps: usize,
}

impl Positions {
    /// Marks the positions of a message as stored and says of each record whether it was not before.
    pub fn take_new(&mut self, batch: &UsageBatch) -> Vec<bool> {
        let place = Place { node: batch.node.clone(), epoch: batch.epoch, shard: batch.shard };
        let seen = self.places.entry(place).or_default();
        let had_gap = seen.first_gap().is_some();
        let fresh =
            (batch.first_seq..).take(batch.records.len()).map(|seq| seen.insert(seq)).collect();
        match (had_gap, seen.first_gap().is_some()) {
            (false, true) => self.gaps += 1,
            (true, false) => self.gaps -= 1,
            _ => {}
        }
        fresh
    }

    /// Publishes how many places miss records: the nodes hold them still, or they are lost.
    pub fn report(&self) {
        metrics::gauge!("ingest_places_with_gap").set(u32::try_from(self.gaps).unwrap_or(u32::MAX));
    }

    /// Reads them from the raw table. Read the mark first: rows that come in between are then known, not missed.
    ///
    /// # Errors
    /// No answer, or a position that is stored twice.
    pub async fn load(client: &Client) -> Result<Self, PositionsError> {
        const COUNTS: &str = "SELECT toString(node), epoch, shard, count(), max(seq) FROM usage_events \
                              WHERE record NOT IN ('mark', 'released') GROUP BY node, epoch, shard";
        let mut found = Self::default();
        let rows: Vec<(String, u64, u16, u64, u64)> = client.query_raw(COUNTS).fetch_all().await?;
        for (node, epoch, shard, rows, max) in rows {
            let name = node.parse().map_err(|_| PositionsError::Node(node.clone()))?;
            let place = Place { node: name, epoch: Epoch(epoch), shard: Shard(shard) };
            let runs = if rows == max { vec![(1, max)] } else { runs_of(client, &place).await? };
            let length: u64 = runs.iter().map(|(first, last)| last - first + 1).sum();
            if length != rows {
                return Err(PositionsError::Twice { node, epoch, shard, rows, max });
            }
            let seen = seen_of(&runs);
            found.gaps += usize::from(seen.first_gap().is_some());
            found.places.insert(place, seen);
        }
        Ok(found)
    }
}

/// The runs of positions without a hole of one place that has holes, in order.
async fn runs_of(client: &Client, place: &Place) -> Result<Vec<(u64, u64)>, PositionsError> {
    const RUNS: &str = "SELECT min(seq), max(seq) FROM (SELECT seq, toInt64(seq) - row_number() OVER (ORDER BY seq) AS run \
         FROM (SELECT DISTINCT seq FROM usage_events WHERE record NOT IN ('mark', 'released') AND node = {node:String} \
         AND epoch = {epoch:UInt64} AND shard = {shard:UInt16})) GROUP BY run ORDER BY 1";
    let query = client
        .query_raw(RUNS)
        .param("node", place.node.as_str())
        .param("epoch", place.epoch.0)
        .param("shard", place.shard.0);
    Ok(query.fetch_all().await?)
}

fn seen_of(runs: &[(u64, u64)]) -> Seen {
    let mut seen = Seen::default();
    for (first, last) in runs {
        if *first == seen.watermark + 1 {
            seen.watermark = *last;
        } else {
            seen.beyond.insert(*first, *last);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use schemas::Record;

    use super::*;

    fn batch(epoch: u64, first_seq: u64, len: usize) -> UsageBatch {
        let node = "n1".parse().unwrap();
        let records = vec![Record::EpochEnded; len];
        UsageBatch { v: 1, node, epoch: Epoch(epoch), shard: Shard(0), first_seq, records }
    }

    #[test]
    fn only_the_first_sight_of_a_position_is_new() {
        let mut positions = Positions::default();
        #[track_caller]
        fn check(positions: &mut Positions, batch: &UsageBatch, new: &[u64]) {
            let fresh = (batch.first_seq..).zip(positions.take_new(batch));
            let found: Vec<u64> = fresh.filter(|(_, new)| *new).map(|(seq, _)| seq).collect();
            assert_eq!(found, new);
        }
        check(&mut positions, &batch(1, 1, 3), &[1, 2, 3]);
        check(&mut positions, &batch(1, 2, 4), &[4, 5]);
        check(&mut positions, &batch(1, 1, 5), &[]);
        check(&mut positions, &batch(2, 1, 1), &[1]);
        check(&mut positions, &batch(1, 9, 1), &[9]);
        assert_eq!(positions.gaps, 1);
        check(&mut positions, &batch(1, 6, 3), &[6, 7, 8]);
        assert_eq!(positions.gaps, 0);
    }

    #[test]
    fn runs_read_back_as_what_was_seen() {
        let mut seen = Seen::default();
        for seq in [1, 2, 5, 6, 9] {
            seen.insert(seq);
        }
        assert_eq!(seen_of(&[(1, 2), (5, 6), (9, 9)]), seen);
        assert_eq!(seen_of(&[(4, 4)]).first_gap(), Some((1, 3)));
    }
}
