//! Decides leases: at every scope and every hard quota, `consumed + outstanding + granted <= limit`.
//!
//! Usage under a lease that is not folded yet changes nothing in that sum (it moves units from outstanding to
//! consumed), so it is safe to grant while usage lags, as long as every grant and settlement is folded; the
//! shell makes sure of that by writing with the expected sequence of the ledger's own subject.

use std::collections::HashMap;

use schemas::{
    Epoch, Lease, LeaseAsk, LeaseId, LeaseRefusal, LedgerFact, NodeId, Period, Quantity, QuotaRule,
    Scope, Share, Timestamp,
};

use crate::{
    key::KeyRow,
    quota::{Scopes, UseKey},
    state::{OpenCount, ShardState},
};

/// How leases are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a lease lasts at most. Unit: milliseconds. Range: `1_000..=600_000`.
    pub ttl_ms: i64,
    /// What a node is told to wait when units are held elsewhere. Unit: milliseconds.
    pub held_retry_ms: u32,
}

/// Decides the asks of one batch on one state; what it granted counts for the asks after it.
pub struct Granting<'a> {
    state: &'a ShardState,
    now: Timestamp,
    policy: Policy,
    granted: Vec<Lease>,
    taken: HashMap<UseKey, u64>,
    open: HashMap<Scope, OpenCount>,
}

impl<'a> Granting<'a> {
    /// Begins a batch at `now`, which never lies before the ledger's own time.
    #[must_use]
    pub fn new(state: &'a ShardState, now: Timestamp, policy: Policy) -> Self {
        let now = now.max(state.at);
        Self {
            state,
            now,
            policy,
            granted: Vec::new(),
            taken: HashMap::new(),
            open: HashMap::new(),
        }
    }

    /// The time of the batch.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The facts to write before anyone hears of the leases. Empty when nothing new was granted.
    #[must_use]
    pub fn into_facts(self) -> Vec<LedgerFact> {
        self.granted.into_iter().map(|lease| LedgerFact::LeaseGranted { lease }).collect()
    }

    /// Decides one ask. The same lease asked for again is the same lease.
    ///
    /// # Errors
    /// Why there is none; see [`LeaseRefusal`].
    pub fn ask(
        &mut self,
        node: &NodeId,
        epoch: Epoch,
        ask: &LeaseAsk,
    ) -> Result<Lease, LeaseRefusal> {
        if let Some(lease) = self.known(ask.lease) {
            let same = lease.key == ask.key && lease.node == *node && lease.epoch == epoch;
            return if same { Ok(lease.clone()) } else { Err(LeaseRefusal::LeaseClosed) };
        }
        if self.state.settled.contains_key(&ask.lease) {
            return Err(LeaseRefusal::LeaseClosed);
        }
        if self.is_over(node, epoch) {
            return Err(LeaseRefusal::EpochEnded);
        }
        let key = self.serving_key(ask)?;
        let scopes = Scopes { tenant: key.tenant, project: key.project, key: ask.key };
        let (shares, expires_at) = self.shares(node, scopes, key, ask.want)?;
        let lease = Lease {
            lease: ask.lease,
            tenant: key.tenant,
            project: key.project,
            key: ask.key,
            node: node.clone(),
            epoch,
            granted_at: self.now,
            expires_at,
            shares,
        };
        self.take(scopes, &lease);
        Ok(lease)
    }

    fn known(&self, id: LeaseId) -> Option<&Lease> {
        let open = self.state.leases.get(&id).map(|open| &open.lease);
        open.or_else(|| self.granted.iter().find(|lease| lease.lease == id))
    }

    /// An epoch that ended, or that a later one of the same node has replaced.
    fn is_over(&self, node: &NodeId, epoch: Epoch) -> bool {
        let Some(known) = self.state.nodes.get(node) else { return false };
        let replaced = known.epochs.last_key_value().is_some_and(|(newest, _)| epoch < *newest);
        replaced || known.is_over(epoch)
    }

    fn serving_key(&self, ask: &LeaseAsk) -> Result<&'a KeyRow, LeaseRefusal> {
        let found = self
            .state
            .keys
            .get(&ask.key)
            .and_then(|key| Some((key, self.state.tenants.get(&key.tenant)?)));
        match found {
            Some((key, tenant))
                if key.status(tenant).0 == schemas::KeyStatus::Active
                    && !key.is_expired(self.now) =>
            {
                Ok(key)
            }
            _ => Err(LeaseRefusal::KeyNotActive),
        }
    }

    /// What each limited meter gets, and until when.
    fn shares(
        &self,
        node: &NodeId,
        scopes: Scopes,
        key: &KeyRow,
        want: Quantity,
    ) -> Result<(Vec<Share>, Timestamp), LeaseRefusal> {
        let mut end = self.now.plus_ms(self.policy.ttl_ms);
        end = key.expires_at.map_or(end, |expiry| end.min(expiry));
        let mut shares: Vec<Share> = Vec::new();
        for rule in self.state.quotas.hard(scopes) {
            let Some(period) = self.state.period(scopes.tenant, rule.period, self.now) else {
                return Err(LeaseRefusal::KeyNotActive); // A time past the calendar: nothing can be granted there.
            };
            end = end.min(period.to);
            let share = self.share(node, rule, period, want)?;
            match shares.iter_mut().find(|other| other.meter == share.meter) {
                // The narrowest share counts; the tightest quota is the one to tell of.
                Some(other) => {
                    let units = other.units.at_most(share.units);
                    if share.left < other.left {
                        *other = share;
                    }
                    other.units = units;
                }
                None => shares.push(share),
            }
        }
        shares.sort_by(|a, b| a.meter.cmp(&b.meter));
        Ok((shares, end))
    }

    /// What one quota allows this lease.
    fn share(
        &self,
        node: &NodeId,
        rule: &QuotaRule,
        period: Period,
        want: Quantity,
    ) -> Result<Share, LeaseRefusal> {
        let use_key = UseKey { scope: rule.scope, meter: rule.meter.clone(), period };
        let (meter, scope, limit, retry_ms) =
            (rule.meter.clone(), rule.scope, rule.limit, self.policy.held_retry_ms);
        let counted = self.state.counter(&use_key);
        if counted.consumed >= limit.0 {
            return Err(LeaseRefusal::QuotaExhausted { meter, scope, limit, period });
        }
        let held = LeaseRefusal::UnitsHeld { meter: meter.clone(), scope, limit, period, retry_ms };
        if self.unlimited_leases(rule) > 0 {
            return Err(held); // Granted before this quota was set: what they spend is not bounded yet.
        }
        let taken = self.taken.get(&use_key).copied().unwrap_or(0);
        let available = limit.0.saturating_sub(counted.committed().saturating_add(taken));
        if available == 0 {
            return Err(held);
        }
        // So that no node empties the rest alone: about a quarter of what is left, shared by those who hold some.
        let cap = (available / (4 * self.holders(rule.scope, node))).max(1);
        let units = want.0.clamp(1, cap);
        Ok(Share {
            meter,
            units: Quantity(units),
            left: Quantity(available - units),
            limit,
            period,
        })
    }

    fn unlimited_leases(&self, rule: &QuotaRule) -> u32 {
        let here = self.open.get(&rule.scope).map_or(0, |count| count.unlimited(&rule.meter));
        here + self
            .state
            .open_leases
            .get(&rule.scope)
            .map_or(0, |count| count.unlimited(&rule.meter))
    }

    fn holders(&self, scope: Scope, node: &NodeId) -> u64 {
        let none = OpenCount::default();
        self.state.open_leases.get(&scope).unwrap_or(&none).holders_with(node)
    }

    fn take(&mut self, scopes: Scopes, lease: &Lease) {
        for share in &lease.shares {
            for scope in scopes.all() {
                // Counters are kept at every scope, limited or not, in the period of the share.
                let key = UseKey { scope, meter: share.meter.clone(), period: share.period };
                *self.taken.entry(key).or_default() += share.units.0;
            }
        }
        for scope in scopes.all() {
            self.open.entry(scope).or_default().add(lease);
        }
        self.granted.push(lease.clone());
    }
}
