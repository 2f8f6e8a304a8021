//! Leases: leave to spend up to N units until T, and how a node asks the ledger for one.
//!
//! The protocol and the argument why it never overshoots stand in `ledger/README.md`. In short: the node
//! mints the lease's id and asks until it is answered, so a lost answer costs nothing; the ledger grants by
//! a fact on the log before it answers; the node spends until `ttl_ms` after it *first sent* the question, by
//! its own monotonic clock; the lease is settled by the node's `lease_closed` record, or by the end of its epoch.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Epoch, KeyId, LeaseId, MeterName, NodeId, Period, ProjectId, Quantity, QuotaKind, Scope,
    TenantId, Timestamp,
};

/// The longest time that a lease lasts, whatever the ledger is set to: nobody spends it later than this after its
/// grant. Unit: milliseconds.
pub const MAX_LEASE_TTL_MS: u32 = 600_000;

/// A granted lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lease {
    pub lease: LeaseId,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub node: NodeId,
    pub epoch: Epoch,
    /// The ledger's time of the grant: no event under this lease is earlier.
    pub granted_at: Timestamp,
    /// The ledger's time of its end: no event under this lease is at or after it. Never past the end of a
    /// period of any quota that limits the key.
    pub expires_at: Timestamp,
    /// What may be spent, one entry a limited meter; a meter that is not named is not limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// This node's share of the key's rate; absent = the key has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateLimits>,
    /// The quotas, hard and soft, that are used to 80 % or more: to be told, not to decide by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}

/// How fast calls may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RateLimits {
    /// Calls a minute in the long run. Range: from 1.
    pub per_minute: u32,
    /// Calls at once after a pause. Range: from 1.
    pub burst: u32,
    /// Calls that run at the same time; absent = any number. Range: from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
}

/// A quota that nears its limit, as of the grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    pub scope: Scope,
    pub meter: MeterName,
    pub kind: QuotaKind,
    pub limit: Quantity,
    pub consumed: Quantity,
    pub period: Period,
    /// How much of the limit is consumed, rounded down. Unit: percent. Range: from 80; over 100 only if soft.
    pub percent: u64,
}

impl Lease {
    /// How long the node may spend it, from the moment it first sent the question. Unit: milliseconds.
    #[must_use]
    pub fn ttl_ms(&self) -> i64 {
        self.expires_at.ms_since(self.granted_at)
    }

    /// The share of a meter; `None` = this lease does not limit it.
    #[must_use]
    pub fn share(&self, meter: &MeterName) -> Option<Quantity> {
        self.shares.iter().find(|share| share.meter == *meter).map(|share| share.units)
    }
}

/// How much of one meter a lease allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    pub meter: MeterName,
    pub units: Quantity,
    /// What the tightest quota of this meter would still allow after this grant: for hints, not for decisions.
    pub left: Quantity,
    /// What leases of other keys and nodes hold of that quota and have not spent, as far as it is counted: for hints,
    /// not for decisions. Absent = the ledger is of a version that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Quantity>,
    /// The limit of that quota.
    pub limit: Quantity,
    /// The period of that quota.
    pub period: Period,
}

/// One question to the ledger of one shard: request on `lease.ask.<shard>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseRequest {
    pub node: NodeId,
    pub epoch: Epoch,
    pub asks: Vec<LeaseAsk>,
}

/// A wish for one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseAsk {
    /// Minted by the node; asking again with the same id is the same question.
    pub lease: LeaseId,
    pub key: KeyId,
    /// The units of `tool_calls` that the node expects to spend. Range: at least 1.
    pub want: Quantity,
    /// What calls of this key need of meters besides one unit of `tool_calls`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserve: BTreeMap<MeterName, Reserve>,
}

/// What calls reserve of a meter whose quantity is known only afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reserve {
    /// The most that one call may count for: a lease with less would serve nothing. Range: from 1.
    pub per_call: Quantity,
    /// What the node expects to spend under the lease.
    pub want: Quantity,
}

/// The answers, in the order of the asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseReply {
    pub answers: Vec<LeaseAnswer>,
}

/// The answer to one ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseAnswer {
    Granted(Lease),
    Refused { lease: LeaseId, why: LeaseRefusal },
}

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum LeaseRefusal {
    /// The units are spent until the period ends.
    QuotaExhausted { meter: MeterName, scope: Scope, limit: Quantity, period: Period },
    /// What is left is held by other leases: ask again after this time. Unit: milliseconds.
    UnitsHeld { meter: MeterName, scope: Scope, limit: Quantity, period: Period, retry_ms: u32 },
    /// Other nodes hold all of the key's rate: ask again after this time. Unit: milliseconds.
    RateHeld { retry_ms: u32 },
    /// The key is unknown, not active or expired; the `keys` bucket says more.
    KeyNotActive,
    /// This epoch of the node has ended; a process that still asks must stop.
    EpochEnded,
    /// The same lease was closed already.
    LeaseClosed,
}

/// Sent to all nodes on `lease.recall.<shard>`: give back what you hold of this key and can spare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseRecall {
    pub key: KeyId,
}

/// What the ledger has folded of one node in one shard: the entry `<node>.<shard>` of the bucket `watermarks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Watermark {
    /// Epoch → the highest position below which nothing is missing. Ended epochs are left out.
    pub epochs: BTreeMap<Epoch, u64>,
    /// Every epoch up to here has ended and is folded whole.
    pub ended: Option<Epoch>,
    /// The sequence on `LOG` that this is true of.
    pub as_of: u64,
}
