//! Quotas that near their limit: said once for each quota, period and percentage, by a fact.
//!
//! The fold notes that a quota has been used to 80 or 100 % (`due`); the ledger then says so (`ThresholdCrossed`), and
//! the fold of that fact ends the note (`told`). A quota that is set anew is told of anew.

use schemas::{
    LedgerFact, MeterName, Notice, Period, PeriodRule, Quantity, QuotaRule, Scope, Timestamp,
};

use crate::{
    change::Changes,
    quota::{Scopes, UseKey},
    state::{Held, ShardState},
};

/// The parts of a limit that are told of. Unit: percent.
pub const THRESHOLDS: [u8; 2] = [80, 100];

/// How many crossings go into one message at most.
const MAX_AT_ONCE: usize = 500;

/// Names a quota.
pub(crate) type QuotaName = (Scope, MeterName, PeriodRule);

/// How much of a limit is consumed, rounded down. Unit: percent.
pub(crate) fn percent(consumed: u64, limit: u64) -> u64 {
    let whole = u128::from(consumed) * 100 / u128::from(limit.max(1));
    if limit == 0 { 100 } else { u64::try_from(whole).unwrap_or(u64::MAX) }
}

/// The highest threshold that is reached; 0 = none.
fn level(consumed: u64, limit: u64) -> u8 {
    let reached = percent(consumed, limit);
    THRESHOLDS.into_iter().rfind(|threshold| reached >= u64::from(*threshold)).unwrap_or(0)
}

impl ShardState {
    /// Notes what the growth of a counter from `before` to `after` has crossed.
    pub(crate) fn note_crossing(
        &mut self,
        key: &UseKey,
        before: u64,
        after: u64,
        out: &mut Changes,
    ) {
        let Some(rule) = self.quotas.get(key.scope, &key.meter, key.rule) else { return };
        if level(after, rule.limit.0) > level(before, rule.limit.0) {
            self.set_due((key.scope, key.meter.clone(), key.rule), key.period, out);
        }
    }

    /// A quota was set: what it says of its running period is told anew.
    pub(crate) fn quota_was_set(&mut self, quota: &QuotaRule, out: &mut Changes) {
        let name = (quota.scope, quota.meter.clone(), quota.period);
        self.forget_told(&name, out);
        let Some(tenant) = self.tenant_of(quota.scope) else { return };
        let Some(period) = self.period(tenant, quota.period, self.at) else { return };
        let (scope, meter, rule) = name.clone();
        let used = self.counter(&UseKey { scope, meter, rule, period });
        if level(used.consumed, quota.limit.0) > 0 {
            self.set_due(name, period, out);
        }
    }

    /// What was said of a quota, and is to be said, holds no more: it is gone, or was set anew.
    pub(crate) fn forget_told(&mut self, name: &QuotaName, out: &mut Changes) {
        let (scope, meter, rule) = name;
        if self.told.remove(name).is_some() {
            out.held.insert(Held::Told(*scope, meter.clone(), *rule));
        }
        self.due.retain(|(of, period)| {
            if of == name {
                out.held.insert(Held::Due(*scope, meter.clone(), *rule, *period));
            }
            of != name
        });
    }

    fn set_due(&mut self, name: QuotaName, period: Period, out: &mut Changes) {
        out.held.insert(Held::Due(name.0, name.1.clone(), name.2, period));
        self.due.insert((name, period));
    }

    /// The crossings to say next.
    #[must_use]
    pub fn decide_thresholds(&self) -> Vec<LedgerFact> {
        self.due.iter().flat_map(|due| self.crossings(due)).take(MAX_AT_ONCE).collect()
    }

    /// What is to be said of one quota: at least one fact, so that it is due no more.
    fn crossings(&self, (name, period): &(QuotaName, Period)) -> Vec<LedgerFact> {
        let (scope, meter, rule) = name;
        let Some(quota) = self.quotas.get(*scope, meter, *rule) else { return Vec::new() };
        let Some(tenant) = self.tenant_of(*scope) else { return Vec::new() };
        let key = UseKey { scope: *scope, meter: meter.clone(), rule: *rule, period: *period };
        let consumed = self.counter(&key).consumed;
        let told = self.told.get(name).filter(|(of, _)| of == period).map_or(0, |(_, told)| *told);
        let reached = level(consumed, quota.limit.0);
        let new =
            THRESHOLDS.into_iter().filter(|threshold| (told + 1..=reached).contains(threshold));
        new.map(|percent| LedgerFact::ThresholdCrossed {
            tenant,
            quota: quota.clone(),
            period: *period,
            percent,
            consumed: Quantity(consumed),
        })
        .collect()
    }

    pub(crate) fn threshold_crossed(
        &mut self,
        quota: &QuotaRule,
        period: Period,
        percent: u8,
        out: &mut Changes,
    ) {
        let name = (quota.scope, quota.meter.clone(), quota.period);
        let (scope, meter, rule) = name.clone();
        out.held.insert(Held::Told(scope, meter.clone(), rule));
        out.held.insert(Held::Due(scope, meter.clone(), rule, period));
        out.crossings.push((self.seq, quota.clone(), period, percent));
        if self.quotas.get(scope, &meter, rule).is_none() {
            return; // Removed since.
        }
        match self.told.get_mut(&name) {
            Some((of, told)) if *of == period => *told = percent.max(*told),
            Some((of, _)) if of.from > period.from => {} // Late news of an older period.
            _ => {
                self.told.insert(name.clone(), (period, percent));
            }
        }
        let used = self.counter(&UseKey { scope, meter, rule, period }).consumed;
        if percent >= level(used, quota.limit.0) {
            self.due.remove(&(name, period));
        }
    }

    /// What a caller in these scopes is told at `now`: the quotas that are used to 80 % or more.
    pub(crate) fn notices(&self, scopes: Scopes, now: Timestamp) -> Vec<Notice> {
        let notice = |quota: &QuotaRule| {
            let period = self.period(scopes.tenant, quota.period, now)?;
            let (scope, meter, rule) = (quota.scope, quota.meter.clone(), quota.period);
            let used = self.counter(&UseKey { scope, meter, rule, period });
            let percent = percent(used.consumed, quota.limit.0);
            (percent >= u64::from(THRESHOLDS[0])).then(|| Notice {
                scope,
                meter: quota.meter.clone(),
                kind: quota.kind,
                limit: quota.limit,
                consumed: Quantity(used.consumed),
                period,
                percent,
            })
        };
        self.quotas.any(scopes).filter_map(notice).collect()
    }
}
