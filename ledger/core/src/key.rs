//! A key as the ledger holds it, and what nodes are told of it.

use schemas::{
    Access, BillingMode, KeyDigest, KeyId, KeyState, KeyStatus, ProjectId, RateLimits, Shard,
    TenantId, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::state::TenantRow;

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    pub tenant: TenantId,
    pub project: ProjectId,
    pub digest: KeyDigest,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateLimits>,
    /// The secrets before this one, oldest first; each is refused from its time on.
    #[serde(default, skip_serializing_if = "<[Former]>::is_empty")]
    pub former: Box<[Former]>,
    pub revoked: bool,
    /// The sequence on `LOG` of the last fact that changed what nodes must know of it.
    pub as_of: u64,
}

/// A secret that was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    pub digest: KeyDigest,
    pub until: Timestamp,
}

impl KeyRow {
    /// Takes a new secret.
    pub(crate) fn rotate(&mut self, digest: KeyDigest, former_until: Timestamp) {
        let former = Former { digest: self.digest, until: former_until };
        self.former = self.former.iter().copied().chain([former]).collect();
        self.digest = digest;
    }

    /// What nodes are told of its former secrets: the same key, until the time of each.
    pub fn views_of_former<'a>(
        &'a self,
        view: &'a KeyState,
    ) -> impl Iterator<Item = KeyState> + 'a {
        self.former.iter().map(move |former| {
            let end = view.expires_at.map_or(former.until, |end| end.min(former.until));
            KeyState { digest: former.digest, expires_at: Some(end), ..view.clone() }
        })
    }

    /// Whether it serves, and if not why, in words for a person.
    #[must_use]
    pub fn status(&self, tenant: &TenantRow) -> (KeyStatus, String) {
        if self.revoked {
            return (KeyStatus::Revoked, "revoked".to_owned());
        }
        match (tenant.billing, &tenant.access) {
            (BillingMode::None, None) | (_, Some((Access::Active, _))) => {
                (KeyStatus::Active, String::new())
            }
            (_, Some((Access::Suspended, reason))) => (KeyStatus::Suspended, reason.clone()),
            (BillingMode::Stripe, None) => (KeyStatus::Pending, "no subscription yet".to_owned()),
        }
    }

    pub(crate) fn is_expired(&self, at: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= at)
    }

    pub(crate) fn view(
        &self,
        key: KeyId,
        shard: Shard,
        tenant: &TenantRow,
        limited: bool,
    ) -> KeyState {
        let (status, reason) = self.status(tenant);
        KeyState {
            key,
            tenant: self.tenant,
            project: self.project,
            shard,
            digest: self.digest,
            status,
            reason,
            plan: tenant.plan.clone(),
            scopes: self.scopes.clone(),
            tools: self.tools.clone(),
            expires_at: self.expires_at,
            rate: self.rate,
            limited,
            as_of: self.as_of,
        }
    }
}
