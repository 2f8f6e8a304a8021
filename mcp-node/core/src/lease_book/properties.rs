//! Claims about one key's leases over any run of events, checked from outside the book.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    tests::{Bench, TTL_MS, at, exhausted, held, lease},
    *,
};

/// One thing that can happen, in any order.
#[derive(Clone, Debug)]
enum Step {
    Take,
    Settle { which: prop::sample::Index, spent: bool },
    Grant { units: Option<u64>, twice: bool },
    Refuse(LeaseRefusal),
    StrayGrant,
    Recall,
    Key { may_spend: bool, limited: bool, newer: bool },
    Tick,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let refusal = prop_oneof![
        Just(exhausted()),
        (1..500u32).prop_map(held),
        Just(LeaseRefusal::KeyNotActive),
        Just(LeaseRefusal::LeaseClosed)
    ];
    let step = prop_oneof![
        8 => Just(Step::Take),
        6 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, spent)| Step::Settle { which, spent }),
        4 => (proptest::option::weighted(0.8, 0..12u64), any::<bool>()).prop_map(|(units, twice)| Step::Grant { units, twice }),
        1 => refusal.prop_map(Step::Refuse),
        1 => Just(Step::StrayGrant),
        1 => Just(Step::Recall),
        1 => (prop::bool::weighted(0.8), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(may_spend, limited, newer)| Step::Key { may_spend, limited, newer }),
        2 => Just(Step::Tick),
        2 => prop_oneof![0..200u64, 0..2 * TTL_MS].prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

/// What the world outside the book knows of one lease.
#[derive(Debug)]
struct Told {
    units: Option<u64>,
    end_ms: u64,
    in_flight: u64,
    spent: u64,
    closed: bool,
}

/// The world around the book: what was asked, granted, taken, settled and closed.
struct World {
    bench: Bench,
    now: u64,
    as_of: u64,
    may_spend: bool,
    asked: Option<(LeaseId, u64)>,
    leases: BTreeMap<LeaseId, Told>,
    out: Vec<Unit>,
}

impl World {
    fn new() -> Self {
        let (asked, leases, out) = (None, BTreeMap::new(), vec![]);
        Self { bench: Bench::new(), now: 0, as_of: 1, may_spend: true, asked, leases, out }
    }

    fn act(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Take => self.take()?,
            Step::Settle { which, spent } if !self.out.is_empty() => {
                let unit = self.out.swap_remove(which.index(self.out.len()));
                self.settle(unit, spent);
            }
            Step::Grant { units, twice } => self.grant(units, twice),
            Step::Refuse(why) => {
                if let Some((lease, _)) = self.asked.take() {
                    self.bench.book.refused(at(self.now), lease, why, &mut self.bench.actions);
                }
            }
            Step::StrayGrant => self.bench.grant(self.now, 1 << 100, Some(50)),
            Step::Recall => self.bench.book.recalled(at(self.now), &mut self.bench.actions),
            Step::Key { may_spend, limited, newer } => {
                self.as_of += u64::from(newer);
                self.may_spend = may_spend;
                self.bench.book.key_changed(
                    may_spend,
                    limited,
                    self.as_of,
                    &mut self.bench.actions,
                );
            }
            Step::Tick => self.bench.book.tick(at(self.now), &mut self.bench.actions),
            Step::Wait(ms) => self.now += ms,
            Step::Settle { .. } => {}
        }
        self.look()
    }

    fn take(&mut self) -> Result<(), TestCaseError> {
        if let Take::Unit(unit) = self.bench.take(self.now) {
            let told = self.leases.get_mut(&unit.lease);
            let told = told
                .ok_or_else(|| TestCaseError::fail("a unit of a lease that was never granted"))?;
            told.in_flight += 1;
            prop_assert!(self.may_spend, "a key that may not spend has spent");
            prop_assert!(self.now < told.end_ms, "spent after its end: {:?}", told);
            prop_assert!(!told.closed, "spent after its closing: {:?}", told);
            prop_assert!(
                told.units.is_none_or(|units| told.spent + told.in_flight <= units),
                "overspent: {:?}",
                told
            );
            self.out.push(unit);
        }
        Ok(())
    }

    fn settle(&mut self, unit: Unit, spent: bool) {
        let told = self.leases.get_mut(&unit.lease).expect("taken from it");
        told.in_flight -= 1;
        told.spent += u64::from(spent);
        self.bench.settle(unit, spent);
    }

    fn grant(&mut self, units: Option<u64>, twice: bool) {
        let Some((id, first_ms)) = self.asked.take() else { return };
        let granted = lease(id.0.as_u128(), self.now, units);
        let told = Told { units, end_ms: first_ms + TTL_MS, in_flight: 0, spent: 0, closed: false };
        self.leases.insert(id, told);
        for _ in 0..=u8::from(twice) {
            self.bench.book.granted(at(self.now), &granted, &mut self.bench.actions);
        }
    }

    fn look(&mut self) -> Result<(), TestCaseError> {
        for action in self.bench.done() {
            match action {
                Action::Ask(ask) => {
                    prop_assert!(self.asked.is_none(), "two questions at a time");
                    prop_assert!(ask.want.0 >= 1);
                    self.asked = Some((ask.lease, self.now));
                }
                Action::Close { lease, spent } => {
                    let told = self.leases.get_mut(&lease).expect("closed what was granted");
                    prop_assert!(!std::mem::replace(&mut told.closed, true), "closed twice");
                    prop_assert_eq!(told.in_flight, 0, "closed with calls in flight");
                    let said = spent.get(&MeterName::tool_calls()).map(|spent| spent.0);
                    prop_assert_eq!(said, told.units.map(|_| told.spent), "what it says was spent");
                }
                Action::Stop => return Err(TestCaseError::fail("nobody ended the epoch")),
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Over any run of events: nothing is overspent, nothing is spent late, and every lease that was ever granted
    /// is closed exactly once with exactly what was spent of it.
    #[test]
    fn exact_over_any_run(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.act(step)?;
        }
        world.bench.book.close_all(&mut world.bench.actions);
        world.may_spend = false;
        world.grant(Some(5), false);
        world.look()?;
        for unit in std::mem::take(&mut world.out) {
            world.settle(unit, true);
            world.look()?;
        }
        prop_assert!(world.bench.book.is_idle());
        prop_assert!(world.leases.values().all(|told| told.closed), "a lease was lost: {:?}", world.leases);
    }
}
