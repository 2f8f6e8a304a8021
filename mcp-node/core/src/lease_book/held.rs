//! One lease in the node's hands.
//!
//! Invariant: `spent + in_flight + left = units` for a limited lease; it is done with exactly once, when nothing
//! is in flight and nothing more will be taken.

use std::collections::BTreeMap;

use schemas::{Lease, LeaseId, MeterName, Quantity, TOOL_CALLS, Timestamp};

use super::{Hint, Unit};
use crate::Now;

/// A lease that was granted and is not closed.
#[derive(Debug)]
pub(super) struct Held {
    pub lease: LeaseId,
    granted_at: Timestamp,
    expires_at: Timestamp,
    /// When it came, and when it ends, by the node's own clock. Unit: milliseconds.
    pub granted_ms: u64,
    end_ms: u64,
    ttl_ms: u64,
    limit: Option<Limit>,
    in_flight: u64,
    spent: u64,
    /// Nothing more is taken from it.
    pub closing: bool,
    /// Every meter that it limits: its closing names them all.
    meters: Vec<MeterName>,
}

/// What a limited lease may still spend.
#[derive(Debug)]
struct Limit {
    units: u64,
    left: u64,
    hint: Hint,
}

impl Held {
    /// Takes a granted lease; `asked_ms` is when it was first asked for, and its time runs from there.
    pub fn of(lease: &Lease, asked_ms: u64, now: Now) -> Self {
        let ttl_ms = u64::try_from(lease.ttl_ms()).unwrap_or(0);
        let share = lease.shares.iter().find(|share| share.meter.as_str() == TOOL_CALLS);
        Self {
            lease: lease.lease,
            granted_at: lease.granted_at,
            expires_at: lease.expires_at,
            granted_ms: now.mono_ms,
            end_ms: asked_ms.saturating_add(ttl_ms),
            ttl_ms,
            limit: share.map(|share| Limit {
                units: share.units.0,
                left: share.units.0,
                hint: Hint { remaining: share.left.0, limit: share.limit.0, period: share.period },
            }),
            in_flight: 0,
            spent: 0,
            closing: false,
            meters: lease.shares.iter().map(|share| share.meter.clone()).collect(),
        }
    }

    pub fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Units that can still be taken; `None` = as many as are wanted.
    pub fn left(&self) -> Option<u64> {
        self.limit.as_ref().map(|limit| limit.left)
    }

    pub fn hint(&self) -> Option<Hint> {
        self.limit.as_ref().map(|limit| limit.hint)
    }

    pub fn can_spend(&self, now: Now) -> bool {
        !self.closing && now.mono_ms < self.end_ms && self.left() != Some(0)
    }

    pub fn has_ended(&self, now: Now) -> bool {
        now.mono_ms >= self.end_ms
    }

    /// Takes one unit if there is one to take.
    pub fn take(&mut self, now: Now) -> Option<Unit> {
        if !self.can_spend(now) {
            return None;
        }
        if let Some(limit) = &mut self.limit {
            limit.left -= 1; // Not 0: `can_spend` has looked.
        }
        self.in_flight += 1;
        let hint = self.hint();
        Some(Unit {
            lease: self.lease,
            granted_at: self.granted_at,
            expires_at: self.expires_at,
            hint,
        })
    }

    /// A unit came back: spent, or as if it had never been taken.
    pub fn settle(&mut self, spent: bool) {
        self.in_flight -= 1; // Each taken unit settles once: `Unit` is given away by value.
        if spent {
            self.spent += 1;
        } else if let Some(limit) = &mut self.limit {
            limit.left += 1;
        }
    }

    /// Whether nothing more can happen to it.
    pub fn is_done(&self) -> bool {
        self.in_flight == 0 && (self.closing || self.left() == Some(0))
    }

    /// Whether it is time to ask for the next: somewhat under half of the units or of the time is left. The lease's
    /// own random id spreads the moment between 3/8 and 1/2, so that many nodes and keys do not ask in step.
    pub fn is_half_used(&self, now: Now) -> bool {
        let share = 96 + u64::from(self.lease.0.as_bytes()[15]) / 8;
        let low = |left: u64, whole: u64| left <= whole / 256 * share + whole % 256 * share / 256;
        low(self.end_ms.saturating_sub(now.mono_ms), self.ttl_ms)
            || self.limit.as_ref().is_some_and(|limit| low(limit.left, limit.units))
    }

    /// What its closing says was spent, of each meter that it limits.
    pub fn spent(&self) -> BTreeMap<MeterName, Quantity> {
        let spent = |meter: &MeterName| if meter.as_str() == TOOL_CALLS { self.spent } else { 0 };
        self.meters.iter().map(|meter| (meter.clone(), Quantity(spent(meter)))).collect()
    }
}
