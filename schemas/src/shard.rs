//! Shards: a tenant's stable place in the log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::TenantId;

/// How many shards a log is born with unless it says otherwise; fixed for the life of the log.
pub const DEFAULT_SHARDS: u16 = 16;

/// One of the log's orders. Range: `0..shards`, where `shards` is a property of the log (its stream's metadata).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Shard(pub u16);

impl Shard {
    /// The shard of a tenant: the first eight bytes of SHA-256 over its id, modulo `shards`.
    ///
    /// `shards` must not be 0. This function must never change: every log ever written depends on it.
    #[must_use]
    pub fn of(tenant: TenantId, shards: u16) -> Self {
        let digest: [u8; 32] = Sha256::digest(tenant.0.as_bytes()).into();
        let head = digest.first_chunk::<8>().copied().map_or(0, u64::from_be_bytes);
        let place = head % u64::from(shards.max(1));
        Self(u16::try_from(place).expect("a remainder of a u16 fits one"))
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_tenants_shard_never_changes() {
        let places: Vec<u16> =
            (0..8).map(|n| Shard::of(TenantId(Uuid::from_u128(n)), DEFAULT_SHARDS).0).collect();
        assert_eq!(places, FROZEN, "a change here loses every log ever written");
    }

    /// Computed apart: `python3 -c "import hashlib;print([int.from_bytes(hashlib.sha256(n.to_bytes(16,'big')).digest()[:8],'big')%16 for n in range(8)])"`.
    const FROZEN: [u16; 8] = [5, 11, 8, 6, 8, 10, 12, 10];
}
