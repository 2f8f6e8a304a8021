//! Counters of what a scope used of a meter in a period, and how much a hard quota still allows.
//!
//! Invariant at every grant and every scope: `consumed + outstanding <= limit`. `consumed` is what was counted;
//! `outstanding` is what open leases may still spend. A spent unit moves from the one to the other, so only a
//! grant raises the sum, and only the settling of a lease lowers it.

use schemas::{
    KeyId, MeterName, Period, PeriodRule, ProjectId, QuotaKind, QuotaRule, Scope, TenantId,
};

use crate::map::Map;

/// Names one counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UseKey {
    pub scope: Scope,
    pub meter: MeterName,
    pub rule: PeriodRule,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    rules: Map<Scope, Vec<QuotaRule>>,
}

impl Quotas {
    pub(crate) fn set(&mut self, rule: QuotaRule) {
        self.remove(rule.scope, &rule.meter, rule.period);
        let rules = self.rules.entry(rule.scope).or_default();
        rules.push(rule);
        // Their order must not tell which came first: the stored rows do not.
        rules.sort_by(|a, b| (&a.meter, a.period).cmp(&(&b.meter, b.period)));
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

    /// All quotas of a scope.
    pub(crate) fn of(&self, scope: Scope) -> &[QuotaRule] {
        self.rules.get(&scope).map_or(&[], Vec::as_slice)
    }

    /// The hard quotas that limit a call in these scopes, from the widest scope to the narrowest.
    pub(crate) fn hard(&self, scopes: Scopes) -> impl Iterator<Item = &QuotaRule> {
        self.any(scopes).filter(|rule| rule.kind == QuotaKind::Hard)
    }

    /// All quotas that watch a call in these scopes, hard and soft.
    pub(crate) fn any(&self, scopes: Scopes) -> impl Iterator<Item = &QuotaRule> {
        scopes.all().into_iter().flat_map(|scope| self.of(scope))
    }

    /// All quotas, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &QuotaRule> {
        self.rules.values().flatten()
    }

    pub(crate) fn limit_anything(&self, scopes: Scopes) -> bool {
        self.hard(scopes).next().is_some()
    }
}
