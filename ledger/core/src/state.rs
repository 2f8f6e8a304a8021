//! The state of one shard: a function of its order on the log, and of nothing else.
//!
//! Memory: O(keys + open leases + nodes + counters of the running periods). Hourly totals are not held here:
//! only what no seal has reported yet is.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    Access, BillingMode, Hour, KeyId, KeyState, Lease, LeaseId, MeterName, NodeId, Period,
    PeriodRule, ProjectId, QuotaRule, Scope, Shard, TenantId, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    key::KeyRow,
    lease::OpenLease,
    map::Map,
    node::NodeState,
    period::LastPeriods,
    quota::{Quotas, Scopes, Use, UseKey},
    rate::RatesOut,
    threshold::QuotaName,
};

/// A tenant as the ledger needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    pub time_zone: String,
    pub billing: BillingMode,
    /// The period rules besides the month that its usage is counted by, each from a sequence on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<(PeriodRule, u64)>,
    /// What billing decided last, with its reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<(Access, String)>,
    /// The plan of the subscription that decided it, as `starter@1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// A project as the ledger needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRow {
    pub tenant: TenantId,
}

/// A quota, with the tenant that it belongs to.
pub type QuotaRow = QuotaRule;

impl Held {
    /// The kind and the id that name its row.
    #[must_use]
    pub fn name(&self) -> (&'static str, String) {
        match self {
            Self::Tenant(tenant) => ("tenant", tenant.to_string()),
            Self::Project(project) => ("project", project.to_string()),
            Self::Quota(scope, meter, rule) => ("quota", format!("{scope}/{meter}/{rule}")),
            Self::Told(scope, meter, rule) => ("told", format!("{scope}/{meter}/{rule}")),
            Self::Due(scope, meter, rule, period) => {
                ("due", format!("{scope}/{meter}/{rule}/{}", period.from.0))
            }
            Self::Quarantined(seq, record) => ("quarantined", format!("{seq}/{record}")),
            Self::Node(node) => ("node", node.to_string()),
            Self::Lease(lease) => ("lease", lease.to_string()),
            Self::Settled(lease) => ("settled", lease.to_string()),
            Self::Unsealed(hour, tenant, meter) => {
                ("unsealed", format!("{}/{tenant}/{meter}", hour.0))
            }
            Self::HourNodes(hour) => ("hour_nodes", hour.0.to_string()),
        }
    }
}

/// Names one part of the state that is stored as a row of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    Tenant(TenantId),
    Project(ProjectId),
    Quota(Scope, MeterName, PeriodRule),
    Told(Scope, MeterName, PeriodRule),
    Due(Scope, MeterName, PeriodRule, Period),
    Quarantined(u64, u64),
    Node(NodeId),
    Lease(LeaseId),
    Settled(LeaseId),
    Unsealed(Hour, TenantId, MeterName),
    HourNodes(Hour),
}

/// One stored part of the state; `body` in JSON, self-contained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    Tenant { tenant: TenantId, row: TenantRow },
    Project { project: ProjectId, row: ProjectRow },
    Quota { row: QuotaRow },
    Told { scope: Scope, meter: MeterName, rule: PeriodRule, period: Period, percent: u8 },
    Due { scope: Scope, meter: MeterName, rule: PeriodRule, period: Period },
    Quarantined { seq: u64, record: u64 },
    Node { node: NodeId, row: NodeState },
    Lease { row: OpenLease },
    Settled { lease: LeaseId, at: Timestamp },
    Unsealed { hour: Hour, tenant: TenantId, meter: MeterName, units: u64 },
    HourNodes { hour: Hour, nodes: BTreeSet<NodeId> },
}

/// A stored row that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("a stored row of the state cannot be read: {0}")]
pub struct RowError(#[from] serde_json::Error);

/// The open leases of a scope: how many, by node, how many of them each meter limits, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenCount {
    pub all: u32,
    pub limited: BTreeMap<MeterName, u32>,
    pub nodes: BTreeMap<NodeId, u32>,
    /// By the sequence of their grants; one of a batch that is not stored yet has none.
    pub granted: BTreeSet<(u64, LeaseId)>,
    pub rates: RatesOut,
}

impl OpenCount {
    pub(crate) fn add(&mut self, lease: &Lease, granted_seq: Option<u64>) {
        self.all += 1;
        self.granted.extend(granted_seq.map(|seq| (seq, lease.lease)));
        if let Some(rate) = lease.rate {
            self.rates.add(&lease.node, lease.lease, rate);
        }
        *self.nodes.entry(lease.node.clone()).or_default() += 1;
        for share in &lease.shares {
            *self.limited.entry(share.meter.clone()).or_default() += 1;
        }
    }

    /// Returns whether none is left.
    pub(crate) fn remove(&mut self, lease: &Lease, granted_seq: u64) -> bool {
        self.all = self.all.saturating_sub(1);
        self.granted.remove(&(granted_seq, lease.lease));
        self.rates.remove(&lease.node, lease.lease);
        if let Some(count) = self.nodes.get_mut(&lease.node) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.nodes.remove(&lease.node);
            }
        }
        for share in &lease.shares {
            if let Some(count) = self.limited.get_mut(&share.meter) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.limited.remove(&share.meter);
                }
            }
        }
        self.all == 0
    }

    /// How many nodes would hold leases if `node` got one more.
    pub(crate) fn holders_with(&self, node: &NodeId) -> u64 {
        self.nodes.len() as u64 + u64::from(!self.nodes.contains_key(node))
    }

    /// Whether a lease is open that was granted before `seq`.
    pub(crate) fn has_older_than(&self, seq: u64) -> bool {
        self.granted.first().is_some_and(|(oldest, _)| *oldest < seq)
    }

    /// Open leases that may spend this meter without a bound.
    pub(crate) fn unlimited(&self, meter: &MeterName) -> u32 {
        self.all.saturating_sub(self.limited.get(meter).copied().unwrap_or(0))
    }
}

/// One shard's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    pub shard: Shard,
    /// The last sequence of `LOG` folded.
    pub seq: u64,
    /// The last sequence of `LOG` on `ledger.<shard>` folded: what the next fact must expect.
    pub ledger_seq: u64,
    /// The last sequence of `CONTROL` taken in.
    pub control_seq: u64,
    /// The ledger's time of the last of its facts.
    pub at: Timestamp,
    /// Every hour up to here is closed.
    pub closed_through: Option<Hour>,
    /// The number of the last seal, and its time.
    pub seals: u64,
    pub sealed_at: Timestamp,
    pub(crate) tenants: Map<TenantId, TenantRow>,
    pub(crate) projects: Map<ProjectId, ProjectRow>,
    pub(crate) keys: Map<KeyId, KeyRow>,
    pub(crate) keys_of: Map<TenantId, BTreeSet<KeyId>>,
    pub(crate) quotas: Quotas,
    pub(crate) uses: Map<UseKey, Use>,
    pub(crate) nodes: BTreeMap<NodeId, NodeState>,
    pub(crate) leases: Map<LeaseId, OpenLease>,
    /// The leases that hours wait for, oldest first.
    pub(crate) by_age: BTreeSet<(Timestamp, LeaseId)>,
    pub(crate) open_leases: Map<Scope, OpenCount>,
    pub(crate) settled: Map<LeaseId, Timestamp>,
    pub(crate) unsealed: BTreeMap<Hour, BTreeMap<(TenantId, MeterName), u64>>,
    pub(crate) hour_nodes: BTreeMap<Hour, BTreeSet<NodeId>>,
    pub(crate) told: Map<QuotaName, (Period, u8)>,
    pub(crate) due: BTreeSet<(QuotaName, Period)>,
    pub(crate) quarantined: BTreeSet<(u64, u64)>,
    pub(crate) last_periods: LastPeriods,
}

impl ShardState {
    /// A shard that has folded nothing.
    #[must_use]
    pub fn new(shard: Shard) -> Self {
        Self {
            shard,
            seq: 0,
            ledger_seq: 0,
            control_seq: 0,
            at: Timestamp(0),
            closed_through: None,
            seals: 0,
            sealed_at: Timestamp(0),
            tenants: Map::default(),
            projects: Map::default(),
            keys: Map::default(),
            keys_of: Map::default(),
            quotas: Quotas::default(),
            uses: Map::default(),
            nodes: BTreeMap::new(),
            leases: Map::default(),
            by_age: BTreeSet::new(),
            open_leases: Map::default(),
            settled: Map::default(),
            unsealed: BTreeMap::new(),
            hour_nodes: BTreeMap::new(),
            told: Map::default(),
            due: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            last_periods: LastPeriods::default(),
        }
    }

    /// The stored form of a part of the state; `None` = it is gone.
    #[must_use]
    pub fn row(&self, held: &Held) -> Option<Row> {
        Some(match held {
            Held::Tenant(tenant) => {
                Row::Tenant { tenant: *tenant, row: self.tenants.get(tenant)?.clone() }
            }
            Held::Project(project) => {
                Row::Project { project: *project, row: *self.projects.get(project)? }
            }
            Held::Quota(scope, meter, rule) => {
                Row::Quota { row: self.quotas.get(*scope, meter, *rule)?.clone() }
            }
            Held::Told(scope, meter, rule) => {
                let (period, percent) = *self.told.get(&(*scope, meter.clone(), *rule))?;
                Row::Told { scope: *scope, meter: meter.clone(), rule: *rule, period, percent }
            }
            Held::Due(scope, meter, rule, period) => {
                let (name, period) = self.due.get(&((*scope, meter.clone(), *rule), *period))?;
                let ((scope, meter, rule), period) = (name.clone(), *period);
                Row::Due { scope, meter, rule, period }
            }
            Held::Quarantined(seq, record) => {
                let (seq, record) = *self.quarantined.get(&(*seq, *record))?;
                Row::Quarantined { seq, record }
            }
            Held::Node(node) => {
                Row::Node { node: node.clone(), row: self.nodes.get(node)?.clone() }
            }
            Held::Lease(lease) => Row::Lease { row: self.leases.get(lease)?.clone() },
            Held::Settled(lease) => Row::Settled { lease: *lease, at: *self.settled.get(lease)? },
            Held::Unsealed(hour, tenant, meter) => {
                let units = *self.unsealed.get(hour)?.get(&(*tenant, meter.clone()))?;
                Row::Unsealed { hour: *hour, tenant: *tenant, meter: meter.clone(), units }
            }
            Held::HourNodes(hour) => {
                Row::HourNodes { hour: *hour, nodes: self.hour_nodes.get(hour)?.clone() }
            }
        })
    }

    /// Puts a stored part back.
    pub fn restore(&mut self, row: Row) {
        match row {
            Row::Tenant { tenant, row } => {
                self.tenants.insert(tenant, row);
            }
            Row::Project { project, row } => {
                self.projects.insert(project, row);
            }
            Row::Quota { row } => self.quotas.set(row),
            Row::Told { scope, meter, rule, period, percent } => {
                self.told.insert((scope, meter, rule), (period, percent));
            }
            Row::Due { scope, meter, rule, period } => {
                self.due.insert(((scope, meter, rule), period));
            }
            Row::Quarantined { seq, record } => {
                self.quarantined.insert((seq, record));
            }
            Row::Node { node, row } => {
                self.nodes.insert(node, row);
            }
            Row::Lease { row } => self.put_lease(row),
            Row::Settled { lease, at } => {
                self.settled.insert(lease, at);
            }
            Row::Unsealed { hour, tenant, meter, units } => {
                self.unsealed.entry(hour).or_default().insert((tenant, meter), units);
            }
            Row::HourNodes { hour, nodes } => {
                self.hour_nodes.insert(hour, nodes);
            }
        }
    }

    /// Puts a stored key back.
    pub fn restore_key(&mut self, key: KeyId, row: KeyRow) {
        self.keys_of.entry(row.tenant).or_default().insert(key);
        self.keys.insert(key, row);
    }

    /// Puts a stored counter back.
    pub fn restore_use(&mut self, key: UseKey, value: Use) {
        self.uses.insert(key, value);
    }

    /// One key and what nodes are told of it.
    #[must_use]
    pub fn key(&self, key: KeyId) -> Option<(&KeyRow, KeyState)> {
        let row = self.keys.get(&key)?;
        let tenant = self.tenants.get(&row.tenant)?;
        let limited =
            self.quotas.limit_anything(Scopes { tenant: row.tenant, project: row.project, key });
        Some((row, row.view(key, self.shard, tenant, limited)))
    }

    /// What is known of a node's positions.
    #[must_use]
    pub fn node(&self, node: &NodeId) -> Option<&NodeState> {
        self.nodes.get(node)
    }

    /// All nodes and what is known of their positions.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeId, NodeState)> {
        self.nodes.iter().map(|(node, state)| (node.clone(), state.clone())).collect()
    }

    /// A counter; zero when nothing was counted.
    #[must_use]
    pub fn counter(&self, key: &UseKey) -> Use {
        self.uses.get(key).copied().unwrap_or_default()
    }

    /// All counters held in memory.
    pub fn counters(&self) -> impl Iterator<Item = (&UseKey, &Use)> {
        self.uses.iter()
    }

    /// Leases that are not settled.
    pub fn leases(&self) -> impl Iterator<Item = &OpenLease> {
        self.leases.values()
    }
}
