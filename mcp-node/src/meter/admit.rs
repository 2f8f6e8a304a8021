//! One try to admit a call: the key's state, its behaviour, its leases, and every bound on calls, in this order.
//!
//! Invariant: a call that is refused has taken nothing. Nothing here waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mcp_node_core::{
    Now, Refusal, Take, Unit, gate, metering::Plan, rate_limit::TooFast, refusal::LimitScope,
};
use schemas::{KeyState, LeaseId, LeaseRefusal, RateLimits};
use uuid::Uuid;

use super::{Call, Permit, Shared, bounds::TakenBounds, rules::Rules};
use crate::keys::KeyEntry;

/// A refusal that may change: why, and after how long to try again (`None` = when something changes).
pub(super) type Waits = (Refusal, Option<Duration>);

impl Shared {
    pub(super) fn try_take(
        self: &Arc<Self>,
        known: &Arc<KeyEntry>,
        state: &Arc<KeyState>,
        call: Call<'_>,
        rules: &Arc<Rules>,
        plan: &Arc<Plan>,
    ) -> Result<Result<Permit, Waits>, Refusal> {
        let now = self.clock.now();
        self.check(known, state, call, rules, now)?;
        let mut actions = Vec::new();
        let (take, limits) = {
            let mut book = known.book.lock();
            let take = book.take(now, &plan.needs, || LeaseId(Uuid::now_v7()), &mut actions);
            (take, book.rate())
        };
        self.perform(known, actions);
        let unit = match take {
            Take::Unit(unit) => Some(unit),
            Take::Wait => return Ok(Err((Refusal::LedgerUnreachable, None))),
            // It takes nothing of any quota, so none that is spent can refuse it.
            Take::Refused { why, .. } if plan.needs.is_empty() && is_of_quota(&why) => None,
            Take::Refused { why, retry_ms } => {
                let refusal = Refusal::of_ledger(&why, retry_ms, &plan.needs, state.rate);
                return match why {
                    LeaseRefusal::UnitsHeld { .. }
                    | LeaseRefusal::RateHeld { .. }
                    | LeaseRefusal::KeyNotActive => {
                        Ok(Err((refusal, Some(Duration::from_millis(retry_ms)))))
                    }
                    _ => Err(refusal),
                };
            }
        };
        // Where no lease carries a share of the key's rate, all of it bounds this node.
        let limits = if unit.is_some() { limits } else { limits.or(state.rate) };
        match bounded(rules, known, state, call, limits, now) {
            Ok(taken) => {
                Ok(Ok(Permit::new(self, known, state, unit, call, now, rules, plan, taken)))
            }
            Err(refusal) => {
                self.give_back(known, unit);
                Err(refusal)
            }
        }
    }

    /// What refuses a call whatever its key holds.
    fn check(
        &self,
        known: &KeyEntry,
        state: &KeyState,
        call: Call<'_>,
        rules: &Rules,
        now: Now,
    ) -> Result<(), Refusal> {
        gate::check_key(state, now.wall)?;
        if !call.tool.is_empty() {
            gate::check_tool(state, call.tool)?;
        }
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refusal::Draining);
        }
        if let Some(refusal) = known.behaviour.shut_out(state, now, rules.settings.backoff) {
            return Err(refusal);
        }
        if self.spool.accepts() { Ok(()) } else { Err(Refusal::CannotRecord) }
    }

    /// A unit that was taken for nothing.
    fn give_back(self: &Arc<Self>, known: &Arc<KeyEntry>, unit: Option<Unit>) {
        let Some(unit) = unit else { return };
        let mut actions = Vec::new();
        known.book.lock().settle(unit, &BTreeMap::new(), &mut actions);
        self.perform(known, actions);
    }
}

/// Takes a call of every bound there is.
fn bounded(
    rules: &Rules,
    known: &KeyEntry,
    state: &KeyState,
    call: Call<'_>,
    limits: Option<RateLimits>,
    now: Now,
) -> Result<TakenBounds, Refusal> {
    let whose = (state.tenant, call.origin.connection);
    rules.bounds.take(known, limits, whose, now.mono_ms).map_err(|met| match met {
        (TooFast::Wait(wait_ms), here, LimitScope::Key) => {
            known.behaviour.too_fast(state, now, wait_ms, here, rules.settings.backoff)
        }
        (why, here, LimitScope::Key) => {
            Refusal::of_rate(why, here, state.rate.unwrap_or(here), LimitScope::Key)
        }
        (why, limits, whose) => Refusal::of_rate(why, limits, limits, whose),
    })
}

fn is_of_quota(why: &LeaseRefusal) -> bool {
    matches!(why, LeaseRefusal::QuotaExhausted { .. } | LeaseRefusal::UnitsHeld { .. })
}
