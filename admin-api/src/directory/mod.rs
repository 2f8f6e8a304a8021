//! The directory: every tenant, project, key and quota, folded from `CONTROL`. Pure.
//!
//! It is a function of the log alone: two processes that have applied the same sequence know the same. What it
//! keeps beside the nouns themselves is what a writer needs: the last sequence of each subject (what the next
//! decision on it must expect) and where each decision stands (so that a command sent again finds its own).

mod access;
pub mod command;
pub mod decide;
pub mod evolve;
pub mod page;
pub mod text;

use std::collections::{BTreeMap, HashMap};

use schemas::{
    Access, BillingMode, DecisionId, KeyId, KeyStatus, MeterName, PeriodRule, ProjectId, QuotaRule,
    RateLimits, Scope, TenantId, Timestamp,
};

/// A customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub time_zone: String,
    pub billing: BillingMode,
    pub created_at: Timestamp,
}

/// A part of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub id: ProjectId,
    pub tenant: TenantId,
    pub name: String,
    pub created_at: Timestamp,
}

/// An API key; its secret is nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub name: String,
    pub hint: String,
    pub scopes: Vec<String>,
    pub tools: Option<Vec<String>>,
    pub expires_at: Option<Timestamp>,
    /// How fast it may be used, over all nodes.
    pub rate: Option<RateLimits>,
    /// When it last got a new secret.
    pub rotated: Option<Rotated>,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// A new secret in place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotated {
    pub at: Timestamp,
    /// From here on the secret before is refused.
    pub former_until: Timestamp,
}

/// A message of `CONTROL` that could not be read: what it decided is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub seq: u64,
    pub subject: String,
    pub reason: String,
}

/// Everything that was decided, up to one sequence of `CONTROL`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The sequence that it is true of.
    applied: u64,
    tenants: HashMap<TenantId, Tenant>,
    projects: HashMap<ProjectId, Project>,
    keys: HashMap<KeyId, Key>,
    quotas: HashMap<Scope, BTreeMap<(MeterName, PeriodRule), QuotaRule>>,
    access: HashMap<TenantId, (Access, String)>,
    /// In the order of their making, by the sequence of the decision that made them.
    tenants_in_order: BTreeMap<u64, TenantId>,
    projects_in_order: BTreeMap<(TenantId, u64), ProjectId>,
    keys_in_order: BTreeMap<(TenantId, u64), KeyId>,
    subjects: HashMap<String, u64>,
    decisions: HashMap<DecisionId, u64>,
    unreadable: Vec<Unreadable>,
}

impl Directory {
    /// The sequence of `CONTROL` that it is true of.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn tenant(&self, id: TenantId) -> Option<&Tenant> {
        self.tenants.get(&id)
    }

    pub fn project(&self, id: ProjectId) -> Option<&Project> {
        self.projects.get(&id)
    }

    pub fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.get(&id)
    }

    /// The quotas of one scope, by meter and period rule.
    pub fn quotas(&self, scope: Scope) -> impl Iterator<Item = &QuotaRule> {
        self.quotas.get(&scope).into_iter().flat_map(BTreeMap::values)
    }

    /// The last sequence on a subject; 0 = nothing was ever decided there.
    pub fn last_on(&self, subject: &str) -> u64 {
        self.subjects.get(subject).copied().unwrap_or(0)
    }

    /// Where a decision stands.
    pub fn seq_of(&self, decision: DecisionId) -> Option<u64> {
        self.decisions.get(&decision).copied()
    }

    /// What could not be read, in order.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// Whether a key may be used, and why not. The ledger decides; it folds the same facts by the same rule.
    pub fn status(&self, key: &Key) -> (KeyStatus, String) {
        let billing = self.tenants.get(&key.tenant).map(|tenant| tenant.billing);
        access::status(key.revoked_at.is_some(), billing, self.access.get(&key.tenant))
    }

    /// The tenant that a scope belongs to, if it exists.
    pub fn owner(&self, scope: Scope) -> Option<TenantId> {
        match scope {
            Scope::Tenant(id) => self.tenants.get(&id).map(|tenant| tenant.id),
            Scope::Project(id) => self.projects.get(&id).map(|project| project.tenant),
            Scope::Key(id) => self.keys.get(&id).map(|key| key.tenant),
        }
    }
}
