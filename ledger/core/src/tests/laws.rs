//! The laws under random histories: nodes that ask, call, close, crash, and say things twice and out of order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::{
    ControlFact, Lease, MeterName, Period, PeriodRule, Quantity, QuotaKind, QuotaRule, Record,
    Scope,
};

use crate::{
    UseKey,
    testing::{KEY, NOON, TENANT, World, node, quota},
};

#[derive(Clone, Debug)]
enum Step {
    Ask {
        node: u8,
        want: u64,
    },
    Call {
        lease: usize,
    },
    Close {
        lease: usize,
    },
    Crash {
        node: u8,
    },
    Resend {
        message: usize,
    },
    Later {
        ms: i64,
    },
    Seal,
    Forfeit,
    Thresholds,
    /// A quota of another period rule, if there is none yet.
    Rule {
        anchored: bool,
        limit: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4u8, 1..20u64).prop_map(|(node, want)| Step::Ask { node, want }),
        8 => (0..64usize).prop_map(|lease| Step::Call { lease }),
        2 => (0..64usize).prop_map(|lease| Step::Close { lease }),
        1 => (0..4u8).prop_map(|node| Step::Crash { node }),
        2 => (0..256usize).prop_map(|message| Step::Resend { message }),
        1 => (1..4_000_000i64).prop_map(|ms| Step::Later { ms }),
        1 => Just(Step::Seal),
        1 => Just(Step::Thresholds),
        1 => Just(Step::Forfeit),
        1 => (any::<bool>(), 1..30u64).prop_map(|(anchored, limit)| Step::Rule { anchored, limit }),
    ]
}

/// A node's side, as the protocol has it: it spends only what a lease holds, while it lasts.
#[derive(Default)]
struct Nodes {
    epochs: BTreeMap<u8, u64>,
    open: Vec<(Lease, u64)>,
    served: u64,
    sealed: u64,
    rules: Vec<Watched>,
}

/// A quota that was set in the middle: what was served under it, by leases that know it and by older ones.
struct Watched {
    rule: PeriodRule,
    limit: u64,
    older: Vec<schemas::LeaseId>,
    served: BTreeMap<Period, (u64, u64)>,
}

impl Watched {
    fn fact(&self) -> ControlFact {
        let (scope, meter) = (Scope::Key(KEY), MeterName::tool_calls());
        let (limit, kind, period) = (Quantity(self.limit), QuotaKind::Hard, self.rule);
        ControlFact::QuotaSet { quota: QuotaRule { scope, meter, limit, kind, period } }
    }

    fn serve(&mut self, world: &World, lease: &Lease) {
        let period = self.rule.period_at(world.now, "UTC").unwrap();
        let (known, older) = self.served.entry(period).or_default();
        *(if self.older.contains(&lease.lease) { older } else { known }) += 1;
    }

    fn check(&self, world: &World) -> Result<(), TestCaseError> {
        for (period, (known, older)) in &self.served {
            let (scope, meter) = (Scope::Key(KEY), MeterName::tool_calls());
            let used =
                world.state.counter(&UseKey { scope, meter, rule: self.rule, period: *period });
            prop_assert_eq!(used.consumed, known + older, "law 1, by {}", self.rule);
            let bound = self.limit.max(*older);
            prop_assert!(used.consumed + used.outstanding <= bound, "law 3, by {}", self.rule);
        }
        Ok(())
    }
}

fn run(limit: u64, tenant_limit: u64, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), limit), quota(Scope::Tenant(TENANT), tenant_limit)]);
    let least = limit.min(tenant_limit);
    let start = world.now;
    let (mut nodes, mut id) = (Nodes::default(), 0);
    for step in steps {
        match step {
            Step::Ask { node: n, want } => {
                id += 1;
                let epoch = *nodes.epochs.entry(n).or_insert(1);
                if let Ok(lease) = world.ask(&node(n), epoch, id, want) {
                    nodes.open.push((lease, 0));
                }
            }
            Step::Call { lease } => {
                let now = world.now;
                let Some(at) = lease.checked_rem(nodes.open.len()) else { continue };
                let (lease, spent) = &mut nodes.open[at];
                if *spent < lease.shares[0].units.0 && now < lease.expires_at {
                    *spent += 1;
                    nodes.served += 1;
                    let lease = lease.clone();
                    nodes.rules.iter_mut().for_each(|rule| rule.serve(&world, &lease));
                    world.call(&lease, 1);
                }
            }
            Step::Close { lease } => {
                let Some(at) = lease.checked_rem(nodes.open.len()) else { continue };
                let (lease, spent) = nodes.open.swap_remove(at);
                world.close(&lease, spent);
            }
            Step::Crash { node: n } => {
                let epoch = nodes.epochs.entry(n).or_insert(1);
                nodes.open.retain(|(lease, _)| lease.node != node(n));
                world.records(&node(n), *epoch, vec![Record::EpochEnded]);
                *epoch += 1;
            }
            Step::Resend { message } => {
                let Some(at) = message.checked_rem(world.log.len()) else { continue };
                if let crate::Entry::Usage { batch, .. } = world.log[at].1.clone() {
                    world.batch(&batch.node, batch.epoch.0, batch.first_seq, batch.records);
                }
            }
            Step::Later { ms } => {
                // Within the month: the next one has counters of its own.
                world.now = world.now.plus_ms(ms).min(start.plus_ms(9 * 24 * 3_600_000));
            }
            Step::Seal => {
                for fact in world.seal() {
                    if let schemas::LedgerFact::HourSealed { lines, .. } = fact {
                        nodes.sealed += lines.iter().map(|line| line.delta.0).sum::<u64>();
                    }
                }
            }
            Step::Thresholds => {
                let facts = world.state.decide_thresholds();
                if !facts.is_empty() {
                    world.ledger(facts);
                }
            }
            Step::Forfeit => {
                let facts = world.state.decide_forfeits(world.now, 24 * 3_600_000);
                if !facts.is_empty() {
                    world.ledger(facts);
                }
            }
            Step::Rule { anchored, limit } => {
                let rule = if anchored {
                    PeriodRule::Anchored { from: NOON.plus_ms(-5 * 24 * 3_600_000), months: 1 }
                } else {
                    PeriodRule::Day
                };
                if nodes.rules.iter().all(|known| known.rule != rule) {
                    let older = nodes.open.iter().map(|(lease, _)| lease.lease).collect();
                    let watched = Watched { rule, limit, older, served: BTreeMap::new() };
                    world.control(vec![watched.fact()]);
                    nodes.rules.push(watched);
                }
            }
        }
        check(&world, &nodes, least)?;
    }
    // At rest, nothing is held, and what was counted is what was served and what was sealed.
    for (lease, spent) in std::mem::take(&mut nodes.open) {
        world.close(&lease, spent);
    }
    world.now = start.plus_ms(11 * 24 * 3_600_000);
    for fact in world.seal() {
        if let schemas::LedgerFact::HourSealed { lines, .. } = fact {
            nodes.sealed += lines.iter().map(|line| line.delta.0).sum::<u64>();
        }
    }
    prop_assert_eq!(world.used().outstanding, 0);
    prop_assert_eq!(nodes.sealed, nodes.served);
    prop_assert_eq!(world.changes.hours.values().sum::<u64>(), nodes.served);
    Ok(())
}

fn check(world: &World, nodes: &Nodes, least: u64) -> Result<(), TestCaseError> {
    for scope in [Scope::Key(KEY), Scope::Tenant(TENANT)] {
        let used = world.used_at(scope);
        prop_assert_eq!(used.consumed, nodes.served, "law 1: once");
        prop_assert!(
            used.consumed + used.outstanding <= least,
            "law 3: no overshoot: {:?} of {}",
            used,
            least
        );
        let held: u64 =
            nodes.open.iter().map(|(lease, spent)| lease.shares[0].units.0 - spent).sum();
        prop_assert_eq!(used.outstanding, held, "what is held is what open leases may spend");
    }
    nodes.rules.iter().try_for_each(|rule| rule.check(world))?;
    prop_assert!(world.anomalies().is_empty(), "{:?}", world.anomalies());
    prop_assert!(world.changes.quarantined.is_empty());
    prop_assert_eq!(&world.reloaded(), &world.state, "what is stored is what is held");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold(
        limit in 1..60u64,
        tenant_limit in 1..60u64,
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        run(limit, tenant_limit, steps)?;
    }
}
