//! Decides leases: at every scope and every hard quota, `consumed + outstanding + granted <= limit`.
//!
//! Usage under a lease that is not folded yet changes nothing in that sum (it moves units from outstanding to
//! consumed), so it is safe to grant while usage lags, as long as every grant and settlement is folded; the
//! shell makes sure of that by writing with the expected sequence of the ledger's own subject.

use schemas::{
    Epoch, Lease, LeaseAsk, LeaseId, LeaseRefusal, LedgerFact, NodeId, Period, Quantity, QuotaRule,
    RateLimits, Reserve, Scope, Share, Timestamp,
};

use crate::{
    key::KeyRow,
    lease::OpenLease,
    map::Map,
    quota::{Scopes, UseKey},
    rate::Demand,
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

/// Who asks, and for what.
#[derive(Clone, Copy)]
struct Asker<'a> {
    node: &'a NodeId,
    epoch: Epoch,
    ask: &'a LeaseAsk,
}

impl Asker<'_> {
    /// Whether it holds this lease itself, to be spent in `period`.
    fn holds(&self, lease: &Lease, period: Period) -> bool {
        lease.node == *self.node
            && lease.epoch == self.epoch
            && lease.key == self.ask.key
            && lease.granted_at >= period.from
    }
}

/// Decides the asks of one batch on one state; what it granted counts for the asks after it.
pub struct Granting<'a> {
    state: &'a ShardState,
    demand: &'a mut Demand,
    now: Timestamp,
    policy: Policy,
    granted: Vec<Lease>,
    by_id: Map<LeaseId, usize>,
    taken: Map<UseKey, u64>,
    open: Map<Scope, OpenCount>,
}

impl<'a> Granting<'a> {
    /// Begins a batch at `now`, which never lies before the ledger's own time.
    #[must_use]
    pub fn new(
        state: &'a ShardState,
        demand: &'a mut Demand,
        now: Timestamp,
        policy: Policy,
    ) -> Self {
        let now = now.max(state.at);
        let (granted, by_id) = (Vec::new(), Map::default());
        let (taken, open) = (Map::default(), Map::default());
        Self { state, demand, now, policy, granted, by_id, taken, open }
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
        let rate = self.rate(node, ask, key.rate)?;
        let (shares, expires_at) = self.shares(Asker { node, epoch, ask }, scopes, key)?;
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
            rate,
            notices: self.state.notices(scopes, self.now),
        };
        self.take(scopes, &lease);
        Ok(lease)
    }

    fn known(&self, id: LeaseId) -> Option<&Lease> {
        let open = self.state.leases.get(&id).map(|open| &open.lease);
        open.or_else(|| self.granted.get(*self.by_id.get(&id)?))
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

    /// This node's share of the key's rate.
    fn rate(
        &mut self,
        node: &NodeId,
        ask: &LeaseAsk,
        whole: Option<RateLimits>,
    ) -> Result<Option<RateLimits>, LeaseRefusal> {
        let Some(whole) = whole else { return Ok(None) };
        let wanting = self.demand.note(ask.key, node, self.now);
        let mut out = self
            .state
            .open_leases
            .get(&Scope::Key(ask.key))
            .map(|open| open.rates.clone())
            .unwrap_or_default();
        for lease in self.granted.iter().filter(|lease| lease.key == ask.key) {
            if let Some(rate) = lease.rate {
                out.add(&lease.node, lease.lease, rate);
            }
        }
        let share = out.share(whole, node, wanting);
        share.map(Some).ok_or(LeaseRefusal::RateHeld { retry_ms: self.policy.held_retry_ms })
    }

    /// What each limited meter gets, and until when.
    fn shares(
        &self,
        asker: Asker<'_>,
        scopes: Scopes,
        key: &KeyRow,
    ) -> Result<(Vec<Share>, Timestamp), LeaseRefusal> {
        let mut end = self.now.plus_ms(self.policy.ttl_ms);
        end = key.expires_at.map_or(end, |expiry| end.min(expiry));
        let mut shares: Vec<Share> = Vec::new();
        for rule in self.state.quotas.hard(scopes) {
            let period = self.period(scopes, rule.period)?;
            let share = self.share(asker, scopes, rule, period)?;
            match shares.iter_mut().find(|other| other.meter == share.meter) {
                // The narrowest share counts; the tightest quota is the one to tell of.
                Some(other) => {
                    let units = other.units.at_most(share.units);
                    if unused(&share) < unused(other) {
                        *other = share;
                    }
                    other.units = units;
                }
                None => shares.push(share),
            }
        }
        if !shares.is_empty() {
            // Its units are held in one period of each rule that is counted: it must not outlive any of them.
            for (rule, _) in self.state.rules(scopes.tenant) {
                end = end.min(self.period(scopes, rule)?.to);
            }
        }
        shares.sort_by(|a, b| a.meter.cmp(&b.meter));
        Ok((shares, end))
    }

    /// The running period of a rule; past the calendar's end nothing can be granted.
    fn period(&self, scopes: Scopes, rule: schemas::PeriodRule) -> Result<Period, LeaseRefusal> {
        self.state.period(scopes.tenant, rule, self.now).ok_or(LeaseRefusal::KeyNotActive)
    }

    /// What one quota allows this lease.
    fn share(
        &self,
        asker: Asker<'_>,
        scopes: Scopes,
        rule: &QuotaRule,
        period: Period,
    ) -> Result<Share, LeaseRefusal> {
        let use_key =
            UseKey { scope: rule.scope, meter: rule.meter.clone(), rule: rule.period, period };
        let (meter, scope, limit, retry_ms) =
            (rule.meter.clone(), rule.scope, rule.limit, self.policy.held_retry_ms);
        let Reserve { per_call, want } = wanted(asker.ask, rule);
        let counted = self.state.counter(&use_key);
        if limit.0.saturating_sub(counted.consumed) < per_call.0 {
            return Err(LeaseRefusal::QuotaExhausted { meter, scope, limit, period });
        }
        let held = LeaseRefusal::UnitsHeld { meter: meter.clone(), scope, limit, period, retry_ms };
        if self.has_unbounded_leases(scopes, rule) {
            return Err(held); // Granted before this quota was set: what they spend is not bounded yet.
        }
        let taken = self.taken.get(&use_key).copied().unwrap_or(0);
        let available = limit.0.saturating_sub(counted.committed().saturating_add(taken));
        if available < per_call.0 {
            return Err(held);
        }
        // So that no node empties the rest alone: about a quarter of what is left, shared by those who hold some.
        let cap = (available / (4 * self.holders(rule.scope, asker.node))).max(per_call.0);
        let units = want.0.max(per_call.0).min(cap);
        let outstanding = counted.outstanding.saturating_add(taken);
        Ok(Share {
            meter,
            units: Quantity(units),
            left: Quantity(available - units),
            held: Some(Quantity(self.held_by_others(asker, rule, period, outstanding))),
            limit,
            period,
        })
    }

    /// Of what a quota has `outstanding`, the part that other keys and nodes hold: what they do not spend is free again.
    fn held_by_others(
        &self,
        asker: Asker<'_>,
        rule: &QuotaRule,
        period: Period,
        outstanding: u64,
    ) -> u64 {
        let is_own = |lease: &Lease| asker.holds(lease, period);
        let of_key = self.state.open_leases.get(&Scope::Key(asker.ask.key));
        let stored = of_key.into_iter().flat_map(|open| &open.granted);
        let stored = stored.filter_map(|(_, lease)| self.state.leases.get(lease));
        let stored = stored.filter(|open| is_own(&open.lease)).flat_map(OpenLease::unspent);
        let stored = stored.filter(|(meter, _)| **meter == rule.meter).map(|(_, units)| units);
        let here = self.granted.iter().filter(|lease| is_own(lease));
        let here = here.filter_map(|lease| lease.share(&rule.meter)).map(|units| units.0);
        outstanding.saturating_sub(stored.chain(here).fold(0, u64::saturating_add))
    }

    /// Whether a lease is open under the quota's scope that does not know of it: it has no share of the meter, or
    /// was granted before the quota's rule was counted at all.
    fn has_unbounded_leases(&self, scopes: Scopes, rule: &QuotaRule) -> bool {
        let since = self.state.counted_since(scopes.tenant, rule.period);
        let stored = self.state.open_leases.get(&rule.scope);
        self.unlimited_leases(rule) > 0 || stored.is_some_and(|open| open.has_older_than(since))
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
                // Counters are kept at every scope, limited or not, by every rule of the tenant.
                for (rule, _) in self.state.rules(scopes.tenant) {
                    let Some(period) = self.state.period(scopes.tenant, rule, self.now) else {
                        continue;
                    };
                    let key = UseKey { scope, meter: share.meter.clone(), rule, period };
                    *self.taken.entry(key).or_default() += share.units.0;
                }
            }
        }
        for scope in scopes.all() {
            self.open.entry(scope).or_default().add(lease, None);
        }
        self.by_id.insert(lease.lease, self.granted.len());
        self.granted.push(lease.clone());
    }
}

/// What nobody has spent of the quota of a share, besides the share itself.
fn unused(share: &Share) -> u64 {
    share.left.0.saturating_add(share.held.map_or(0, |held| held.0))
}

/// What the ask reserves of the quota's meter: a call takes one unit of `tool_calls` unless it says otherwise, and of
/// a meter that it does not name it is taken to need as many.
fn wanted(ask: &LeaseAsk, rule: &QuotaRule) -> Reserve {
    let one = Reserve { per_call: Quantity(1), want: ask.want };
    let Reserve { per_call, want } = ask.reserve.get(&rule.meter).copied().unwrap_or(one);
    Reserve { per_call: Quantity(per_call.0.max(1)), want }
}
