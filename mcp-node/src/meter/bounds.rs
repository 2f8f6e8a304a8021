//! Bounds on calls besides the key's own: of a tenant, of a connection, on this node.
//!
//! Nothing where none is set. What is at rest is forgotten: it is as one that never called. Invariant: what a call took
//! of each bound goes back once, when it ends. Absent on purpose: bounds over all nodes (a key's rate is one).

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
};

use mcp_node_core::{
    rate_limit::{Rate, TooFast},
    refusal::LimitScope,
};
use parking_lot::Mutex;
use schemas::{RateLimits, TenantId};

use super::MeterSettings;
use crate::keys::KeyEntry;

const STRIPES: usize = 16;

/// The bounds of a node.
pub struct Bounds {
    tenants: Option<Bound<TenantId>>,
    connections: Option<Bound<u64>>,
}

/// What one call has taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakenBounds {
    key: bool,
    tenant: Option<TenantId>,
    connection: Option<u64>,
}

impl Bounds {
    pub fn new(settings: &MeterSettings) -> Self {
        Self {
            tenants: settings.tenant.map(Bound::new),
            connections: settings.connection.map(Bound::new),
        }
    }

    /// Takes a call of each bound, or of none. `limits` = this node's share of the key's rate.
    ///
    /// # Errors
    /// The first bound that is met, and whose it is.
    pub fn take(
        &self,
        known: &KeyEntry,
        limits: Option<RateLimits>,
        (tenant, connection): (TenantId, u64),
        now_ms: u64,
    ) -> Result<TakenBounds, (TooFast, RateLimits, LimitScope)> {
        let mut taken = TakenBounds::default();
        if let Some(limits) = limits {
            let key = known.rate.lock().take(now_ms, limits);
            key.map_err(|why| (why, limits, LimitScope::Key))?;
            taken.key = true;
        }
        if let Err((why, bound, whose)) = self.take_others(&mut taken, tenant, connection, now_ms) {
            if let Some(limits) = limits {
                known.rate.lock().give_back(limits);
            }
            if let (Some(tenants), Some(tenant)) = (&self.tenants, taken.tenant) {
                tenants.with(tenant, |rate| rate.give_back(tenants.limits));
            }
            return Err((why, bound, whose));
        }
        Ok(taken)
    }

    fn take_others(
        &self,
        taken: &mut TakenBounds,
        tenant: TenantId,
        connection: u64,
        now_ms: u64,
    ) -> Result<(), (TooFast, RateLimits, LimitScope)> {
        if let Some(tenants) = &self.tenants {
            tenants
                .take(tenant, now_ms)
                .map_err(|why| (why, tenants.limits, LimitScope::Tenant))?;
            taken.tenant = Some(tenant);
        }
        // Nobody knows on which connection a call came that has the number 0.
        if let Some(connections) = self.connections.as_ref().filter(|_| connection != 0) {
            let limits = connections.limits;
            connections
                .take(connection, now_ms)
                .map_err(|why| (why, limits, LimitScope::Connection))?;
            taken.connection = Some(connection);
        }
        Ok(())
    }

    /// The call has ended.
    pub fn done(&self, known: &KeyEntry, taken: TakenBounds) {
        if taken.key {
            known.rate.lock().done();
        }
        if let (Some(tenants), Some(tenant)) = (&self.tenants, taken.tenant) {
            tenants.with(tenant, Rate::done);
        }
        if let (Some(connections), Some(connection)) = (&self.connections, taken.connection) {
            connections.with(connection, Rate::done);
        }
    }

    /// Forgets what is at rest.
    pub fn sweep(&self, now_ms: u64) {
        if let Some(tenants) = &self.tenants {
            tenants.sweep(now_ms);
        }
        if let Some(connections) = &self.connections {
            connections.sweep(now_ms);
        }
    }
}

/// One kind of bound, for each that it holds for.
struct Bound<K> {
    limits: RateLimits,
    hasher: RandomState,
    stripes: [Mutex<HashMap<K, Rate>>; STRIPES],
}

impl<K: Copy + Eq + Hash> Bound<K> {
    fn new(limits: RateLimits) -> Self {
        let stripes = std::array::from_fn(|_| Mutex::default());
        Self { limits, hasher: RandomState::new(), stripes }
    }

    fn with<T>(&self, whose: K, act: impl FnOnce(&mut Rate) -> T) -> T {
        let place = self.hasher.hash_one(whose) % STRIPES as u64;
        let stripe = &self.stripes[usize::try_from(place).expect("one of sixteen")];
        act(stripe.lock().entry(whose).or_default())
    }

    fn take(&self, whose: K, now_ms: u64) -> Result<(), TooFast> {
        self.with(whose, |rate| rate.take(now_ms, self.limits))
    }

    fn sweep(&self, now_ms: u64) {
        for stripe in &self.stripes {
            stripe.lock().retain(|_, rate| !rate.is_idle(now_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_rest_is_forgotten_and_what_runs_is_not() {
        let bound = Bound::new(RateLimits { per_minute: 60, burst: 2, concurrent: None });
        let known = || bound.stripes.iter().map(|stripe| stripe.lock().len()).sum::<usize>();
        for connection in 1..=100u64 {
            bound.take(connection, 0).unwrap();
        }
        (1..=99).for_each(|connection| bound.with(connection, Rate::done));
        bound.sweep(999);
        assert_eq!(known(), 100, "what was taken is not paid back yet");
        bound.sweep(1_000);
        assert_eq!(known(), 1, "one still runs");
    }
}
