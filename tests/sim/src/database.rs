//! The database: rows as each commit changed them, and a checkpoint that moves only from where its writer found it.

use std::collections::BTreeMap;

use ledger_core::{Changes, ShardState, Use, UseKey};
use schemas::{Hour, KeyId, MeterName, Shard, Timestamp};

/// What survives a ledger.
#[derive(Clone, Default)]
pub struct Database {
    pub seq: u64,
    checkpoint: Option<Checkpoint>,
    rows: BTreeMap<(&'static str, String), String>,
    keys: BTreeMap<KeyId, String>,
    uses: BTreeMap<UseKey, (i64, i64)>,
    pub hours: BTreeMap<(Hour, MeterName), u64>,
}

#[derive(Clone)]
struct Checkpoint {
    ledger_seq: u64,
    control_seq: u64,
    at: Timestamp,
    closed_through: Option<Hour>,
    seals: u64,
    sealed_at: Timestamp,
}

/// One commit, gathered from the state.
pub struct Commit {
    from: u64,
    to: u64,
    checkpoint: Checkpoint,
    rows: Vec<(&'static str, String, Option<String>)>,
    keys: Vec<(KeyId, String)>,
    changes: Changes,
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("rows always serialize")
}

impl Commit {
    pub fn gather(state: &ShardState, changes: Changes, from: u64) -> Self {
        let row = |held: &ledger_core::Held| {
            let (kind, id) = held.name();
            (kind, id, state.row(held).map(|row| json(&row)))
        };
        let key = |key: &KeyId| state.key(*key).map(|(row, _)| (*key, json(row)));
        Self {
            from,
            to: state.seq,
            checkpoint: Checkpoint {
                ledger_seq: state.ledger_seq,
                control_seq: state.control_seq,
                at: state.at,
                closed_through: state.closed_through,
                seals: state.seals,
                sealed_at: state.sealed_at,
            },
            rows: changes.held.iter().map(row).collect(),
            keys: changes.keys.iter().filter_map(key).collect(),
            changes,
        }
    }

    pub fn to(&self) -> u64 {
        self.to
    }
}

impl Database {
    /// Writes all of a commit or nothing; `guarded` = only if the checkpoint is where the writer found it.
    pub fn write(&mut self, commit: Commit, guarded: bool) -> bool {
        if guarded && commit.from != self.seq {
            return false;
        }
        self.seq = commit.to;
        self.checkpoint = Some(commit.checkpoint);
        for (kind, id, body) in commit.rows {
            match body {
                Some(body) => self.rows.insert((kind, id), body),
                None => self.rows.remove(&(kind, id)),
            };
        }
        self.keys.extend(commit.keys);
        for (key, (consumed, outstanding)) in commit.changes.uses {
            let sum = self.uses.entry(key).or_default();
            *sum = (sum.0 + consumed, sum.1 + outstanding);
        }
        for (cell, units) in commit.changes.hours {
            *self.hours.entry((cell.hour, cell.meter)).or_default() += units;
        }
        true
    }

    /// The state at the checkpoint. A negative counter reads as none, as PostgreSQL's reader does.
    pub fn load(&self, shard: Shard) -> ShardState {
        let mut state = ShardState::new(shard);
        let Some(checkpoint) = &self.checkpoint else { return state };
        state.seq = self.seq;
        state.ledger_seq = checkpoint.ledger_seq;
        state.control_seq = checkpoint.control_seq;
        state.at = checkpoint.at;
        state.closed_through = checkpoint.closed_through;
        (state.seals, state.sealed_at) = (checkpoint.seals, checkpoint.sealed_at);
        for row in self.rows.values() {
            state.restore(serde_json::from_str(row).expect("a stored row reads back"));
        }
        for (key, row) in &self.keys {
            state.restore_key(*key, serde_json::from_str(row).expect("a stored key reads back"));
        }
        for (key, (consumed, outstanding)) in &self.uses {
            let unsigned = |sum: i64| u64::try_from(sum).unwrap_or(0);
            let value = Use { consumed: unsigned(*consumed), outstanding: unsigned(*outstanding) };
            state.restore_use(key.clone(), value);
        }
        state
    }
}
