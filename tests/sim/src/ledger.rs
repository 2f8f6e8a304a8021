//! A simulated ledger process: the loop of `ledger/src/shard/work.rs` around the real core, one step at a time.

use std::collections::VecDeque;

use ledger_core::{Changes, Demand, Granting, Policy, SealPolicy, ShardState};
use schemas::{Decision, LeaseAnswer, LeaseRequest, LedgerBatch, LedgerFact, Timestamp, Watermark};

use crate::{
    bug::Bug,
    database::{Commit, Database},
    log::Stored,
    model::SHARD,
};

pub const POLICY: Policy = Policy { ttl_ms: 30_000, held_retry_ms: 250 };
pub const SEALS: SealPolicy = SealPolicy { interval_ms: 60_000, lateness_ms: 2_000 };

/// A question, and the node that wants the answer.
#[derive(Clone, Debug)]
pub struct Question {
    pub from: usize,
    pub request: LeaseRequest,
}

/// What waits for one of our messages to be stored.
pub struct InFlight {
    pub token: u64,
    pub answers: Vec<(usize, Vec<LeaseAnswer>)>,
}

/// One ledger process while it lives and believes to own the shard.
pub struct Ledger {
    pub state: ShardState,
    changes: Changes,
    committed: u64,
    pub questions: VecDeque<Question>,
    pub in_flight: Option<InFlight>,
    fold_first: u64,
    demand: Demand,
    bug: Option<Bug>,
}

/// What a decision wants done.
pub struct Decided {
    pub batch: Option<LedgerBatch>,
    pub expected: Option<u64>,
    pub answers: Vec<(usize, Vec<LeaseAnswer>)>,
    pub recall: bool,
}

impl Ledger {
    /// Begins at the checkpoint; decides once it has folded what is on the ledger's subject now.
    pub fn begin(database: &Database, ledger_last: u64, bug: Option<Bug>) -> Self {
        let state = database.load(SHARD);
        Self {
            committed: state.seq,
            state,
            changes: Changes::default(),
            questions: VecDeque::new(),
            in_flight: None,
            fold_first: ledger_last,
            demand: Demand::default(),
            bug,
        }
    }

    pub fn fold(&mut self, messages: &[Stored]) {
        for stored in messages {
            self.state.apply(stored.seq, &stored.entry, &mut self.changes);
        }
    }

    /// Commits what is folded; `false` = the checkpoint is not ours any more.
    pub fn commit(&mut self, database: &mut Database) -> bool {
        if self.state.seq == self.committed {
            return true;
        }
        let commit = Commit::gather(&self.state, std::mem::take(&mut self.changes), self.committed);
        let to = commit.to();
        let guarded = self.bug != Some(Bug::NoCheckpointGuard);
        let written = database.write(commit, guarded);
        self.committed = to;
        written
    }

    /// What nodes may be told after a commit.
    pub fn watermarks(&self) -> Vec<(schemas::NodeId, Watermark)> {
        let watermark = |state: &ledger_core::NodeState| Watermark {
            epochs: state
                .epochs
                .iter()
                .filter(|(_, e)| !e.ended)
                .map(|(n, e)| (*n, e.seen.watermark))
                .collect(),
            ended: state.ended(),
            as_of: self.committed,
        };
        self.state.nodes().iter().map(|(node, state)| (node.clone(), watermark(state))).collect()
    }

    /// Decides what waits, if nothing of ours is on its way or not yet folded.
    pub fn decide(
        &mut self,
        now: Timestamp,
        control: &[(u64, Decision)],
        seals: bool,
    ) -> Option<Decided> {
        let blind = self.bug == Some(Bug::DecideBlind);
        if self.in_flight.is_some() || (!blind && self.state.ledger_seq < self.fold_first) {
            return None;
        }
        let expected = (self.bug != Some(Bug::NoFence) && !blind).then_some(self.state.ledger_seq);
        let batch =
            |facts| Some(LedgerBatch { v: 1, shard: SHARD, at: now.max(self.state.at), facts });
        let taken: Vec<LedgerFact> = control
            .iter()
            .filter(|(seq, _)| *seq > self.state.control_seq)
            .map(|(seq, decision)| LedgerFact::ControlTaken {
                control_seq: *seq,
                decision: decision.clone(),
            })
            .collect();
        if !taken.is_empty() {
            return Some(Decided { batch: batch(taken), expected, answers: vec![], recall: false });
        }
        if !self.questions.is_empty() {
            let mut granting = Granting::new(&self.state, &mut self.demand, now, POLICY);
            let (mut answers, mut recall) = (Vec::new(), false);
            for Question { from, request } in self.questions.drain(..) {
                let said = request.asks.iter().map(|ask| {
                    match granting.ask(&request.node, request.epoch, ask) {
                        Ok(lease) => LeaseAnswer::Granted(lease),
                        Err(why) => {
                            recall |= matches!(why, schemas::LeaseRefusal::UnitsHeld { .. });
                            LeaseAnswer::Refused { lease: ask.lease, why }
                        }
                    }
                });
                answers.push((from, said.collect()));
            }
            let facts = granting.into_facts();
            let batch = if facts.is_empty() { None } else { batch(facts) };
            return Some(Decided { batch, expected, answers, recall });
        }
        let mut facts = if seals { self.state.decide_seals(now, SEALS) } else { vec![] };
        if seals {
            facts.extend(self.state.decide_thresholds());
        }
        if facts.is_empty() {
            return None;
        }
        Some(Decided { batch: batch(facts), expected, answers: vec![], recall: false })
    }

    /// Our message was stored at `seq`: the next decision waits for it.
    pub fn stored(&mut self, seq: u64) -> Vec<(usize, Vec<LeaseAnswer>)> {
        self.fold_first = seq;
        self.in_flight.take().map(|flight| flight.answers).unwrap_or_default()
    }
}
