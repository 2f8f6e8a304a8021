//! What a node must know of a key: the entry of the `keys` bucket, found by the digest of the secret.
//!
//! The ledger writes it, with `as_of` growing; a reader keeps the entry with the highest `as_of`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{KeyDigest, KeyId, ProjectId, RateLimits, Shard, TenantId, Timestamp};

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// Its tenant has not subscribed yet. A node answers 402.
    Pending,
    /// Serves.
    Active,
    /// Its tenant's access is suspended (unpaid, paused, canceled). A node answers 402.
    Suspended,
    /// Never again. A node answers 401, as for a key that does not exist.
    Revoked,
}

/// One key as every node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyState {
    pub key: KeyId,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub shard: Shard,
    pub digest: KeyDigest,
    pub status: KeyStatus,
    /// Why it is not active, in words for a person; empty when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The plan that its tenant is on, as `starter@1`; absent = none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Scopes such as `context:read`; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The tools that it may call; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// From here on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// How fast it may be used, over all nodes; a lease carries this node's share of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateLimits>,
    /// Whether any hard quota limits it (its leases then carry units).
    pub limited: bool,
    /// The sequence on `LOG` of the fact that made it so.
    pub as_of: u64,
}

impl KeyState {
    /// The name of the plan that its tenant is on, whatever its version.
    #[must_use]
    pub fn tier(&self) -> Option<&str> {
        let plan = self.plan.as_deref()?;
        Some(plan.split_once('@').map_or(plan, |(name, _)| name))
    }
}
