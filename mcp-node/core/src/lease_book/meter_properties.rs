//! Claims about leases of two meters over any run of calls, whatever they measure, checked from outside the book.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::Share;

use super::{
    tests::{Bench, at, lease},
    *,
};

/// One thing that can happen, in any order.
#[derive(Clone, Debug)]
enum Step {
    Take { weight: u64, reserve: u64 },
    Settle { which: prop::sample::Index, measured: u64, recorded: bool },
    Grant { calls: u64, tokens: u64 },
    Recall,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..4u64, 1..20u64).prop_map(|(weight, reserve)| Step::Take { weight, reserve }),
        6 => (any::<prop::sample::Index>(), 0..60u64, prop::bool::weighted(0.9))
            .prop_map(|(which, measured, recorded)| Step::Settle { which, measured, recorded }),
        4 => (0..12u64, 0..80u64).prop_map(|(calls, tokens)| Step::Grant { calls, tokens }),
        1 => Just(Step::Recall),
        1 => (0..60_000u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

/// What the world outside the book knows of one lease: of calls, and of tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    units: [u64; 2],
    reserved: [u64; 2],
    spent: [u64; 2],
    closed: bool,
}

impl Told {
    fn check(&self) -> Result<(), TestCaseError> {
        for meter in 0..2 {
            let held = self.spent[meter] + self.reserved[meter];
            prop_assert!(held <= self.units[meter], "overspent: {self:?}");
        }
        Ok(())
    }
}

struct World {
    bench: Bench,
    now: u64,
    asked: Option<LeaseId>,
    leases: BTreeMap<LeaseId, Told>,
    out: Vec<(Unit, [u64; 2])>,
}

fn name(meter: &str) -> MeterName {
    meter.parse().unwrap()
}

impl World {
    fn act(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Take { weight, reserve } => self.take([weight, reserve])?,
            Step::Settle { which, measured, recorded } if !self.out.is_empty() => {
                let (unit, needs) = self.out.swap_remove(which.index(self.out.len()));
                self.settle(unit, needs, measured, recorded)?;
            }
            Step::Grant { calls, tokens } => self.grant([calls, tokens]),
            Step::Recall => self.bench.book.recalled(at(self.now), &mut self.bench.actions),
            Step::Wait(ms) => self.now += ms,
            Step::Settle { .. } => {}
        }
        self.look()
    }

    fn take(&mut self, needs: [u64; 2]) -> Result<(), TestCaseError> {
        let need = |meter, units| MeterDemand { meter: name(meter), units };
        self.bench.needs = [need("tool_calls", needs[0]), need("tokens", needs[1])].into();
        if let Take::Unit(unit) = self.bench.take(self.now) {
            let told = self.leases.get_mut(&unit.lease).expect("a lease that was granted");
            prop_assert!(!told.closed);
            (0..2).for_each(|meter| told.reserved[meter] += needs[meter]);
            told.check()?;
            self.out.push((unit, needs));
        }
        Ok(())
    }

    fn settle(
        &mut self,
        mut unit: Unit,
        needs: [u64; 2],
        measured: u64,
        recorded: bool,
    ) -> Result<(), TestCaseError> {
        let counted = [(name("tool_calls"), needs[0]), (name("tokens"), measured)];
        let mut counted: BTreeMap<_, _> =
            counted.into_iter().map(|(meter, units)| (meter, Quantity(units))).collect();
        let struck = self.bench.book.cover(&mut unit, &mut counted);
        let charged = counted[&name("tokens")].0;
        prop_assert_eq!(charged + struck, measured, "what is not charged is told");
        prop_assert!(charged >= measured.min(needs[1]), "its own reserve is always there for it");
        let told = self.leases.get_mut(&unit.lease).expect("taken from it");
        (0..2).for_each(|meter| told.reserved[meter] -= needs[meter]);
        if recorded {
            told.spent[0] += needs[0];
            told.spent[1] += charged;
        } else {
            counted.clear();
        }
        told.check()?;
        self.bench.book.settle(unit, &counted, &mut self.bench.actions);
        Ok(())
    }

    fn grant(&mut self, units: [u64; 2]) {
        let Some(id) = self.asked.take() else { return };
        let mut granted = lease(id.0.as_u128(), self.now, Some(units[0]));
        let calls = granted.shares[0].clone();
        granted.shares.push(Share { meter: name("tokens"), units: Quantity(units[1]), ..calls });
        self.leases.insert(id, Told { units, ..Told::default() });
        self.bench.book.granted(at(self.now), &granted, &mut self.bench.actions);
    }

    fn look(&mut self) -> Result<(), TestCaseError> {
        for action in self.bench.done() {
            match action {
                Action::Ask(ask) => self.asked = Some(ask.lease),
                Action::Close { lease, spent } => {
                    let told = self.leases.get_mut(&lease).expect("closed what was granted");
                    prop_assert!(!std::mem::replace(&mut told.closed, true), "closed twice");
                    prop_assert_eq!(told.reserved, [0, 0], "closed with calls in flight");
                    let said = [&spent[&name("tool_calls")], &spent[&name("tokens")]];
                    prop_assert_eq!(
                        said.map(|units| units.0),
                        told.spent,
                        "what it says was spent"
                    );
                }
                Action::Stop => return Err(TestCaseError::fail("nobody ended the epoch")),
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Over any run of calls, whatever they measure and however much they reserve: no lease is overspent in any meter,
    /// no call touches what others have reserved, and each closing says exactly what was charged.
    #[test]
    fn two_meters_are_exact_over_any_run(steps in steps()) {
        let (asked, leases, out) = (None, BTreeMap::new(), vec![]);
        let mut world = World { bench: Bench::new(), now: 0, asked, leases, out };
        for step in steps {
            world.act(&step)?;
        }
        for (unit, needs) in std::mem::take(&mut world.out) {
            world.settle(unit, needs, 1_000, true)?;
            world.look()?;
        }
        world.bench.book.close_all(&mut world.bench.actions);
        world.look()?;
        prop_assert!(world.leases.values().all(|told| told.closed), "a lease was lost: {:?}", world.leases);
    }
}
