//! The ledger's part: usage goes onto the log, through the ledger's own fold, and comes out as sealed hours.
//!
//! The fold, the seals and the messages are the ledger's. Only its clock is the play's, and its decisions are asked
//! for when the play says so.

use ledger_core::{Changes, Entry, SealPolicy, ShardState};
use runtime::nats::Nats;
use schemas::{
    Decision, Epoch, LedgerBatch, LedgerFact, MeterName, Outcome, Quantity, Record, Shard,
    TenantId, Timestamp, UsageBatch, UsageEvent, fact::VERSION, subject,
};

use crate::rig::Broke;

const SHARD: Shard = Shard(0);
const SEALS: SealPolicy = SealPolicy { interval_ms: 0, lateness_ms: 60_000 };
/// Records of one message.
const BATCH: usize = 500;

/// Some calls of a tenant within an hour.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    pub tenant: TenantId,
    pub at: Timestamp,
    pub units: u64,
}

/// A ledger of one shard.
pub struct Ledger {
    nats: Nats,
    state: ShardState,
    position: u64,
    /// The last message of CONTROL that was taken in.
    control_seq: u64,
    /// The last message of ours on the log.
    pub published: u64,
}

impl Ledger {
    pub fn new(nats: &Nats) -> Self {
        let state = ShardState::new(SHARD);
        Self { nats: nats.clone(), state, position: 0, control_seq: 0, published: 0 }
    }

    /// Takes in what was decided since; gives the decisions.
    pub async fn take_control(&mut self, now: Timestamp) -> Result<Vec<Decision>, Broke> {
        let mut stream = self.nats.jetstream.get_stream(subject::CONTROL).await?;
        let last = stream.info().await?.state.last_sequence;
        let mut decisions = Vec::new();
        for control_seq in self.control_seq + 1..=last {
            let message = stream.get_raw_message(control_seq).await?;
            let decision: Decision = serde_json::from_slice(&message.payload)?;
            decisions.push(decision.clone());
            self.write(now, vec![LedgerFact::ControlTaken { control_seq, decision }]).await?;
        }
        self.control_seq = last;
        Ok(decisions)
    }

    /// Puts calls onto the log, folds them and seals what was counted.
    pub async fn count(&mut self, calls: &[Calls], now: Timestamp) -> Result<(), Broke> {
        for some in calls.chunks(BATCH) {
            let records: Vec<Record> = some.iter().map(|one| Record::Usage(event(one))).collect();
            let first_seq = self.position + 1;
            self.position += u64::try_from(records.len())?;
            let node = "year".parse()?;
            let batch =
                UsageBatch { v: VERSION, node, epoch: Epoch(1), shard: SHARD, first_seq, records };
            let subject = subject::usage(SHARD, &batch.node);
            let seq = self.publish(subject, serde_json::to_vec(&batch)?).await?;
            self.fold(seq, &Entry::Usage { stored_at: now, batch })?;
        }
        let seals = self.state.decide_seals(now, SEALS);
        for some in seals.chunks(50) {
            self.write(now, some.to_vec()).await?;
        }
        Ok(())
    }

    async fn write(&mut self, now: Timestamp, facts: Vec<LedgerFact>) -> Result<(), Broke> {
        let batch = LedgerBatch { v: VERSION, shard: SHARD, at: now.max(self.state.at), facts };
        self.published = self.publish(subject::ledger(SHARD), serde_json::to_vec(&batch)?).await?;
        self.fold(self.published, &Entry::Ledger(batch))
    }

    async fn publish(&self, subject: String, payload: Vec<u8>) -> Result<u64, Broke> {
        Ok(self.nats.jetstream.publish(subject, payload.into()).await?.await?.sequence)
    }

    fn fold(&mut self, seq: u64, entry: &Entry) -> Result<(), Broke> {
        let mut changes = Changes::default();
        self.state.apply(seq, entry, &mut changes);
        if let Some(apart) = changes.quarantined.first() {
            return Err(format!("the ledger set usage aside: {apart:?}").into());
        }
        Ok(())
    }
}

fn event(calls: &Calls) -> UsageEvent {
    let nil = uuid::Uuid::nil();
    UsageEvent {
        at: calls.at,
        tenant: calls.tenant,
        project: schemas::ProjectId(nil),
        key: schemas::KeyId(nil),
        lease: None,
        method: "tools/call".to_owned(),
        tool: "search".to_owned(),
        outcome: Outcome::Success,
        quantities: [(MeterName::tool_calls(), Quantity(calls.units))].into(),
        duration_us: 1_000,
        bytes_in: 100,
        bytes_out: 100,
        server: None,
        trace: None,
    }
}
