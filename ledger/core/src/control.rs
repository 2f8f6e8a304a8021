//! Folds what was decided on `CONTROL`.

use schemas::{ControlFact, KeyId, Scope, TenantId};

use crate::{
    change::Changes,
    key::KeyRow,
    state::{Held, ProjectRow, ShardState, TenantRow},
};

impl ShardState {
    pub(crate) fn apply_control(&mut self, seq: u64, fact: &ControlFact, out: &mut Changes) {
        match fact {
            ControlFact::TenantCreated { tenant, time_zone, billing, name: _ } => {
                self.tenants.entry(*tenant).or_insert_with(|| TenantRow {
                    time_zone: time_zone.clone(),
                    billing: *billing,
                    rules: Vec::new(),
                    access: None,
                    plan: None,
                });
                self.forget_periods(*tenant);
                self.use_rules_of(seq, Scope::Tenant(*tenant), out);
                out.held.insert(Held::Tenant(*tenant));
            }
            ControlFact::ProjectCreated { tenant, project, name: _ } => {
                self.projects.entry(*project).or_insert(ProjectRow { tenant: *tenant });
                out.held.insert(Held::Project(*project));
                self.use_rules_of(seq, Scope::Project(*project), out);
            }
            ControlFact::KeyCreated {
                tenant,
                project,
                key,
                digest,
                scopes,
                tools,
                expires_at,
                name: _,
                hint: _,
            } => {
                let row = KeyRow {
                    tenant: *tenant,
                    project: *project,
                    digest: *digest,
                    scopes: scopes.clone(),
                    tools: tools.clone(),
                    expires_at: *expires_at,
                    rate: None,
                    former: Box::default(),
                    revoked: false,
                    as_of: seq,
                };
                if !self.tenants.contains_key(tenant) {
                    return out.anomaly(seq, "key_of_no_tenant", format!("{key} of {tenant}"));
                }
                self.keys.entry(*key).or_insert(row);
                self.keys_of.entry(*tenant).or_default().insert(*key);
                out.keys.insert(*key);
                self.use_rules_of(seq, Scope::Key(*key), out);
            }
            ControlFact::KeyRevoked { key } => {
                match self.keys.get_mut(key) {
                    Some(row) => row.revoked = true,
                    None => return out.anomaly(seq, "revocation_of_no_key", key.to_string()),
                }
                self.key_changed(seq, *key, out);
            }
            ControlFact::KeyRotated { key, digest, former_until, hint: _ } => {
                match self.keys.get_mut(key) {
                    Some(row) => row.rotate(*digest, *former_until),
                    None => return out.anomaly(seq, "rotation_of_no_key", key.to_string()),
                }
                self.key_changed(seq, *key, out);
            }
            ControlFact::KeyRateSet { key, rate } => {
                match self.keys.get_mut(key) {
                    Some(row) => row.rate = *rate,
                    None => return out.anomaly(seq, "rate_of_no_key", key.to_string()),
                }
                self.key_changed(seq, *key, out);
            }
            ControlFact::QuotaSet { quota } => {
                self.quotas.set(quota.clone());
                out.held.insert(Held::Quota(quota.scope, quota.meter.clone(), quota.period));
                self.use_rules_of(seq, quota.scope, out);
                self.quota_was_set(quota, out);
                self.scope_changed(seq, quota.scope, out);
            }
            ControlFact::QuotaRemoved { scope, meter, period } => {
                self.quotas.remove(*scope, meter, *period);
                out.held.insert(Held::Quota(*scope, meter.clone(), *period));
                self.forget_told(&(*scope, meter.clone(), *period), out);
                self.scope_changed(seq, *scope, out);
            }
            ControlFact::QuarantineResolved { seq: place, record, resolution } => {
                self.resolve(seq, (*place, *record), resolution, out);
            }
            // Billing's own matters.
            ControlFact::CustomerLinked { .. } | ControlFact::StatementClosed { .. } => {}
            ControlFact::AccessChanged { tenant, access, reason, subscription: _, plan } => {
                match self.tenants.get_mut(tenant) {
                    Some(row) => {
                        row.access = Some((*access, reason.clone()));
                        row.plan.clone_from(plan);
                    }
                    None => return out.anomaly(seq, "access_of_no_tenant", tenant.to_string()),
                }
                out.held.insert(Held::Tenant(*tenant));
                self.tenant_changed(seq, *tenant, out);
            }
        }
    }

    fn scope_changed(&mut self, seq: u64, scope: Scope, out: &mut Changes) {
        match scope {
            Scope::Key(key) => self.key_changed(seq, key, out),
            Scope::Tenant(tenant) => self.tenant_changed(seq, tenant, out),
            Scope::Project(project) => {
                let Some(tenant) = self.projects.get(&project).map(|row| row.tenant) else {
                    return;
                };
                for key in self.keys_of.get(&tenant).cloned().unwrap_or_default() {
                    if self.keys.get(&key).is_some_and(|row| row.project == project) {
                        self.key_changed(seq, key, out);
                    }
                }
            }
        }
    }

    fn tenant_changed(&mut self, seq: u64, tenant: TenantId, out: &mut Changes) {
        for key in self.keys_of.get(&tenant).cloned().unwrap_or_default() {
            self.key_changed(seq, key, out);
        }
    }

    fn key_changed(&mut self, seq: u64, key: KeyId, out: &mut Changes) {
        if let Some(row) = self.keys.get_mut(&key) {
            row.as_of = seq;
            out.keys.insert(key);
        }
    }
}
