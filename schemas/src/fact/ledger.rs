//! Facts of `LOG` that the ledger writes: `ledger.<shard>`. With the nodes' facts they are one order a shard,
//! and every projection is a function of that order alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Decision, Hour, Lease, LeaseId, MeterName, NodeId, Period, Quantity, QuotaRule, Shard,
    TenantId, Timestamp,
};

/// One message of the ledger: what it decided at one time, atomically.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerBatch {
    pub v: u8,
    pub shard: Shard,
    /// The ledger's time; it never goes back within a shard.
    pub at: Timestamp,
    pub facts: Vec<LedgerFact>,
}

/// One fact of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LedgerFact {
    /// A decision of `CONTROL` (at that sequence) holds in this shard from here on.
    ControlTaken {
        control_seq: u64,
        decision: Decision,
    },
    /// A message of `CONTROL` cannot be read: nobody's decision holds, and the message is in quarantine.
    ControlUnreadable {
        control_seq: u64,
        reason: String,
        /// Its beginning, for a person; the whole is at its sequence for ever.
        excerpt: String,
    },
    LeaseGranted {
        lease: Lease,
    },
    /// A node never came back: its lease is written off after the configured time.
    LeaseForfeited {
        lease: LeaseId,
        tenant: TenantId,
        /// What it might have spent, unseen.
        at_stake: Vec<(MeterName, Quantity)>,
    },
    /// What the hour has counted since it was last sealed. `closed` = no lease can add to it any more.
    HourSealed {
        hour: Hour,
        closed: bool,
        /// At a closing: the nodes whose settled leases stood behind it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        behind: Vec<NodeId>,
        lines: Vec<SealLine>,
    },
    /// A quota has been used to this part of its limit. Said once for each quota, period and percentage.
    ThresholdCrossed {
        tenant: TenantId,
        quota: QuotaRule,
        period: Period,
        /// 80 or 100.
        percent: u8,
        consumed: Quantity,
    },
}

/// One tenant's and meter's part of a sealed hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SealLine {
    pub tenant: TenantId,
    pub meter: MeterName,
    /// The number of the seal, growing within a shard: with (tenant, meter, hour) it names this line for ever.
    pub revision: u64,
    /// What this seal adds. Range: at least 1.
    pub delta: Quantity,
}
