//! Which decision made a key, its tenant's access and each quota what they are: the last one that touched it.

use std::collections::HashMap;

use ledger_core::Entry;
use schemas::{
    ControlFact, Decision, DecisionId, KeyId, LedgerFact, MeterName, PeriodRule, QuotaRule, Scope,
    TenantId, Timestamp,
};
use serde::Serialize;

use crate::questions::log::Logged;

/// A decision, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cause {
    /// What it did, in a few words.
    pub what: String,
    pub log_seq: u64,
    pub control_seq: u64,
    pub decision: DecisionId,
    pub by: String,
    /// When it was decided.
    pub at: Timestamp,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, log_seq, control_seq, decision, by, at } = self;
        write!(f, "{what} at {at} by {by} (LOG {log_seq}, CONTROL {control_seq}, {decision})")
    }
}

/// The quotas of one scope: a handful.
type OfScope = Vec<((MeterName, PeriodRule), Cause)>;

/// What is remembered while a shard is folded. Memory: O(tenants + quotas).
pub(super) struct Causes {
    key: KeyId,
    pub created: Option<Cause>,
    pub revoked: Option<Cause>,
    /// Who gave it its secret, where that is not its first.
    pub rotated: Option<Cause>,
    /// Who set its rate last.
    pub rate: Option<Cause>,
    tenants: HashMap<TenantId, Cause>,
    access: HashMap<TenantId, Cause>,
    quotas: HashMap<Scope, OfScope>,
}

impl Causes {
    pub fn of(key: KeyId) -> Self {
        Self {
            key,
            created: None,
            revoked: None,
            rotated: None,
            rate: None,
            tenants: HashMap::new(),
            access: HashMap::new(),
            quotas: HashMap::new(),
        }
    }

    /// Remembers what a message decided.
    pub fn note(&mut self, logged: &Logged) {
        let Entry::Ledger(batch) = &logged.entry else { return };
        for fact in &batch.facts {
            let LedgerFact::ControlTaken { control_seq, decision } = fact else { continue };
            for fact in &decision.facts {
                self.note_control(logged.seq, *control_seq, decision, fact);
            }
        }
    }

    fn note_control(
        &mut self,
        log_seq: u64,
        control_seq: u64,
        decided: &Decision,
        fact: &ControlFact,
    ) {
        let cause = |what: String| Cause {
            what,
            log_seq,
            control_seq,
            decision: decided.decision,
            by: decided.by.clone(),
            at: decided.at,
        };
        match fact {
            ControlFact::TenantCreated { tenant, .. } => {
                self.tenants.entry(*tenant).or_insert_with(|| cause("tenant created".into()));
            }
            ControlFact::KeyCreated { key, .. } if *key == self.key => {
                self.created.get_or_insert_with(|| cause("key created".into()));
            }
            ControlFact::KeyRevoked { key } if *key == self.key => {
                self.revoked.get_or_insert_with(|| cause("key revoked".into()));
            }
            ControlFact::KeyRotated { key, .. } if *key == self.key => {
                self.rotated = Some(cause("secret rotated".into()));
            }
            ControlFact::KeyRateSet { key, .. } if *key == self.key => {
                self.rate = Some(cause("rate set".into()));
            }
            ControlFact::AccessChanged { tenant, reason, .. } => {
                self.access.insert(*tenant, cause(format!("access changed: {reason}")));
            }
            ControlFact::QuotaSet { quota: QuotaRule { scope, meter, period, limit, .. } } => {
                let what = format!("quota set to {}", limit.0);
                let of_scope = self.quotas.entry(*scope).or_default();
                of_scope.retain(|(name, _)| *name != (meter.clone(), *period));
                of_scope.push(((meter.clone(), *period), cause(what)));
            }
            ControlFact::QuotaRemoved { scope, meter, period } => {
                let of_scope = self.quotas.entry(*scope).or_default();
                of_scope.retain(|(name, _)| *name != (meter.clone(), *period));
            }
            _ => {} // Of another key, or no matter of who may call.
        }
    }

    /// Who made the tenant, and with it decided how its access is decided.
    pub fn tenant(&self, tenant: TenantId) -> Option<&Cause> {
        self.tenants.get(&tenant)
    }

    /// The last change of the tenant's access.
    pub fn access(&self, tenant: TenantId) -> Option<&Cause> {
        self.access.get(&tenant)
    }

    /// Who set a quota last.
    pub fn quota(&self, rule: &QuotaRule) -> Option<&Cause> {
        let name = (rule.meter.clone(), rule.period);
        let of_scope = self.quotas.get(&rule.scope)?;
        of_scope.iter().find(|(known, _)| *known == name).map(|(_, cause)| cause)
    }
}
