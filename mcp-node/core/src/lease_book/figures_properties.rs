//! What clients are told is left, against a ledger that knows: exact where one node serves, else never too low unsaid.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    tests::{Bench, TTL_MS, at, held, lease},
    *,
};

#[derive(Clone, Debug)]
enum Step {
    /// A call begins; the ledger answers at once if it is asked.
    Call,
    /// A call ends; whether it counts.
    End {
        which: prop::sample::Index,
        counts: bool,
    },
    /// Others take a lease, spend of it, give back from it.
    OthersTake(u64),
    OthersSpend(u64),
    OthersReturn(u64),
    Recall,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => Just(Step::Call),
        9 => (any::<prop::sample::Index>(), prop::bool::weighted(0.7)).prop_map(|(which, counts)| Step::End { which, counts }),
        2 => (1..6u64).prop_map(Step::OthersTake),
        2 => (1..4u64).prop_map(Step::OthersSpend),
        1 => (1..4u64).prop_map(Step::OthersReturn),
        1 => Just(Step::Recall),
        2 => prop_oneof![0..2_000u64, 0..2 * TTL_MS].prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..150)
}

/// A node, and the ledger that it asks.
struct World {
    bench: Bench,
    now_ms: u64,
    limit: u64,
    /// Counted so far, by this node and by others.
    consumed: u64,
    others: u64,
    /// What leases of this node still hold, as the ledger has it.
    own: BTreeMap<LeaseId, u64>,
    /// Leases that the node has closed and the ledger has not settled.
    closed: Vec<(u64, LeaseId)>,
    running: Vec<Unit>,
}

impl World {
    fn new(limit: u64) -> Self {
        let (own, closed, running) = (BTreeMap::new(), vec![], vec![]);
        Self { bench: Bench::new(), now_ms: 0, limit, consumed: 0, others: 0, own, closed, running }
    }

    fn available(&self) -> u64 {
        self.limit - self.consumed - self.others - self.own.values().sum::<u64>()
    }

    /// What no call has spent, if all that run count.
    fn unused(&self) -> u64 {
        self.limit - self.consumed - self.running.len() as u64
    }

    fn react(&mut self) {
        for action in self.bench.done() {
            match action {
                Action::Close { lease, .. } => self.closed.push((self.now_ms, lease)),
                Action::Ask(ask) => self.answer(&ask),
                Action::Stop => unreachable!("no epoch ends here"),
            }
        }
    }

    fn answer(&mut self, ask: &LeaseAsk) {
        let now_ms = self.now_ms;
        let (old, kept) = self.closed.iter().partition(|(ms, _)| ms + 5_000 < now_ms);
        self.closed = kept;
        let old: Vec<(u64, LeaseId)> = old;
        for (_, lease) in old {
            self.own.remove(&lease);
        }
        let available = self.available();
        if available == 0 {
            let why = held(1);
            return self.bench.book.refused(at(now_ms), ask.lease, why, &mut self.bench.actions);
        }
        let units = ask.want.0.min((available / 4).max(1));
        let mut granted = Lease { lease: ask.lease, ..lease(1, now_ms, Some(units)) };
        let share = &mut granted.shares[0];
        (share.left, share.held) = (Quantity(available - units), Some(Quantity(self.others)));
        share.limit = Quantity(self.limit);
        self.own.insert(ask.lease, units);
        self.bench.book.granted(at(now_ms), &granted, &mut self.bench.actions);
        self.react();
    }

    /// A call begins, if it may; what it is told.
    fn call(&mut self) -> Option<Hint> {
        for _ in 0..2 {
            let take = self.bench.take(self.now_ms);
            self.react();
            if let Take::Unit(unit) = take {
                let hint = unit.hint;
                self.running.push(unit);
                return hint;
            }
        }
        None
    }

    fn end(&mut self, unit: Unit, counts: bool) {
        if counts {
            self.consumed += 1;
            *self.own.get_mut(&unit.lease).unwrap() -= 1;
        }
        self.bench.settle(unit, counts);
        self.react();
    }

    fn step(&mut self, step: &Step) -> Option<Hint> {
        match step {
            Step::Call => return self.call(),
            Step::End { which, counts } if !self.running.is_empty() => {
                let unit = self.running.swap_remove(which.index(self.running.len()));
                self.end(unit, *counts);
            }
            Step::End { .. } => {}
            Step::OthersTake(units) => {
                let units = *units.min(&self.available());
                self.others += units;
            }
            Step::OthersSpend(units) => {
                let units = *units.min(&self.others);
                (self.others, self.consumed) = (self.others - units, self.consumed + units);
            }
            Step::OthersReturn(units) => self.others = self.others.saturating_sub(*units),
            Step::Recall => {
                self.bench.book.recalled(at(self.now_ms), &mut self.bench.actions);
                self.react();
            }
            Step::Wait(ms) => {
                self.now_ms += ms;
                // The shell ticks five times a second.
                self.bench.book.tick(at(self.now_ms), &mut self.bench.actions);
                self.react();
            }
        }
        None
    }
}

proptest! {
    /// Whatever this node and others do: a figure that does not say that it is the least is not too low, so a client
    /// that stops at 0 loses nothing.
    #[test]
    fn no_figure_is_too_low_without_saying_so(steps in steps(), limit in 1..60u64) {
        let mut world = World::new(limit);
        for step in &steps {
            if let Some(hint) = world.step(step).filter(|hint| !hint.at_least) {
                prop_assert!(hint.remaining >= world.unused(), "{hint:?}, {} left", world.unused());
            }
        }
    }

    /// Where one node serves a key, one call after the other, the figure is what is left, and after 0 nothing goes.
    #[test]
    fn one_node_counts_down_exactly(outcomes in proptest::collection::vec(prop::bool::weighted(0.8), 1..120), limit in 1..60u64) {
        let mut world = World::new(limit);
        for counts in outcomes {
            world.now_ms += 10;
            let Some(hint) = world.call() else {
                prop_assert_eq!(world.consumed, limit);
                break;
            };
            prop_assert_eq!((hint.remaining, hint.at_least), (world.unused(), false));
            let unit = world.running.pop().unwrap();
            world.end(unit, counts);
        }
    }
}
