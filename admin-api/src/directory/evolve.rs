//! Folds the messages of `CONTROL` into the directory. Total: a fact is never refused.

use schemas::{ControlFact, Decision, Timestamp};

use super::{Directory, Key, Project, Rotated, Tenant, Unreadable};

impl Directory {
    /// Applies the message at `seq`. Messages come in order; one that was applied before changes nothing.
    pub fn apply(&mut self, seq: u64, subject: &str, decision: &Decision) {
        if !self.step(seq, subject) {
            return;
        }
        self.decisions.entry(decision.decision).or_insert(seq);
        for fact in &decision.facts {
            self.evolve(seq, decision.at, fact);
        }
    }

    /// Notes a message that could not be read; its subject is closed to decisions until a program that can reads it.
    pub fn apply_unreadable(&mut self, seq: u64, subject: String, reason: String) {
        if self.step(seq, &subject) {
            self.unreadable.push(Unreadable { seq, subject, reason });
        }
    }

    fn step(&mut self, seq: u64, subject: &str) -> bool {
        if seq <= self.applied {
            return false;
        }
        self.applied = seq;
        self.subjects.insert(subject.to_owned(), seq);
        true
    }

    fn evolve(&mut self, seq: u64, at: Timestamp, fact: &ControlFact) {
        match fact {
            ControlFact::TenantCreated { tenant, name, time_zone, billing } => {
                let (name, time_zone) = (name.clone(), time_zone.clone());
                let created =
                    Tenant { id: *tenant, name, time_zone, billing: *billing, created_at: at };
                self.tenants.insert(*tenant, created);
                self.tenants_in_order.insert(seq, *tenant);
            }
            ControlFact::ProjectCreated { tenant, project, name } => {
                let created =
                    Project { id: *project, tenant: *tenant, name: name.clone(), created_at: at };
                self.projects.insert(*project, created);
                self.projects_in_order.insert((*tenant, seq), *project);
            }
            ControlFact::KeyCreated {
                tenant,
                project,
                key,
                name,
                hint,
                scopes,
                tools,
                expires_at,
                digest: _,
            } => {
                let created = Key {
                    id: *key,
                    tenant: *tenant,
                    project: *project,
                    name: name.clone(),
                    hint: hint.clone(),
                    scopes: scopes.clone(),
                    tools: tools.clone(),
                    expires_at: *expires_at,
                    rate: None,
                    rotated: None,
                    created_at: at,
                    revoked_at: None,
                };
                self.keys.insert(*key, created);
                self.keys_in_order.insert((*tenant, seq), *key);
            }
            ControlFact::KeyRevoked { key } => {
                if let Some(key) = self.keys.get_mut(key) {
                    key.revoked_at.get_or_insert(at);
                }
            }
            ControlFact::QuotaSet { quota } => {
                let of_scope = self.quotas.entry(quota.scope).or_default();
                of_scope.insert((quota.meter.clone(), quota.period), quota.clone());
            }
            ControlFact::QuotaRemoved { scope, meter, period } => {
                if let Some(of_scope) = self.quotas.get_mut(scope) {
                    of_scope.remove(&(meter.clone(), *period));
                }
            }
            ControlFact::AccessChanged { tenant, access, reason, subscription: _, plan: _ } => {
                self.access.insert(*tenant, (*access, reason.clone()));
            }
            ControlFact::KeyRotated { key, hint, former_until, digest: _ } => {
                if let Some(key) = self.keys.get_mut(key) {
                    key.hint.clone_from(hint);
                    key.rotated = Some(Rotated { at, former_until: *former_until });
                }
            }
            ControlFact::KeyRateSet { key, rate } => {
                if let Some(key) = self.keys.get_mut(key) {
                    key.rate = *rate;
                }
            }
            // Billing's own knowledge and the ledger's own matter; nothing here depends on them.
            ControlFact::CustomerLinked { .. }
            | ControlFact::StatementClosed { .. }
            | ControlFact::QuarantineResolved { .. } => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use schemas::{
        Access, BillingMode, DecisionId, KeyDigest, KeyId, KeyStatus, MeterName, PeriodRule,
        ProjectId, Quantity, QuotaKind, QuotaRule, Scope, TenantId, subject,
    };
    use uuid::Uuid;

    use super::*;

    pub fn control(n: u128, facts: Vec<ControlFact>) -> Decision {
        let tenant = TenantId(Uuid::from_u128(1));
        let at = Timestamp(i64::try_from(n).unwrap());
        Decision {
            v: 1,
            decision: DecisionId(Uuid::from_u128(n)),
            at,
            by: "test".into(),
            tenant,
            shard: None,
            facts,
        }
    }

    /// A directory in which each fact was a decision of its own, from sequence 1 on.
    pub fn directory(facts: &[ControlFact]) -> Directory {
        let mut directory = Directory::default();
        for (seq, fact) in (1..).zip(facts) {
            directory.apply(
                seq,
                &subject::control(fact),
                &control(u128::from(seq), vec![fact.clone()]),
            );
        }
        directory
    }

    #[test]
    fn what_was_decided_can_be_read() {
        let (tenant, project, key) = (
            TenantId(Uuid::from_u128(1)),
            ProjectId(Uuid::from_u128(2)),
            KeyId(Uuid::from_u128(3)),
        );
        let (meter, scope) = (MeterName::tool_calls(), Scope::Key(key));
        let quota = |limit| QuotaRule {
            scope,
            meter: meter.clone(),
            limit: Quantity(limit),
            kind: QuotaKind::Hard,
            period: PeriodRule::Month,
        };
        let mut facts = vec![
            ControlFact::TenantCreated {
                tenant,
                name: "Acme".into(),
                time_zone: "UTC".into(),
                billing: BillingMode::Stripe,
            },
            ControlFact::ProjectCreated { tenant, project, name: "Search".into() },
            ControlFact::KeyCreated {
                tenant,
                project,
                key,
                name: "k".into(),
                digest: KeyDigest([1; 32]),
                hint: "tb_…1234".into(),
                scopes: vec!["a:read".into()],
                tools: Some(vec!["search".into()]),
                expires_at: Some(Timestamp(9)),
            },
            ControlFact::QuotaSet { quota: quota(5) },
        ];
        let found = directory(&facts);
        let of_key = found.key(key).unwrap();
        assert_eq!(
            (of_key.tenant, of_key.created_at, of_key.revoked_at),
            (tenant, Timestamp(3), None)
        );
        assert_eq!(found.status(of_key).0, KeyStatus::Pending);
        assert_eq!(found.quotas(scope).cloned().collect::<Vec<_>>(), [quota(5)]);
        assert_eq!(found.seq_of(DecisionId(Uuid::from_u128(2))), Some(2));
        assert_eq!(found.last_on(&format!("control.key.{key}")), 3);

        let reason = "subscription active".to_owned();
        facts.push(ControlFact::AccessChanged {
            tenant,
            access: Access::Active,
            reason,
            subscription: None,
            plan: None,
        });
        facts.push(ControlFact::QuotaSet { quota: quota(6) });
        let found = directory(&facts);
        assert_eq!(found.status(found.key(key).unwrap()).0, KeyStatus::Active);
        assert_eq!(found.quotas(scope).cloned().collect::<Vec<_>>(), [quota(6)]);

        facts.push(ControlFact::KeyRevoked { key });
        facts.push(ControlFact::KeyRevoked { key });
        facts.push(ControlFact::QuotaRemoved {
            scope,
            meter: meter.clone(),
            period: PeriodRule::Month,
        });
        let found = directory(&facts);
        assert_eq!(
            found.key(key).unwrap().revoked_at,
            Some(Timestamp(7)),
            "the first revocation counts"
        );
        assert_eq!(found.quotas(scope).count(), 0);
    }

    #[test]
    fn a_message_that_was_applied_changes_nothing() {
        let fact = |name: &str| ControlFact::TenantCreated {
            tenant: TenantId(Uuid::from_u128(1)),
            name: name.into(),
            time_zone: "UTC".into(),
            billing: BillingMode::None,
        };
        let mut found = directory(&[fact("first"), fact("second")]);
        let before = found.clone();
        found.apply(2, "control.tenant.x", &control(9, vec![fact("late")]));
        assert_eq!(found, before);
    }
}
