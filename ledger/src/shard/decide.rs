//! Gathers what the shard should decide next into one message of the ledger.

use std::collections::{BTreeSet, VecDeque};

use async_nats::Subject;
use ledger_core::{Granting, Policy, SealPolicy, ShardState};
use schemas::{
    KeyId, LeaseAnswer, LeaseRefusal, LedgerBatch, LedgerFact, Timestamp, fact::VERSION,
};

use super::{asks::Question, control::Taken};

/// How many asks go into one message at most.
const MOST_ASKS: usize = 500;
/// How many bytes of decisions go into one message at most (a stream's message may be 1 MiB).
const MOST_CONTROL_BYTES: usize = 400 * 1024;

/// What waits for a decision.
#[derive(Default)]
pub(super) struct Pending {
    pub questions: VecDeque<Question>,
    pub control: VecDeque<Taken>,
}

/// One decision: what to write, and what to say once it is written.
pub(super) struct Decided {
    pub batch: Option<LedgerBatch>,
    pub answers: Vec<(Subject, Vec<LeaseAnswer>)>,
    /// Keys of which units are wanted that others hold.
    pub recalls: BTreeSet<KeyId>,
}

/// Decides on what is folded; `seals` when it is time to look for them. Control facts come first and alone: what they change is decided on when folded.
pub(super) fn decide(
    state: &ShardState,
    pending: &mut Pending,
    now: Timestamp,
    leases: Policy,
    seals: Option<SealPolicy>,
) -> Option<Decided> {
    let batch =
        |facts| Some(LedgerBatch { v: VERSION, shard: state.shard, at: now.max(state.at), facts });
    let control = take_control(state, pending);
    if !control.is_empty() {
        return Some(Decided {
            batch: batch(control),
            answers: Vec::new(),
            recalls: BTreeSet::new(),
        });
    }
    if !pending.questions.is_empty() {
        let (facts, answers, recalls) = grant(state, pending, now, leases);
        let batch = if facts.is_empty() { None } else { batch(facts) };
        return Some(Decided { batch, answers, recalls });
    }
    let facts = seals.map(|policy| state.decide_seals(now, policy)).unwrap_or_default();
    if facts.is_empty() {
        return None;
    }
    Some(Decided { batch: batch(facts), answers: Vec::new(), recalls: BTreeSet::new() })
}

fn take_control(state: &ShardState, pending: &mut Pending) -> Vec<LedgerFact> {
    let (mut facts, mut bytes) = (Vec::new(), 0);
    while let Some(next) = pending.control.front() {
        bytes += next.size;
        if !facts.is_empty() && bytes > MOST_CONTROL_BYTES {
            break;
        }
        let Some(taken) = pending.control.pop_front() else { break };
        if taken.seq > state.control_seq {
            facts.push(LedgerFact::ControlTaken {
                control_seq: taken.seq,
                decision: taken.decision,
            });
        }
    }
    facts
}

type Grants = (Vec<LedgerFact>, Vec<(Subject, Vec<LeaseAnswer>)>, BTreeSet<KeyId>);

fn grant(state: &ShardState, pending: &mut Pending, now: Timestamp, policy: Policy) -> Grants {
    let mut granting = Granting::new(state, now, policy);
    let (mut answers, mut recalls, mut asked) = (Vec::new(), BTreeSet::new(), 0);
    while asked < MOST_ASKS {
        let Some(Question { request, reply }) = pending.questions.pop_front() else { break };
        asked += request.asks.len();
        let said =
            request.asks.iter().map(|ask| match granting.ask(&request.node, request.epoch, ask) {
                Ok(lease) => LeaseAnswer::Granted(lease),
                Err(why) => {
                    if matches!(why, LeaseRefusal::UnitsHeld { .. }) {
                        recalls.insert(ask.key);
                    }
                    LeaseAnswer::Refused { lease: ask.lease, why }
                }
            });
        answers.push((reply, said.collect()));
    }
    (granting.into_facts(), answers, recalls)
}
