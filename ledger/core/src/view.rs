//! What people read of a state: its keys, its quotas with what is left of them, what a lease may still spend.
//!
//! Reads only. Absent on purpose: an order (a map has none; who prints sorts).

use std::collections::BTreeMap;

use schemas::{KeyId, KeyState, MeterName, Period, QuotaRule, Scope, TenantId, Timestamp};
use serde::Serialize;

use crate::{
    lease::OpenLease,
    quota::{Use, UseKey},
    state::ShardState,
};

/// A quota in the period that holds a moment, and what was counted against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaUse {
    pub tenant: TenantId,
    #[serde(flatten)]
    pub rule: QuotaRule,
    /// The period that holds the moment.
    pub within: Period,
    pub consumed: u64,
    pub outstanding: u64,
    /// What a lease could still be cut from. Unit: units of the meter.
    pub left: u64,
}

impl ShardState {
    /// All keys, as nodes see them.
    pub fn keys(&self) -> impl Iterator<Item = KeyState> {
        self.keys.keys().filter_map(|key| Some(self.key(*key)?.1))
    }

    /// All quotas, each in its period that holds `at`. One whose scope belongs to nobody known here is left out: it
    /// limits nothing.
    pub fn quota_uses(&self, at: Timestamp) -> impl Iterator<Item = QuotaUse> {
        self.quotas.all().filter_map(move |rule| self.quota_use(rule, at))
    }

    fn quota_use(&self, rule: &QuotaRule, at: Timestamp) -> Option<QuotaUse> {
        let tenant = self.tenant_of(rule.scope)?;
        let within = self.period(tenant, rule.period, at)?;
        let (scope, meter) = (rule.scope, rule.meter.clone());
        let name = UseKey { scope, meter, rule: rule.period, period: within };
        let Use { consumed, outstanding } = self.counter(&name);
        let left = rule.limit.0.saturating_sub(consumed.saturating_add(outstanding));
        Some(QuotaUse { tenant, rule: rule.clone(), within, consumed, outstanding, left })
    }

    /// Whether a key's tenant, project or the key itself is what `scope` names.
    #[must_use]
    pub fn covers(&self, scope: Scope, key: KeyId) -> bool {
        let Some(row) = self.keys.get(&key) else { return false };
        match scope {
            Scope::Tenant(tenant) => tenant == row.tenant,
            Scope::Project(project) => project == row.project,
            Scope::Key(named) => named == key,
        }
    }
}

impl OpenLease {
    /// What it may still spend of each meter that it limits; empty = it limits none.
    #[must_use]
    pub fn left(&self) -> BTreeMap<MeterName, u64> {
        self.unspent().map(|(meter, units)| (meter.clone(), units)).collect()
    }
}
