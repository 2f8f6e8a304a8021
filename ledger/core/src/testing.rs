//! A small world for tests: one tenant, a log that numbers messages, and nodes that number records.

use std::collections::BTreeMap;

use schemas::{
    Access, BillingMode, ControlFact, Decision, DecisionId, Epoch, KeyDigest, KeyId, Lease,
    LeaseAsk, LeaseId, LeaseRefusal, LedgerBatch, LedgerFact, MeterName, NodeId, Outcome,
    PeriodRule, ProjectId, Quantity, QuotaKind, QuotaRule, Record, Scope, Shard, TenantId,
    Timestamp, UsageBatch, UsageEvent,
};
use uuid::Uuid;

use crate::{Changes, Demand, Entry, Granting, Policy, SealPolicy, ShardState, Use, UseKey};

pub const SHARD: Shard = Shard(3);
pub const TENANT: TenantId = TenantId(Uuid::from_u128(1));
pub const PROJECT: ProjectId = ProjectId(Uuid::from_u128(2));
pub const KEY: KeyId = KeyId(Uuid::from_u128(3));
/// 2026-11-20T12:00:00Z, some days before its month ends.
pub const NOON: Timestamp = Timestamp(1_795_176_000_000);
pub const POLICY: Policy = Policy { ttl_ms: 60_000, held_retry_ms: 250 };
pub const SEALS: SealPolicy = SealPolicy { interval_ms: 300_000, lateness_ms: 5_000 };

pub fn lease_id(n: u128) -> LeaseId {
    LeaseId(Uuid::from_u128(1000 + n))
}

pub fn node(n: u8) -> NodeId {
    format!("n{n}").parse().unwrap()
}

pub fn quota(scope: Scope, limit: u64) -> ControlFact {
    let quota = QuotaRule {
        scope,
        meter: MeterName::tool_calls(),
        limit: Quantity(limit),
        kind: QuotaKind::Hard,
        period: PeriodRule::Month,
    };
    ControlFact::QuotaSet { quota }
}

pub struct World {
    pub state: ShardState,
    pub demand: Demand,
    pub changes: Changes,
    pub now: Timestamp,
    pub log: Vec<(u64, Entry)>,
    stored: Stored,
    next: u64,
    positions: BTreeMap<(NodeId, Epoch), u64>,
    control: u64,
}

impl World {
    /// A tenant with one project and one key, billed by nobody.
    pub fn new() -> Self {
        let mut world = Self {
            state: ShardState::new(SHARD),
            demand: Demand::default(),
            changes: Changes::default(),
            now: NOON,
            log: Vec::new(),
            stored: Stored::default(),
            next: 10,
            positions: BTreeMap::new(),
            control: 0,
        };
        world.control(vec![
            ControlFact::TenantCreated {
                tenant: TENANT,
                name: "t".into(),
                time_zone: "UTC".into(),
                billing: BillingMode::None,
            },
            ControlFact::ProjectCreated { tenant: TENANT, project: PROJECT, name: "p".into() },
            Self::key_fact(KEY),
        ]);
        world
    }

    pub fn key_fact(key: KeyId) -> ControlFact {
        ControlFact::KeyCreated {
            tenant: TENANT,
            project: PROJECT,
            key,
            name: "k".into(),
            digest: KeyDigest::of(&key.to_string()),
            hint: String::new(),
            scopes: vec![],
            tools: None,
            expires_at: None,
        }
    }

    pub fn put(&mut self, entry: Entry) -> u64 {
        self.next += 2; // Other shards' messages lie between.
        let mut changes = Changes::default();
        self.state.apply(self.next, &entry, &mut changes);
        self.stored.write(&self.state, &changes);
        self.gather(changes);
        self.log.push((self.next, entry));
        self.next
    }

    fn gather(&mut self, new: Changes) {
        let all = &mut self.changes;
        for (cell, units) in new.hours {
            *all.hours.entry(cell).or_default() += units;
        }
        all.closed_hours.extend(new.closed_hours);
        all.quarantined.extend(new.quarantined);
        all.anomalies.extend(new.anomalies);
    }

    /// The state as a process that begins now would load it.
    pub fn reloaded(&self) -> ShardState {
        self.stored.load(&self.state)
    }

    pub fn ledger(&mut self, facts: Vec<LedgerFact>) -> u64 {
        self.put(Entry::Ledger(LedgerBatch { v: 1, shard: SHARD, at: self.now, facts }))
    }

    pub fn control(&mut self, facts: Vec<ControlFact>) -> u64 {
        self.control += 1;
        let decision = Decision {
            v: 1,
            decision: DecisionId(Uuid::from_u128(u128::from(self.control))),
            at: self.now,
            by: "test".into(),
            tenant: TENANT,
            shard: None,
            facts,
        };
        self.ledger(vec![LedgerFact::ControlTaken { control_seq: self.control, decision }])
    }

    pub fn access(&mut self, access: Access) {
        let reason = "test".to_owned();
        self.control(vec![ControlFact::AccessChanged {
            tenant: TENANT,
            access,
            reason,
            subscription: None,
            plan: None,
        }]);
    }

    pub fn ask(
        &mut self,
        from: &NodeId,
        epoch: u64,
        id: u128,
        want: u64,
    ) -> Result<Lease, LeaseRefusal> {
        self.ask_for(KEY, from, epoch, id, want)
    }

    /// Asks, and puts the grant on the log.
    pub fn ask_for(
        &mut self,
        key: KeyId,
        from: &NodeId,
        epoch: u64,
        id: u128,
        want: u64,
    ) -> Result<Lease, LeaseRefusal> {
        let reserve = BTreeMap::new();
        let ask = LeaseAsk { lease: lease_id(id), key, want: Quantity(want), reserve };
        self.ask_as(from, epoch, &ask)
    }

    pub fn ask_as(
        &mut self,
        from: &NodeId,
        epoch: u64,
        ask: &LeaseAsk,
    ) -> Result<Lease, LeaseRefusal> {
        let mut granting = Granting::new(&self.state, &mut self.demand, self.now, POLICY);
        let answer = granting.ask(from, Epoch(epoch), ask);
        let facts = granting.into_facts();
        if !facts.is_empty() {
            self.ledger(facts);
        }
        answer
    }

    pub fn event(lease: Option<&Lease>, at: Timestamp, units: u64) -> UsageEvent {
        UsageEvent {
            at,
            tenant: TENANT,
            project: PROJECT,
            key: lease.map_or(KEY, |lease| lease.key),
            lease: lease.map(|lease| lease.lease),
            method: "tools/call".into(),
            tool: "echo".into(),
            outcome: Outcome::Success,
            quantities: [(MeterName::tool_calls(), Quantity(units))].into(),
            duration_us: 1,
            bytes_in: 1,
            bytes_out: 1,
            server: None,
            trace: None,
        }
    }

    /// Publishes records of a node at its next positions.
    pub fn records(&mut self, from: &NodeId, epoch: u64, records: Vec<Record>) -> u64 {
        let position = self.positions.entry((from.clone(), Epoch(epoch))).or_insert(1);
        let first_seq = *position;
        *position += records.len() as u64;
        self.batch(from, epoch, first_seq, records)
    }

    pub fn batch(
        &mut self,
        from: &NodeId,
        epoch: u64,
        first_seq: u64,
        records: Vec<Record>,
    ) -> u64 {
        let node = from.clone();
        let epoch = Epoch(epoch);
        let batch = UsageBatch { v: 1, node, epoch, shard: SHARD, first_seq, records };
        self.put(Entry::Usage { stored_at: self.now, batch })
    }

    pub fn call(&mut self, lease: &Lease, units: u64) {
        let event = Self::event(Some(lease), self.now, units);
        self.records(&lease.node.clone(), lease.epoch.0, vec![Record::Usage(event)]);
    }

    pub fn closed(lease: &Lease, spent: u64) -> Record {
        let spent = if lease.shares.is_empty() {
            BTreeMap::new()
        } else {
            [(MeterName::tool_calls(), Quantity(spent))].into()
        };
        Record::LeaseClosed { lease: lease.lease, tenant: TENANT, spent }
    }

    pub fn close(&mut self, lease: &Lease, spent: u64) {
        self.records(&lease.node.clone(), lease.epoch.0, vec![Self::closed(lease, spent)]);
    }

    /// The key's counter of this month.
    pub fn used(&self) -> Use {
        self.used_at(Scope::Key(KEY))
    }

    pub fn used_at(&self, scope: Scope) -> Use {
        let period = PeriodRule::Month.period_at(self.now, "UTC").unwrap();
        let (meter, rule) = (MeterName::tool_calls(), PeriodRule::Month);
        self.state.counter(&UseKey { scope, meter, rule, period })
    }

    pub fn seal(&mut self) -> Vec<LedgerFact> {
        let facts = self.state.decide_seals(self.now, SEALS);
        if !facts.is_empty() {
            self.ledger(facts.clone());
        }
        facts
    }

    pub fn anomalies(&self) -> Vec<&'static str> {
        self.changes.anomalies.iter().map(|anomaly| anomaly.kind).collect()
    }
}

/// A database in small: what each message changed is written, nothing else.
#[derive(Default)]
struct Stored {
    rows: BTreeMap<(&'static str, String), String>,
    keys: BTreeMap<KeyId, String>,
    uses: BTreeMap<UseKey, (i64, i64)>,
}

impl Stored {
    fn write(&mut self, state: &ShardState, changes: &Changes) {
        for held in &changes.held {
            match state.row(held) {
                Some(row) => self.rows.insert(held.name(), serde_json::to_string(&row).unwrap()),
                None => self.rows.remove(&held.name()),
            };
        }
        for key in &changes.keys {
            self.keys.insert(*key, serde_json::to_string(state.key(*key).unwrap().0).unwrap());
        }
        for (key, (consumed, outstanding)) in &changes.uses {
            let sum = self.uses.entry(key.clone()).or_default();
            *sum = (sum.0 + consumed, sum.1 + outstanding);
        }
    }

    fn load(&self, like: &ShardState) -> ShardState {
        let mut state = ShardState::new(SHARD);
        (state.seq, state.ledger_seq, state.control_seq) =
            (like.seq, like.ledger_seq, like.control_seq);
        (state.at, state.closed_through) = (like.at, like.closed_through);
        (state.seals, state.sealed_at) = (like.seals, like.sealed_at);
        for row in self.rows.values() {
            state.restore(serde_json::from_str(row).unwrap());
        }
        for (key, row) in &self.keys {
            state.restore_key(*key, serde_json::from_str(row).unwrap());
        }
        for (key, (consumed, outstanding)) in &self.uses {
            let (consumed, outstanding) =
                (u64::try_from(*consumed).unwrap(), u64::try_from(*outstanding).unwrap());
            state.restore_use(key.clone(), Use { consumed, outstanding });
        }
        state
    }
}
