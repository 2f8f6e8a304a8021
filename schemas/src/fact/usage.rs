//! Facts of `LOG` that nodes write: what was called, in position order. Subject `usage.<shard>.<node>`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Epoch, KeyId, LeaseId, MeterName, NodeId, ProjectId, Quantity, Shard, TenantId, Timestamp,
    Trace,
};

/// One message of a node: records `first_seq`, `first_seq + 1`, ... of its epoch in this shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageBatch {
    pub v: u8,
    pub node: NodeId,
    pub epoch: Epoch,
    pub shard: Shard,
    /// The position of the first record. Range: from 1.
    pub first_seq: u64,
    pub records: Vec<Record>,
}

/// One record at one position.
///
/// Its `type` is written first, and a reader that finds it first reads the rest in place (see `record`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// A call was answered.
    Usage(UsageEvent),
    /// Calls were refused: of one key, tool and reason, since the last such record.
    Refused {
        at: Timestamp,
        tenant: TenantId,
        project: ProjectId,
        key: KeyId,
        tool: String,
        reason: RefusalReason,
        calls: Quantity,
    },
    /// The node has done with a lease; every event under it stands before this record.
    LeaseClosed {
        lease: LeaseId,
        tenant: TenantId,
        /// What the node spent of each limited meter. The ledger counted the same, or says that it did not.
        spent: BTreeMap<MeterName, Quantity>,
    },
    /// The last record of an epoch: all leases of this epoch in this shard are done with.
    EpochEnded,
}

/// One answered call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageEvent {
    /// When the call was admitted, within the lease's `[granted_at, expires_at)`.
    pub at: Timestamp,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    /// The lease that it was served under; absent for usage that no lease covers (CloudEvents from outside).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// The MCP method, `tools/call` where a tool was called.
    pub method: String,
    /// The tool's name as the client called it.
    pub tool: String,
    pub outcome: Outcome,
    /// What it counts for, by meter. Empty = free.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quantities: BTreeMap<MeterName, Quantity>,
    /// From admission to the last byte from upstream. Unit: microseconds.
    pub duration_us: u64,
    /// Size of the request's body. Unit: bytes.
    pub bytes_in: u64,
    /// Size of the answer's body. Unit: bytes.
    pub bytes_out: u64,
    /// Which of its servers the node asked, by the name that it has in the node's settings; absent = its only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The trace that the call belongs to: the node's own span, or the caller's where the node has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// The most units of one meter that one event may count for; with it no sum of a counter can leave its range before
/// nine million such events were counted in one period.
pub const MAX_UNITS: u64 = 1_000_000_000_000;
/// How far ahead of its storing an event may lie: what clocks drift. Unit: milliseconds. Source: Stripe takes meter
/// events up to 5 minutes ahead.
pub const MAX_AHEAD_MS: i64 = 5 * 60_000;
/// How old an event may be when it is stored. Unit: milliseconds. Source: Stripe takes meter events up to 35 days old.
pub const MAX_BEHIND_MS: i64 = 35 * 24 * 3_600_000;

/// Why an event cannot be counted as it stands. Every reader of the log decides this alike: it is a function of the
/// message and of when the log stored it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    #[error("a quantity above 10^12")]
    TooMuch,
    #[error("more than 5 minutes ahead of when it was stored")]
    Ahead,
    #[error("more than 35 days older than when it was stored")]
    TooOld,
}

impl UsageEvent {
    /// Whether it can be counted, stored as it was at `stored_at`.
    ///
    /// # Errors
    /// Why it is kept apart instead.
    pub fn sound(&self, stored_at: Timestamp) -> Result<(), Unsound> {
        let late_ms = stored_at.ms_since(self.at);
        if self.quantities.values().any(|units| units.0 > MAX_UNITS) {
            Err(Unsound::TooMuch)
        } else if late_ms < -MAX_AHEAD_MS {
            Err(Unsound::Ahead)
        } else if late_ms > MAX_BEHIND_MS {
            Err(Unsound::TooOld)
        } else {
            Ok(())
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The tool's result was delivered.
    Success,
    /// The tool answered `isError`.
    ToolError,
    /// The upstream answered with a JSON-RPC error.
    ProtocolError,
    /// The upstream asked for input; the continuation is the same call.
    InputRequired,
    /// The upstream made a task; its result will count.
    TaskCreated,
    /// The upstream failed, or answered what is not JSON-RPC.
    UpstreamError,
    /// The upstream did not answer in time.
    Timeout,
    /// The client gave up.
    Cancelled,
}

/// Why a call of a known key was refused.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// A hard quota is spent.
    QuotaExhausted,
    /// What is left of a hard quota is held elsewhere.
    UnitsHeld,
    /// No lease could be had: the ledger cannot be reached.
    LedgerUnreachable,
    /// The node cannot record.
    CannotRecord,
    RateLimited,
    ToolNotAllowed,
    /// The key is pending, suspended or expired.
    KeyNotActive,
    /// The server failed too often and was not asked.
    UpstreamUnavailable,
}
