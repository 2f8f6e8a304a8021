//! Ids: new ones, and those that an idempotency key stands for.
//!
//! A command with an `Idempotency-Key` gets its ids from that key alone, so the same command sent again, to any
//! process and after any restart, has the same ids, falls on the same subject, and finds its own decision there.
//! No table of keys is needed, and none can be lost. The ids are UUIDs of version 8 (RFC 9562: made by a rule of
//! one's own): the first 128 bits of SHA-256 over what they are for.

use schemas::{DecisionId, KeyId, ProjectId, TenantId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Where the ids of one command come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mint {
    /// `None`: the command has no idempotency key, its ids are new.
    key: Option<String>,
    operation: &'static str,
}

impl Mint {
    /// For one operation (`create-tenant`), so that one idempotency key can serve each of them once.
    #[must_use]
    pub fn new(operation: &'static str, key: Option<String>) -> Self {
        Self { key, operation }
    }

    #[must_use]
    pub fn decision(&self) -> DecisionId {
        DecisionId(self.id("decision"))
    }

    #[must_use]
    pub fn tenant(&self) -> TenantId {
        TenantId(self.id("tenant"))
    }

    #[must_use]
    pub fn project(&self) -> ProjectId {
        ProjectId(self.id("project"))
    }

    #[must_use]
    pub fn key(&self) -> KeyId {
        KeyId(self.id("key"))
    }

    fn id(&self, kind: &str) -> Uuid {
        let Some(key) = &self.key else { return Uuid::now_v7() };
        let mut hash = Sha256::new();
        for part in ["tollbook idempotency 1", kind, self.operation, key] {
            // Each part with its length: no two lists of parts are the same bytes.
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let head = digest.first_chunk::<16>().copied().unwrap_or_default();
        uuid::Builder::from_custom_bytes(head).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_the_same_ids_for_ever_and_no_others() {
        let mint = |operation, key: &str| Mint::new(operation, Some(key.to_owned()));
        let one = mint("create-tenant", "k1");
        assert_eq!(
            one.tenant().to_string(),
            FROZEN,
            "a change here makes old commands happen again"
        );
        assert_eq!(one.tenant().0.get_version_num(), 8);
        assert_ne!(one.tenant().0, one.decision().0);
        assert_ne!(one.tenant(), mint("create-tenant", "k2").tenant());
        assert_ne!(one.tenant(), mint("create-project", "k1").tenant());
        let none = Mint::new("create-tenant", None);
        assert_ne!(none.tenant(), none.tenant());
    }

    /// Computed apart, in Python with hashlib, from the rule above.
    const FROZEN: &str = "tnt_586497871454893fbd91cc1c7dbc3e6d";
}
