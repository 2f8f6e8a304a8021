//! What a fold touched: the shell writes it in one transaction with the checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{Hour, KeyId, MeterName, NodeId, Period, ProjectId, QuotaRule, TenantId};
use serde::Serialize;

use crate::{
    map::{Map, Set},
    quota::UseKey,
    state::Held,
};

/// One cell of the hourly totals.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HourKey {
    pub hour: Hour,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub meter: MeterName,
}

/// A message, or one record of it, that was not counted because it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Where it stands on `LOG`.
    pub seq: u64,
    /// Which position of the message; 0 = the whole message.
    pub record: u64,
    pub reason: String,
    /// The message or record itself.
    pub payload: String,
}

/// Something in quarantine of which a person decided what becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Where it stands: a sequence of `LOG`, and the position; 0 = the whole message.
    pub place: (u64, u64),
    /// `discarded`, `counted` or `replayed`.
    pub how: &'static str,
    /// The sequence of the decision on `LOG`.
    pub seq: u64,
}

/// Something that the protocol says cannot happen. It was counted as the log has it; a person should look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Anomaly {
    pub seq: u64,
    /// A stable word for metrics: `overspent_lease`, `unknown_lease`, ...
    pub kind: &'static str,
    pub detail: String,
}

/// The difference that some messages made. Sums add; the rest names what to read from the state again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Added to the hourly totals.
    pub hours: Map<HourKey, u64>,
    /// Added to (consumed, outstanding) of the counters of scopes; either may be negative.
    pub uses: Map<UseKey, (i64, i64)>,
    pub keys: BTreeSet<KeyId>,
    /// Parts of the state that changed or went.
    pub held: Set<Held>,
    /// Nodes whose watermark moved.
    pub nodes: BTreeSet<NodeId>,
    /// Hours that were closed: by the fact at which sequence, and the nodes that stood behind it.
    pub closed_hours: BTreeMap<Hour, (u64, Vec<NodeId>)>,
    pub quarantined: Vec<Quarantined>,
    pub resolved: Vec<Resolved>,
    /// Quotas that were told to be used to so many percent of their limit, in this period: by the fact at which
    /// sequence.
    pub crossings: Vec<(u64, QuotaRule, Period, u8)>,
    pub anomalies: Vec<Anomaly>,
}

impl Changes {
    pub(crate) fn anomaly(&mut self, seq: u64, kind: &'static str, detail: impl Into<String>) {
        self.anomalies.push(Anomaly { seq, kind, detail: detail.into() });
    }
}
