//! One lease in the node's hands.
//!
//! Invariant, for each meter that it limits: `spent + taken by calls in flight + left = units`. It is done with
//! exactly once, when nothing is in flight and nothing more will be taken.

use std::{collections::BTreeMap, sync::Arc};

use schemas::{Lease, LeaseId, MeterName, Notice, Quantity, RateLimits, TOOL_CALLS, Timestamp};

use super::{
    Unit,
    need::{MeterDemand, Needs},
};
use crate::Now;

/// A lease that was granted and is not closed.
#[derive(Debug)]
pub(super) struct HeldLease {
    pub lease: LeaseId,
    granted_at: Timestamp,
    expires_at: Timestamp,
    /// When it came, and when it ends, by the node's own clock. Unit: milliseconds.
    pub granted_ms: u64,
    end_ms: u64,
    ttl_ms: u64,
    /// One a meter that it limits.
    limits: Vec<Limit>,
    pub rate: Option<RateLimits>,
    pub notices: Option<Arc<[Notice]>>,
    pub in_flight: u64,
    /// Nothing more is taken from it.
    pub closing: bool,
}

/// What may still be spent of one meter.
#[derive(Debug)]
struct Limit {
    meter: MeterName,
    units: u64,
    left: u64,
    spent: u64,
}

impl HeldLease {
    /// Takes a granted lease; `asked_ms` is when it was first asked for, and its time runs from there.
    pub fn of(lease: &Lease, asked_ms: u64, now: Now) -> Self {
        let ttl_ms = u64::try_from(lease.ttl_ms()).unwrap_or(0);
        let limits = lease.shares.iter().map(|share| Limit {
            meter: share.meter.clone(),
            units: share.units.0,
            left: share.units.0,
            spent: 0,
        });
        Self {
            lease: lease.lease,
            granted_at: lease.granted_at,
            expires_at: lease.expires_at,
            granted_ms: now.mono_ms,
            end_ms: asked_ms.saturating_add(ttl_ms),
            ttl_ms,
            limits: limits.collect(),
            rate: lease.rate,
            notices: (!lease.notices.is_empty()).then(|| lease.notices.clone().into()),
            in_flight: 0,
            closing: false,
        }
    }

    /// Whether it holds something that another node may want.
    pub fn is_shared(&self) -> bool {
        !self.limits.is_empty() || self.rate.is_some()
    }

    fn of_calls(&self) -> Option<&Limit> {
        self.limits.iter().find(|limit| limit.meter.as_str() == TOOL_CALLS)
    }

    /// Units of `tool_calls` that can still be taken; `None` = as many as are wanted.
    pub fn left(&self) -> Option<u64> {
        self.of_calls().map(|limit| limit.left)
    }

    /// Whether it holds units of any meter that nobody has taken.
    pub fn has_left(&self) -> bool {
        self.limits.iter().any(|limit| limit.left > 0)
    }

    /// Units of a meter that can still be taken; 0 = it has none, or does not limit it.
    pub fn left_of(&self, meter: &MeterName) -> u64 {
        self.limits.iter().find(|limit| limit.meter == *meter).map_or(0, |limit| limit.left)
    }

    /// Whether what is left of every meter is enough for such a call.
    pub fn fits(&self, needs: &[MeterDemand]) -> bool {
        let left = |need: &MeterDemand| self.limits.iter().find(|limit| limit.meter == need.meter);
        needs.iter().all(|need| left(need).is_none_or(|limit| need.units <= limit.left))
    }

    /// Whether such a call can never be served from it: nothing that is in flight may come back.
    pub fn is_too_small(&self, needs: &[MeterDemand]) -> bool {
        self.in_flight == 0 && !self.fits(needs)
    }

    pub fn can_spend(&self, now: Now, needs: &[MeterDemand]) -> bool {
        !self.closing && now.mono_ms < self.end_ms && self.fits(needs)
    }

    /// Whether there is as much as one unit of every meter that it limits.
    pub fn can_serve(&self, now: Now) -> bool {
        self.can_spend(now, &[]) && self.limits.iter().all(|limit| limit.left > 0)
    }

    pub fn has_ended(&self, now: Now) -> bool {
        now.mono_ms >= self.end_ms
    }

    /// Takes what one call needs if there is as much to take.
    pub fn take(&mut self, now: Now, needs: &Needs) -> Option<Unit> {
        if !self.can_spend(now, needs) {
            return None;
        }
        for need in needs.iter() {
            if let Some(limit) = self.limits.iter_mut().find(|limit| limit.meter == need.meter) {
                limit.left -= need.units; // `can_spend` has looked.
            }
        }
        self.in_flight += 1;
        Some(Unit {
            lease: self.lease,
            granted_at: self.granted_at,
            expires_at: self.expires_at,
            needs: needs.clone(),
            more: Vec::new(),
            hint: None,
            others: Vec::new(),
            notices: None,
        })
    }

    /// See [`super::LeaseBook::cover`].
    pub fn cover(
        &mut self,
        needs: &[MeterDemand],
        more: &mut Vec<(usize, u64)>,
        counted: &mut BTreeMap<MeterName, Quantity>,
    ) -> u64 {
        let mut struck = 0u64;
        for (place, need) in needs.iter().enumerate() {
            let limit = self.limits.iter_mut().find(|limit| limit.meter == need.meter);
            let (Some(limit), Some(units)) = (limit, counted.get_mut(&need.meter)) else {
                continue;
            };
            let beyond = units.0.saturating_sub(need.units);
            if beyond == 0 {
                continue;
            }
            let taken = beyond.min(limit.left);
            limit.left -= taken;
            more.push((place, taken));
            units.0 = need.units + taken;
            struck = struck.saturating_add(beyond - taken);
        }
        struck
    }

    /// What was taken for a call came back: what it counted for is spent, the rest is as if it had never been taken.
    pub fn settle(
        &mut self,
        needs: &[MeterDemand],
        more: &[(usize, u64)],
        counted: &BTreeMap<MeterName, Quantity>,
    ) {
        self.in_flight -= 1; // Each taken unit settles once: `Unit` is given away by value.
        for (place, need) in needs.iter().enumerate() {
            if let Some(limit) = self.limits.iter_mut().find(|limit| limit.meter == need.meter) {
                let beyond = more.iter().filter(|(of, _)| *of == place).map(|(_, units)| units);
                let taken = need.units + beyond.sum::<u64>();
                let spent = counted.get(&need.meter).map_or(0, |units| units.0.min(taken));
                limit.spent += spent;
                limit.left += taken - spent;
            }
        }
    }

    /// Whether nothing more can happen to it.
    pub fn is_done(&self) -> bool {
        self.in_flight == 0 && (self.closing || self.limits.iter().any(|limit| limit.left == 0))
    }

    /// Whether it is time to ask for the next: somewhat under half of the units or of the time is left. The lease's
    /// own random id spreads the moment between 3/8 and 1/2, so that many nodes and keys do not ask in step.
    pub fn is_half_used(&self, now: Now) -> bool {
        let share = 96 + u64::from(self.lease.0.as_bytes()[15]) / 8;
        let low = |left: u64, whole: u64| left <= whole / 256 * share + whole % 256 * share / 256;
        low(self.end_ms.saturating_sub(now.mono_ms), self.ttl_ms)
            || self.limits.iter().any(|limit| low(limit.left, limit.units))
    }

    /// What its closing says was spent, of each meter that it limits.
    pub fn spent(&self) -> BTreeMap<MeterName, Quantity> {
        let spent = |limit: &Limit| (limit.meter.clone(), Quantity(limit.spent));
        self.limits.iter().map(spent).collect()
    }
}
