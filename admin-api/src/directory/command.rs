//! Commands: what people ask for, already in types. The shell brings ids, secrets' digests and the time.

use schemas::{
    BillingMode, ControlFact, KeyDigest, KeyId, ProjectId, QuotaRule, RateLimits, Scope, TenantId,
    Timestamp,
};

/// One wish; a decision makes facts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    CreateTenant { tenant: TenantId, name: String, time_zone: String, billing: BillingMode },
    CreateProject { tenant: TenantId, project: ProjectId, name: String },
    CreateKey(CreateKey),
    RevokeKey { key: KeyId },
    RotateKey(RotateKey),
    SetRate { key: KeyId, rate: Option<RateLimits> },
    SetQuota(QuotaRule),
}

/// A new secret for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateKey {
    pub key: KeyId,
    pub digest: KeyDigest,
    pub hint: String,
    /// From here on the secret before is refused.
    pub former_until: Timestamp,
}

/// A new key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateKey {
    pub key: KeyId,
    pub project: ProjectId,
    pub name: String,
    pub digest: KeyDigest,
    pub hint: String,
    pub scopes: Vec<String>,
    pub tools: Option<Vec<String>>,
    pub expires_at: Option<Timestamp>,
    /// Set in the same decision, so that the key never serves without it. Its scope is the key.
    pub quota: Option<QuotaRule>,
}

/// What a command wants done, without what is new at every try (the secret's digest and hint): two commands
/// under one idempotency key must be the same in this.
#[must_use]
pub fn wish(facts: &[ControlFact]) -> Vec<ControlFact> {
    let mut facts = facts.to_vec();
    for fact in &mut facts {
        match fact {
            ControlFact::KeyCreated { digest, hint, .. } => {
                *digest = KeyDigest([0; 32]);
                hint.clear();
            }
            ControlFact::KeyRotated { digest, hint, former_until, .. } => {
                *digest = KeyDigest([0; 32]);
                hint.clear();
                *former_until = Timestamp(0);
            }
            _ => {}
        }
    }
    facts
}

impl CreateKey {
    /// The facts of it, for the tenant that the project belongs to.
    pub(super) fn facts(&self, tenant: TenantId) -> Vec<ControlFact> {
        let created = ControlFact::KeyCreated {
            tenant,
            project: self.project,
            key: self.key,
            name: self.name.clone(),
            digest: self.digest,
            hint: self.hint.clone(),
            scopes: self.scopes.clone(),
            tools: self.tools.clone(),
            expires_at: self.expires_at,
        };
        let quota = self.quota.as_ref().map(|quota| ControlFact::QuotaSet {
            quota: QuotaRule { scope: Scope::Key(self.key), ..quota.clone() },
        });
        std::iter::once(created).chain(quota).collect()
    }
}
