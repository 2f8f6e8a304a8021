//! Counters of what a scope used of a meter in a period, and how much a hard quota still allows.
//!
//! Invariant at every grant and every scope: `consumed + outstanding <= limit`. `consumed` is what was counted;
//! `outstanding` is what open leases may still spend. A spent unit moves from the one to the other, so only a
//! grant raises the sum, and only the settling of a lease lowers it.

use std::collections::HashMap;

use schemas::{
    KeyId, MeterName, Period, PeriodRule, ProjectId, QuotaKind, QuotaRule, Scope, TenantId,
};

/// Names one counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UseKey {
    pub scope: Scope,
    pub meter: MeterName,
    pub period: Period,
}

/// One counter. Unit: units of its meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    pub consumed: u64,
    pub outstanding: u64,
}

impl Use {
    pub(crate) fn committed(self) -> u64 {
        self.consumed.saturating_add(self.outstanding)
    }
}

/// The three scopes that one call counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes {
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
}

impl Scopes {
    /// From the widest to the narrowest.
    #[must_use]
    pub fn all(self) -> [Scope; 3] {
        [Scope::Tenant(self.tenant), Scope::Project(self.project), Scope::Key(self.key)]
    }
}

/// The quotas of one shard: at most one rule for each (scope, meter, period rule).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quotas {
    rules: HashMap<Scope, Vec<QuotaRule>>,
}

impl Quotas {
    pub(crate) fn set(&mut self, rule: QuotaRule) {
        self.remove(rule.scope, &rule.meter, rule.period);
        self.rules.entry(rule.scope).or_default().push(rule);
    }

    pub(crate) fn remove(&mut self, scope: Scope, meter: &MeterName, period: PeriodRule) {
        if let Some(rules) = self.rules.get_mut(&scope) {
            rules.retain(|rule| (&rule.meter, rule.period) != (meter, period));
            if rules.is_empty() {
                self.rules.remove(&scope);
            }
        }
    }

    pub(crate) fn get(
        &self,
        scope: Scope,
        meter: &MeterName,
        period: PeriodRule,
    ) -> Option<&QuotaRule> {
        self.rules.get(&scope)?.iter().find(|rule| (&rule.meter, rule.period) == (meter, period))
    }

    /// The hard quotas that limit a call in these scopes, from the widest scope to the narrowest.
    pub(crate) fn hard(&self, scopes: Scopes) -> impl Iterator<Item = &QuotaRule> {
        scopes
            .all()
            .into_iter()
            .filter_map(|scope| self.rules.get(&scope))
            .flatten()
            .filter(|rule| rule.kind == QuotaKind::Hard)
    }

    pub(crate) fn limit_anything(&self, scopes: Scopes) -> bool {
        self.hard(scopes).next().is_some()
    }
}
