//! What is told of quotas that near their limit.

use schemas::{
    ControlFact, LedgerFact, MeterName, PeriodRule, Quantity, QuotaKind, QuotaRule, Scope,
};

use crate::testing::{KEY, TENANT, World, node, quota};

fn soft(limit: u64) -> ControlFact {
    let quota = QuotaRule {
        scope: Scope::Tenant(TENANT),
        meter: MeterName::tool_calls(),
        limit: Quantity(limit),
        kind: QuotaKind::Soft,
        period: PeriodRule::Month,
    };
    ControlFact::QuotaSet { quota }
}

/// What is said next, and is folded.
fn said(world: &mut World) -> Vec<(QuotaKind, u8, u64)> {
    let facts = world.state.decide_thresholds();
    let said = facts.iter().map(|fact| match fact {
        LedgerFact::ThresholdCrossed { quota, percent, consumed, .. } => {
            (quota.kind, *percent, consumed.0)
        }
        other => panic!("{other:?}"),
    });
    let said = said.collect();
    if !facts.is_empty() {
        world.ledger(facts);
    }
    said
}

fn call(world: &mut World, id: u128, units: u64) {
    let lease = world.ask(&node(1), 1, id, units).unwrap();
    world.call(&lease, units);
    let spent = if lease.shares.is_empty() { 0 } else { units };
    world.close(&lease, spent);
}

#[test]
fn a_soft_limit_refuses_nothing_and_tells_at_80_and_100_once() {
    let mut world = World::new();
    world.control(vec![soft(10)]);
    call(&mut world, 1, 7);
    assert_eq!(said(&mut world), []);
    call(&mut world, 2, 1);
    assert_eq!(said(&mut world), [(QuotaKind::Soft, 80, 8)]);
    assert_eq!(said(&mut world), [], "once");
    call(&mut world, 3, 1);
    assert!(world.state.due.is_empty(), "nothing is noted twice");
    assert_eq!(said(&mut world), []);
    call(&mut world, 4, 5);
    assert_eq!(said(&mut world), [(QuotaKind::Soft, 100, 14)]);
    let lease = world.ask(&node(1), 1, 5, 1).unwrap();
    assert!(lease.shares.is_empty());
    let [notice] = lease.notices.as_slice() else { panic!("{:?}", lease.notices) };
    assert_eq!(
        (notice.kind, notice.percent, notice.consumed),
        (QuotaKind::Soft, 140, Quantity(14))
    );
    assert_eq!(world.reloaded(), world.state);
}

#[test]
fn both_are_told_when_both_are_crossed_at_once() {
    let mut world = World::new();
    world.control(vec![soft(10)]);
    call(&mut world, 1, 10);
    assert_eq!(said(&mut world), [(QuotaKind::Soft, 80, 10), (QuotaKind::Soft, 100, 10)]);
    assert_eq!(said(&mut world), []);
}

#[test]
fn what_is_crossed_while_a_fact_is_on_its_way_is_told_next() {
    let mut world = World::new();
    world.control(vec![soft(10)]);
    call(&mut world, 1, 8);
    let facts = world.state.decide_thresholds();
    call(&mut world, 2, 2);
    world.ledger(facts);
    assert_eq!(said(&mut world), [(QuotaKind::Soft, 100, 10)]);
    assert!(world.state.due.is_empty());
}

#[test]
fn a_limit_that_is_set_anew_is_told_of_anew_and_a_removed_one_no_more() {
    let mut world = World::new();
    world.control(vec![soft(10)]);
    call(&mut world, 1, 8);
    assert_eq!(said(&mut world).len(), 1);
    world.control(vec![soft(9)]);
    assert_eq!(said(&mut world), [(QuotaKind::Soft, 80, 8)]);
    world.control(vec![soft(8)]);
    assert_eq!(world.reloaded(), world.state);
    world.control(vec![soft(1_000)]);
    assert_eq!(said(&mut world), [], "raised before it was said");
    world.control(vec![soft(8)]);
    world.control(vec![ControlFact::QuotaRemoved {
        scope: Scope::Tenant(TENANT),
        meter: MeterName::tool_calls(),
        period: PeriodRule::Month,
    }]);
    assert_eq!(said(&mut world), []);
    assert_eq!(world.reloaded(), world.state);
}

#[test]
fn a_hard_limit_tells_too_and_each_period_for_itself() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 1)]);
    call(&mut world, 1, 1);
    assert_eq!(said(&mut world), [(QuotaKind::Hard, 80, 1), (QuotaKind::Hard, 100, 1)]);
    world.now = PeriodRule::Month.period_at(world.now, "UTC").unwrap().to;
    call(&mut world, 2, 1);
    assert_eq!(said(&mut world).len(), 2);
    assert_eq!(world.reloaded(), world.state);
}
