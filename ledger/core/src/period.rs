//! Which periods a tenant's usage is counted in, and when they begin and end.
//!
//! Calendar months are always counted. Another rule is counted from the moment that a quota first asked for it: from
//! then on, not from its period's beginning, since what was used before is known by month alone. A lease that was
//! granted before a rule came into use holds nothing in it (`OpenLease::granted_seq` tells).

use schemas::{Period, PeriodRule, Scope, TenantId, Timestamp};

use crate::{
    change::Changes,
    map::Map,
    state::{Held, ShardState},
};

/// The last period asked for of each tenant and rule: almost every event falls into it. It is no part of the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastPeriods(Map<(TenantId, PeriodRule), Period>);

impl PartialEq for LastPeriods {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for LastPeriods {}

impl ShardState {
    /// The period of a tenant's quotas at a time; UTC when the tenant or its time zone is not known here.
    pub(crate) fn period(
        &self,
        tenant: TenantId,
        rule: PeriodRule,
        at: Timestamp,
    ) -> Option<Period> {
        let last = self.last_periods.0.get(&(tenant, rule)).copied();
        if let Some(last) = last.filter(|last| last.contains(at)) {
            return Some(last);
        }
        let zone = self.tenants.get(&tenant).map_or("UTC", |row| row.time_zone.as_str());
        rule.period_at(at, zone).or_else(|_| rule.period_at(at, "UTC")).ok()
    }

    /// The same, remembered for the next event.
    pub(crate) fn period_of_event(
        &mut self,
        tenant: TenantId,
        rule: PeriodRule,
        at: Timestamp,
    ) -> Option<Period> {
        let last = self.last_periods.0.get(&(tenant, rule)).copied();
        if let Some(last) = last.filter(|last| last.contains(at)) {
            return Some(last);
        }
        let period = self.period(tenant, rule, at)?;
        self.last_periods.0.insert((tenant, rule), period);
        Some(period)
    }

    /// Forgets the periods of a tenant whose time zone became known.
    pub(crate) fn forget_periods(&mut self, tenant: TenantId) {
        self.last_periods.0.retain(|(of, _), _| *of != tenant);
    }

    /// One after the other, the rules that a tenant's usage is counted by, each with the sequence from which on it is.
    pub(crate) fn rule(&self, tenant: TenantId, index: usize) -> Option<(PeriodRule, u64)> {
        match index.checked_sub(1) {
            None => Some((PeriodRule::Month, 0)),
            Some(more) => self.tenants.get(&tenant)?.rules.get(more).copied(),
        }
    }

    /// All rules that a tenant's usage is counted by.
    pub(crate) fn rules(&self, tenant: TenantId) -> impl Iterator<Item = (PeriodRule, u64)> {
        (0..).map_while(move |index| self.rule(tenant, index))
    }

    /// From which sequence on a rule is counted for a tenant.
    pub(crate) fn counted_since(&self, tenant: TenantId, rule: PeriodRule) -> u64 {
        self.rules(tenant).find(|(known, _)| *known == rule).map_or(u64::MAX, |(_, since)| since)
    }

    /// The quotas of a scope ask for rules: these are counted from here on. Its quota may be older than the scope.
    pub(crate) fn use_rules_of(&mut self, seq: u64, scope: Scope, out: &mut Changes) {
        let Some(tenant) = self.tenant_of(scope) else { return };
        let Some(row) = self.tenants.get_mut(&tenant) else { return };
        for rule in self.quotas.of(scope).iter().map(|quota| quota.period) {
            let known = row.rules.iter().any(|(known, _)| *known == rule);
            if rule != PeriodRule::Month && !known {
                row.rules.push((rule, seq));
                out.held.insert(Held::Tenant(tenant));
            }
        }
    }

    /// The tenant that a scope belongs to.
    pub(crate) fn tenant_of(&self, scope: Scope) -> Option<TenantId> {
        match scope {
            Scope::Tenant(tenant) => Some(tenant),
            Scope::Project(project) => self.projects.get(&project).map(|row| row.tenant),
            Scope::Key(key) => self.keys.get(&key).map(|row| row.tenant),
        }
    }
}
