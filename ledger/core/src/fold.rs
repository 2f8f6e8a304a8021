//! Folds one message of the log into the state.

use schemas::{LedgerBatch, LedgerFact, Timestamp, UsageBatch};

use crate::{
    change::{Changes, Quarantined},
    state::ShardState,
};

/// One message of a shard, as read.
#[derive(Clone, Debug)]
pub enum Entry {
    /// From `usage.<shard>.<node>`, and when the log stored it.
    Usage { stored_at: Timestamp, batch: UsageBatch },
    /// From `ledger.<shard>`.
    Ledger(LedgerBatch),
    /// It cannot be read.
    Unreadable { reason: String, payload: String },
}

impl ShardState {
    /// Folds the message at `seq`. Messages come in the log's order; one that was folded before changes nothing.
    pub fn apply(&mut self, seq: u64, entry: &Entry, out: &mut Changes) {
        if seq <= self.seq {
            return;
        }
        self.seq = seq;
        match entry {
            Entry::Usage { stored_at, batch } => self.apply_usage(seq, *stored_at, batch, out),
            Entry::Ledger(batch) => self.apply_ledger(seq, batch, out),
            Entry::Unreadable { reason, payload } => {
                let (reason, payload) = (reason.clone(), payload.clone());
                self.put_in_quarantine(Quarantined { seq, record: 0, reason, payload }, out);
            }
        }
    }

    fn apply_ledger(&mut self, seq: u64, batch: &LedgerBatch, out: &mut Changes) {
        self.ledger_seq = seq;
        self.advance(batch.at, out);
        for fact in &batch.facts {
            match fact {
                LedgerFact::ControlTaken { control_seq, decision } => {
                    self.control_seq = self.control_seq.max(*control_seq);
                    for fact in &decision.facts {
                        self.apply_control(seq, fact, out);
                    }
                }
                LedgerFact::ControlUnreadable { control_seq, reason, excerpt } => {
                    self.control_seq = self.control_seq.max(*control_seq);
                    let reason = format!("CONTROL {control_seq}: {reason}");
                    let payload = excerpt.clone();
                    // One message holds many facts: a control message's own sequence names its place.
                    let found = Quarantined { seq, record: *control_seq, reason, payload };
                    self.put_in_quarantine(found, out);
                }
                LedgerFact::LeaseGranted { lease } => self.lease_granted(seq, lease, out),
                LedgerFact::LeaseForfeited { lease, .. } => self.forfeited(seq, *lease, out),
                LedgerFact::HourSealed { hour, closed, behind, lines } => {
                    self.apply_seal(seq, *hour, *closed, behind, lines, out);
                }
                LedgerFact::ThresholdCrossed { quota, period, percent, .. } => {
                    self.threshold_crossed(quota, *period, *percent, out);
                }
            }
        }
    }

    /// Moves the ledger's time, which never goes back.
    fn advance(&mut self, at: Timestamp, out: &mut Changes) {
        let before = self.at;
        self.at = before.max(at);
        self.forget_settled(before, self.at, out);
    }
}
