//! Gathers what the shard should decide next into one message of the ledger.

use std::collections::{BTreeSet, VecDeque};

use async_nats::Subject;
use ledger_core::{Demand, Granting, Policy, SealPolicy, ShardState};
use schemas::{
    KeyId, LeaseAnswer, LeaseRefusal, LedgerBatch, LedgerFact, Timestamp, fact::VERSION,
};

use super::{
    asks::Question,
    control::{Taken, Unreadable},
};

/// How many asks go into one message at most.
const MAX_ASKS: usize = 500;
/// How many bytes of decisions go into one message at most (a stream's message may be 1 MiB).
const MAX_CONTROL_BYTES: usize = 400 * 1024;

/// The rules that decisions go by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policies {
    pub leases: Policy,
    pub seals: SealPolicy,
    /// For how long after its end a lease waits for its node. Unit: milliseconds.
    pub forfeit_after_ms: i64,
}

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

/// Decides on what is folded; `look` = it is time to look for what time alone makes due. Control facts come first and
/// alone: what they change is decided on when folded.
pub(super) fn decide(
    state: &ShardState,
    pending: &mut Pending,
    now: Timestamp,
    policies: &Policies,
    demand: &mut Demand,
    look: bool,
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
        let (facts, answers, recalls) = grant(state, pending, demand, now, policies.leases);
        let batch = if facts.is_empty() { None } else { batch(facts) };
        return Some(Decided { batch, answers, recalls });
    }
    let facts = if look { due(state, now, policies) } else { Vec::new() };
    if facts.is_empty() {
        return None;
    }
    Some(Decided { batch: batch(facts), answers: Vec::new(), recalls: BTreeSet::new() })
}

/// What time or growth has made due: seals, leases to write off, quotas to tell of.
fn due(state: &ShardState, now: Timestamp, policies: &Policies) -> Vec<LedgerFact> {
    let mut facts = state.decide_seals(now, policies.seals);
    if facts.is_empty() {
        facts = state.decide_forfeits(now, policies.forfeit_after_ms);
    }
    facts.extend(state.decide_thresholds());
    facts
}

fn take_control(state: &ShardState, pending: &mut Pending) -> Vec<LedgerFact> {
    let (mut facts, mut bytes) = (Vec::new(), 0);
    while let Some(next) = pending.control.front() {
        bytes += next.size;
        if !facts.is_empty() && bytes > MAX_CONTROL_BYTES {
            break;
        }
        let Some(taken) = pending.control.pop_front() else { break };
        if taken.seq > state.control_seq {
            let control_seq = taken.seq;
            facts.push(match taken.decision {
                Ok(decision) => LedgerFact::ControlTaken { control_seq, decision },
                Err(Unreadable { reason, excerpt }) => {
                    LedgerFact::ControlUnreadable { control_seq, reason, excerpt }
                }
            });
        }
    }
    facts
}

type Grants = (Vec<LedgerFact>, Vec<(Subject, Vec<LeaseAnswer>)>, BTreeSet<KeyId>);

fn grant(
    state: &ShardState,
    pending: &mut Pending,
    demand: &mut Demand,
    now: Timestamp,
    policy: Policy,
) -> Grants {
    let mut granting = Granting::new(state, demand, now, policy);
    let (mut answers, mut recalls, mut asked) = (Vec::new(), BTreeSet::new(), 0);
    while asked < MAX_ASKS {
        let Some(Question { request, reply }) = pending.questions.pop_front() else { break };
        asked += request.asks.len();
        let said =
            request.asks.iter().map(|ask| match granting.ask(&request.node, request.epoch, ask) {
                Ok(lease) => LeaseAnswer::Granted(lease),
                Err(why) => {
                    if matches!(why, LeaseRefusal::UnitsHeld { .. } | LeaseRefusal::RateHeld { .. })
                    {
                        recalls.insert(ask.key);
                    }
                    LeaseAnswer::Refused { lease: ask.lease, why }
                }
            });
        answers.push((reply, said.collect()));
    }
    (granting.into_facts(), answers, recalls)
}
