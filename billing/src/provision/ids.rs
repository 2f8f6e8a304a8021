//! The ids of one provisioning: all of them follow from its idempotency key.
//!
//! UUIDs of version 8 (RFC 9562: made by a rule of one's own): the first 128 bits of SHA-256 over what they are for and
//! the key's digest. Without a key they are new, since nobody can ask again.

use schemas::{DecisionId, KeyId, ProjectId, TenantId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Where ids come from.
pub struct Ids([u8; 32]);

impl Ids {
    /// Of a caller's key, or of one that is used this once.
    pub fn of(key: Option<&str>) -> Self {
        let key =
            key.map_or_else(|| Uuid::now_v7().into_bytes().to_vec(), |key| key.as_bytes().to_vec());
        Self(Sha256::new_with_prefix(b"tollbook provision 1\0").chain_update(key).finalize().into())
    }

    /// The key's digest, in hexadecimal digits: what is kept of it.
    pub fn digest(&self) -> String {
        hex::encode(self.0)
    }

    pub fn tenant(&self) -> TenantId {
        TenantId(self.id("tenant", 0))
    }

    pub fn project(&self) -> ProjectId {
        ProjectId(self.id("project", 0))
    }

    /// The key at a place of the list.
    pub fn key(&self, place: usize) -> KeyId {
        KeyId(self.id("key", place))
    }

    /// The decision that makes the tenant.
    pub fn tenant_decision(&self) -> DecisionId {
        DecisionId(self.id("tenant decision", 0))
    }

    /// The decision that makes the key at a place of the list.
    pub fn key_decision(&self, place: usize) -> DecisionId {
        DecisionId(self.id("key decision", place))
    }

    fn id(&self, kind: &str, place: usize) -> Uuid {
        let place = u64::try_from(place).unwrap_or(u64::MAX).to_be_bytes();
        let digest: [u8; 32] = Sha256::new_with_prefix(self.0)
            .chain_update(place)
            .chain_update(kind)
            .finalize()
            .into();
        let head = digest.first_chunk::<16>().copied().unwrap_or_default();
        uuid::Builder::from_custom_bytes(head).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_the_same_ids_for_ever_and_no_others() {
        let (one, again, other) = (Ids::of(Some("k1")), Ids::of(Some("k1")), Ids::of(Some("k2")));
        assert_eq!((one.tenant(), one.key(1)), (again.tenant(), again.key(1)));
        assert_ne!(one.tenant(), other.tenant());
        assert_ne!(one.key(0), one.key(1));
        assert_ne!(one.tenant().0, one.project().0);
        assert_ne!(one.tenant().0, one.tenant_decision().0);
        assert_ne!(Ids::of(None).tenant(), Ids::of(None).tenant());
        assert_eq!(one.tenant().to_string(), FROZEN, "a change makes old commands happen again");
        assert_eq!(one.tenant().0.get_version_num(), 8);
    }

    /// Computed apart, in Python with hashlib, from the rule above.
    const FROZEN: &str = "tnt_dde079881119846bb517be79af884631";
}
