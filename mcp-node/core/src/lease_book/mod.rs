//! The leases of one key in this node: what it may spend, what it asks for, what it closes.
//!
//! Invariants, each held by a property test: no lease spends more than it was granted, nor after its end (the
//! node's own clock, from when the lease was *first asked for*); every granted lease is closed exactly once,
//! when nothing of it is in flight, saying exactly what was spent; at most one question is open at a time.
//! Absent on purpose: waiting, sending and minting ids. The shell carries out the [`Action`]s and repeats an ask
//! until it is answered.

mod figures;
#[cfg(test)]
mod figures_properties;
mod held;
#[cfg(test)]
mod meter_properties;
#[cfg(test)]
mod meter_tests;
mod need;
mod pace;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use schemas::{
    KeyId, Lease, LeaseAsk, LeaseId, LeaseRefusal, MeterName, Notice, Period, Quantity, RateLimits,
    Reserve, Scope, TOOL_CALLS, Timestamp,
};

use self::{figures::Figures, held::HeldLease, pace::Pace};
use crate::Now;
pub use need::{MeterDemand, Needs, one_call, units_of};
pub use pace::{LEAST_WANT, MAX_WANT};

/// A recall leaves a lease that came less than this ago: the call that asked for it is about to take its unit.
/// Unit: milliseconds.
const RECALL_GRACE_MS: u64 = 100;
/// A refusal is believed for at least this long, whatever the clocks say. Unit: milliseconds.
const LEAST_REFUSAL_MS: u64 = 250;
/// How long "the key is not active" is believed; its state is pushed meanwhile. Unit: milliseconds.
const NOT_ACTIVE_MS: u64 = 1_000;

/// What one call may count for, taken from a lease. It goes back by [`LeaseBook::settle`], spent or not.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a unit that is not settled is never given back"]
pub struct Unit {
    pub lease: LeaseId,
    granted_at: Timestamp,
    expires_at: Timestamp,
    needs: Needs,
    /// What [`LeaseBook::cover`] took beyond the needs, each by its place among them.
    more: Vec<(usize, u64)>,
    /// What is left of the tightest quota, for people; `None` = unlimited.
    pub hint: Option<Hint>,
    /// The same of other meters that are limited.
    pub others: Vec<(MeterName, Hint)>,
    /// The quotas that near their limit, for people; `None` = none does.
    pub notices: Option<Arc<[Notice]>>,
}

impl Unit {
    /// The event's time: the wall clock's, within the lease.
    #[must_use]
    pub fn at(&self, wall: Timestamp) -> Timestamp {
        wall.min(self.expires_at.plus_ms(-1)).max(self.granted_at)
    }
}

/// What is left of the tightest quota, as far as this node knows: to be shown, not to decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    pub remaining: u64,
    /// More may be left: units may come back that `remaining` does not hold.
    pub at_least: bool,
    pub limit: u64,
    pub period: Period,
}

/// What came of the wish for a unit.
#[derive(Debug, PartialEq, Eq)]
pub enum Take {
    Unit(Unit),
    /// The ledger is being asked: try again when an answer came.
    Wait,
    /// There is none, and the ledger need not be asked before `retry_ms` from now.
    Refused {
        why: LeaseRefusal,
        retry_ms: u64,
    },
}

/// What the shell must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the ledger, and repeat the same question until it answers.
    Ask(LeaseAsk),
    /// Record that the lease is done with. Every event under it was recorded before.
    Close { lease: LeaseId, spent: BTreeMap<MeterName, Quantity> },
    /// The ledger holds this epoch for ended: the process must stop.
    Stop,
}

#[derive(Debug)]
struct Asking {
    lease: LeaseId,
    first_ms: u64,
    /// What the call needs that asked.
    needs: Needs,
}

/// A refusal that is still believed: until `mono_ms`, and until `wall` where there is one.
#[derive(Debug)]
struct Refused {
    why: LeaseRefusal,
    mono_ms: u64,
    wall: Option<Timestamp>,
    /// What the call needed that was refused.
    needs: Needs,
}

impl Refused {
    fn retry_ms(&self, now: Now) -> Option<u64> {
        let mono = self.mono_ms.saturating_sub(now.mono_ms);
        let wall = self.wall.map_or(0, |wall| u64::try_from(wall.ms_since(now.wall)).unwrap_or(0));
        Some(mono.max(wall)).filter(|ms| *ms > 0)
    }

    /// Whether it answers a call with these needs too: one that needs less of the meter may still be served.
    fn is_of(&self, needs: &[MeterDemand]) -> bool {
        let (LeaseRefusal::QuotaExhausted { meter, .. } | LeaseRefusal::UnitsHeld { meter, .. }) =
            &self.why
        else {
            return true;
        };
        units_of(needs, meter) >= units_of(&self.needs, meter)
    }
}

/// The leases of one key.
#[derive(Debug)]
pub struct LeaseBook {
    key: KeyId,
    may_spend: bool,
    limited: bool,
    as_of: u64,
    held: Vec<HeldLease>,
    asking: Option<Asking>,
    refused: Option<Refused>,
    pace: Pace,
    figures: Figures,
    /// The last moment that it was told, at most one tick ago. Unit: milliseconds.
    seen_ms: u64,
}

impl LeaseBook {
    /// An empty book. The other arguments are those of [`LeaseBook::key_changed`].
    #[must_use]
    pub fn new(key: KeyId, may_spend: bool, limited: bool, as_of: u64) -> Self {
        Self {
            key,
            may_spend,
            limited,
            as_of,
            held: Vec::new(),
            asking: None,
            refused: None,
            pace: Pace::default(),
            figures: Figures::default(),
            seen_ms: 0,
        }
    }

    /// Takes what one call needs; `mint` is called if a lease must be asked for.
    pub fn take(
        &mut self,
        now: Now,
        needs: &Needs,
        mint: impl FnOnce() -> LeaseId,
        actions: &mut Vec<Action>,
    ) -> Take {
        self.seen_ms = now.mono_ms;
        if !self.may_spend {
            return Take::Refused { why: LeaseRefusal::KeyNotActive, retry_ms: NOT_ACTIVE_MS };
        }
        let Some((place, unit)) = self.spend(now, needs) else {
            return self.do_without(now, needs, mint, actions);
        };
        self.pace.took_one(now.mono_ms);
        let next = self
            .held
            .iter()
            .enumerate()
            .any(|(other, held)| other != place && held.can_spend(now, needs));
        if !next
            && self.held[place].is_half_used(now)
            && self.standing_refusal(now, needs).is_none()
        {
            self.ask(now, needs, mint, actions);
        }
        Take::Unit(unit)
    }

    fn spend(&mut self, now: Now, needs: &Needs) -> Option<(usize, Unit)> {
        let (place, mut unit) = self
            .held
            .iter_mut()
            .enumerate()
            .find_map(|(place, held)| Some((place, held.take(now, needs)?)))?;
        for (meter, hint) in self.figures.hints(&self.held) {
            if meter.as_str() == TOOL_CALLS {
                unit.hint = Some(hint);
            } else {
                unit.others.push((meter.clone(), hint));
            }
        }
        unit.notices = self.held.last().and_then(|held| held.notices.clone());
        Some((place, unit))
    }

    fn do_without(
        &mut self,
        now: Now,
        needs: &Needs,
        mint: impl FnOnce() -> LeaseId,
        actions: &mut Vec<Action>,
    ) -> Take {
        if self.standing_refusal(now, needs).is_none() {
            // What is too little for this call goes back, or it would be missing where the next lease is cut.
            self.held.iter_mut().for_each(|held| held.closing |= held.is_too_small(needs));
        }
        self.tick(now, actions);
        if self.asking.is_some() {
            return Take::Wait;
        }
        if let Some((why, retry_ms)) = self.standing_refusal(now, needs) {
            return Take::Refused { why: why.clone(), retry_ms };
        }
        self.ask(now, needs, mint, actions);
        Take::Wait
    }

    fn standing_refusal(&self, now: Now, needs: &[MeterDemand]) -> Option<(&LeaseRefusal, u64)> {
        let refused = self.refused.as_ref().filter(|refused| refused.is_of(needs))?;
        Some((&refused.why, refused.retry_ms(now)?))
    }

    fn ask(
        &mut self,
        now: Now,
        needs: &Needs,
        mint: impl FnOnce() -> LeaseId,
        actions: &mut Vec<Action>,
    ) {
        if self.asking.is_some() {
            return;
        }
        let lease = mint();
        self.asking = Some(Asking { lease, first_ms: now.mono_ms, needs: needs.clone() });
        let calls = self.pace.want(now.mono_ms);
        let reserve =
            needs.iter().filter(|need| need.units > 1 || need.meter.as_str() != TOOL_CALLS);
        let reserve = reserve.map(|need| {
            let (per_call, want) = (need.units, need.units.saturating_mul(calls));
            (need.meter.clone(), Reserve { per_call: Quantity(per_call), want: Quantity(want) })
        });
        let (key, want, reserve) = (self.key, Quantity(calls), reserve.collect());
        actions.push(Action::Ask(LeaseAsk { lease, key, want, reserve }));
    }

    /// Fits what a call measured to what may be charged for it: beyond what it took for a limited meter, as much as
    /// its lease still has is taken too, and what is beyond that is struck from `counted`. Returns the units struck.
    ///
    /// To be called before the call is recorded: what is recorded is what the lease bears, so no quota is overshot.
    pub fn cover(&mut self, unit: &mut Unit, counted: &mut BTreeMap<MeterName, Quantity>) -> u64 {
        let held = self.held.iter_mut().find(|held| held.lease == unit.lease);
        held.map_or(0, |held| held.cover(&unit.needs, &mut unit.more, counted))
    }

    /// The call of a unit has ended, and counts for so much of each meter (never for more than it took); the rest of
    /// what it took is free again.
    ///
    /// What the call recorded must be recorded before: this may close the lease.
    #[expect(clippy::needless_pass_by_value, reason = "a unit is given away, so it settles once")]
    pub fn settle(
        &mut self,
        unit: Unit,
        counted: &BTreeMap<MeterName, Quantity>,
        actions: &mut Vec<Action>,
    ) {
        let place = self.held.iter().position(|held| held.lease == unit.lease);
        let held =
            &mut self.held[place.expect("a lease stays in the book while a unit of it is out")];
        held.settle(&unit.needs, &unit.more, counted);
        self.sweep(actions);
    }

    /// The ledger granted a lease; one that was not asked for is ignored.
    pub fn granted(&mut self, now: Now, lease: &Lease, actions: &mut Vec<Action>) {
        let Some(asking) = self.asking.take_if(|asking| asking.lease == lease.lease) else {
            return;
        };
        // What was refused to a call that needs more than the one that asked is refused still.
        self.refused.take_if(|refused| refused.is_of(&asking.needs));
        self.seen_ms = now.mono_ms;
        self.pace.granted(u64::try_from(lease.ttl_ms()).unwrap_or(0));
        self.figures.granted(lease, asking.first_ms);
        let mut held = HeldLease::of(lease, asking.first_ms, now);
        held.closing = !self.may_spend || held.has_ended(now);
        if held.left() == Some(0) {
            self.refused = Some(nothing_granted(lease, now, asking.needs));
        }
        self.held.push(held);
        self.sweep(actions);
    }

    /// The ledger refused; the answer to another question is ignored.
    pub fn refused(
        &mut self,
        now: Now,
        lease: LeaseId,
        why: LeaseRefusal,
        actions: &mut Vec<Action>,
    ) {
        let Some(asking) = self.asking.take_if(|asking| asking.lease == lease) else { return };
        let (for_ms, wall) = match &why {
            LeaseRefusal::QuotaExhausted { period, .. } => (0, Some(period.to)),
            LeaseRefusal::UnitsHeld { retry_ms, .. } | LeaseRefusal::RateHeld { retry_ms } => {
                (u64::from(*retry_ms).max(1), None)
            }
            LeaseRefusal::KeyNotActive => (NOT_ACTIVE_MS, None),
            LeaseRefusal::EpochEnded => {
                actions.push(Action::Stop);
                (NOT_ACTIVE_MS, None)
            }
            LeaseRefusal::LeaseClosed => return, // The next call asks with a new id.
        };
        let least = if wall.is_some() { LEAST_REFUSAL_MS } else { for_ms };
        let (mono_ms, needs) = (now.mono_ms.saturating_add(least), asking.needs);
        self.refused = Some(Refused { why, mono_ms, wall, needs });
    }

    /// The ledger wants back what can be spared: all that is left of every lease with units or a rate but the newest-born.
    pub fn recalled(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.seen_ms = now.mono_ms;
        for held in &mut self.held {
            held.closing |=
                held.is_shared() && now.mono_ms >= held.granted_ms.saturating_add(RECALL_GRACE_MS);
        }
        self.sweep(actions);
    }

    /// The key's state changed. `may_spend` = it is active; `limited` = hard quotas limit it; of two changes the
    /// one with the higher `as_of` holds.
    pub fn key_changed(
        &mut self,
        may_spend: bool,
        limited: bool,
        as_of: u64,
        actions: &mut Vec<Action>,
    ) {
        if as_of < self.as_of {
            return;
        }
        // What was leased under the old state goes back: a lower quota or rate holds at once, not when leases end.
        if as_of > self.as_of || !may_spend || limited != self.limited {
            self.held.iter_mut().for_each(|held| held.closing = true);
        }
        if as_of > self.as_of {
            self.refused = None;
        }
        (self.may_spend, self.limited, self.as_of) = (may_spend, limited, as_of);
        self.sweep(actions);
    }

    /// Time has passed: what has ended is spent no more.
    pub fn tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.seen_ms = now.mono_ms;
        self.held
            .iter_mut()
            .filter(|held| held.has_ended(now))
            .for_each(|held| held.closing = true);
        self.sweep(actions);
    }

    /// The node stops: nothing is taken any more, every lease closes as its calls end.
    pub fn close_all(&mut self, actions: &mut Vec<Action>) {
        self.may_spend = false;
        self.held.iter_mut().for_each(|held| held.closing = true);
        self.sweep(actions);
    }

    /// This node's share of the key's rate, by the newest lease; `None` = the key has none.
    #[must_use]
    pub fn rate(&self) -> Option<RateLimits> {
        self.held.last()?.rate
    }

    /// The quotas that near their limit, as the newest lease has it.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        self.held.last().and_then(|held| held.notices.as_deref()).unwrap_or_default()
    }

    /// Whether a call that needs one unit of each meter could be served from a lease in hand.
    #[must_use]
    pub fn can_serve(&self, now: Now) -> bool {
        self.may_spend && self.held.iter().any(|held| held.can_serve(now))
    }

    /// Whether there is nothing here that time could change: no lease, no question.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.asking.is_none()
    }

    /// Drops the leases that are done with.
    fn sweep(&mut self, actions: &mut Vec<Action>) {
        for held in self.held.extract_if(.., |held| held.is_done()) {
            if held.has_left() {
                self.figures.returned(self.seen_ms);
            }
            actions.push(Action::Close { lease: held.lease, spent: held.spent() });
        }
    }
}

/// A grant of nothing is a refusal: without one, every call would ask again at once.
fn nothing_granted(lease: &Lease, now: Now, needs: Needs) -> Refused {
    let share = lease.shares.iter().find(|share| share.meter.as_str() == TOOL_CALLS);
    let share = share.expect("only a share of this meter limits its units");
    let why = LeaseRefusal::UnitsHeld {
        meter: share.meter.clone(),
        scope: Scope::Key(lease.key),
        limit: share.limit,
        period: share.period,
        retry_ms: 1_000,
    };
    Refused { why, mono_ms: now.mono_ms.saturating_add(1_000), wall: None, needs }
}
