//! Facts of `LOG` that nodes write: what was called, in position order. Subject `usage.<shard>.<node>`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Epoch, KeyId, LeaseId, MeterName, NodeId, ProjectId, Quantity, Shard, TenantId, Timestamp,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
}
