//! Period rules besides the month, meters besides calls, and rates.

use std::collections::BTreeMap;

use schemas::{
    ControlFact, KeyDigest, KeyState, KeyStatus, LeaseAsk, LeaseRefusal, MeterName, Period,
    PeriodRule, Quantity, QuotaKind, QuotaRule, RateLimits, Record, Reserve, Scope,
};

use crate::{
    UseKey,
    quota::Use,
    testing::{KEY, NOON, TENANT, World, lease_id, node, quota},
};

fn hard(meter: &str, limit: u64, period: PeriodRule) -> ControlFact {
    let (scope, meter) = (Scope::Key(KEY), meter.parse().unwrap());
    let quota = QuotaRule { scope, meter, limit: Quantity(limit), kind: QuotaKind::Hard, period };
    ControlFact::QuotaSet { quota }
}

fn used(world: &World, meter: &str, rule: PeriodRule) -> Use {
    let period = rule.period_at(world.now, "UTC").unwrap();
    world.state.counter(&UseKey {
        scope: Scope::Key(KEY),
        meter: meter.parse().unwrap(),
        rule,
        period,
    })
}

#[test]
fn a_day_and_a_month_limit_the_same_calls() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100), hard("tool_calls", 3, PeriodRule::Day)]);
    let lease = world.ask(&node(1), 1, 1, 1).unwrap();
    assert_eq!(lease.shares.len(), 1);
    assert_eq!(lease.shares[0].limit, Quantity(3), "the tightest is told of");
    world.call(&lease, 1);
    world.close(&lease, 1);
    for rule in [PeriodRule::Month, PeriodRule::Day] {
        assert_eq!(used(&world, "tool_calls", rule), Use { consumed: 1, outstanding: 0 });
    }
    let rest = world.ask(&node(1), 1, 2, 50).unwrap();
    world.call(&rest, 1);
    let last = world.ask(&node(2), 1, 3, 50).unwrap();
    world.call(&last, 1);
    let refused = world.ask(&node(1), 1, 4, 1).unwrap_err();
    let day = PeriodRule::Day.period_at(NOON, "UTC").unwrap();
    assert!(
        matches!(refused, LeaseRefusal::QuotaExhausted { period, .. } if period == day),
        "{refused:?}"
    );
    world.now = day.to;
    let next = world.ask(&node(1), 1, 5, 1).unwrap();
    assert_eq!(next.shares[0].limit, Quantity(3), "the next day begins whole");
    assert_eq!(used(&world, "tool_calls", PeriodRule::Month).consumed, 3);
}

#[test]
fn a_lease_ends_with_the_first_of_all_its_periods() {
    let mut world = World::new();
    let from = NOON.plus_ms(-1_000);
    let anchored = PeriodRule::Anchored { from, months: 1 };
    world.control(vec![quota(Scope::Key(KEY), 100), hard("tool_calls", 50, anchored)]);
    let Period { to, .. } = anchored.period_at(world.now, "UTC").unwrap();
    world.now = to.plus_ms(-7);
    let lease = world.ask(&node(1), 1, 1, 5).unwrap();
    assert_eq!(lease.expires_at, to);
    // Also of a period in which nothing limits this key: its units are counted there all the same.
    world.control(vec![ControlFact::QuotaRemoved {
        scope: Scope::Key(KEY),
        meter: MeterName::tool_calls(),
        period: anchored,
    }]);
    assert_eq!(world.ask(&node(1), 1, 2, 5).unwrap().expires_at, to);
}

#[test]
fn a_rule_that_comes_later_counts_from_then_on_and_knows_nothing_of_older_leases() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100)]);
    let old = world.ask(&node(1), 1, 1, 10).unwrap();
    world.call(&old, 2);
    world.control(vec![hard("tool_calls", 5, PeriodRule::Day)]);
    assert_eq!(used(&world, "tool_calls", PeriodRule::Day), Use::default());
    world.call(&old, 1);
    assert_eq!(
        used(&world, "tool_calls", PeriodRule::Day),
        Use { consumed: 1, outstanding: 0 },
        "counted, but nothing of it was held there"
    );
    let refused = world.ask(&node(2), 1, 2, 1);
    assert!(matches!(refused, Err(LeaseRefusal::UnitsHeld { .. })), "{refused:?}");
    world.close(&old, 3);
    assert_eq!(used(&world, "tool_calls", PeriodRule::Day).outstanding, 0);
    let lease = world.ask(&node(2), 1, 3, 1).unwrap();
    assert_eq!(lease.shares[0].left.0 + lease.shares[0].units.0, 4);
    assert_eq!(used(&world, "tool_calls", PeriodRule::Day), Use { consumed: 1, outstanding: 1 });
}

#[test]
fn an_older_lease_takes_nothing_from_what_younger_ones_hold_by_a_newer_rule() {
    let mut world = World::new();
    let other = schemas::KeyId(uuid::Uuid::from_u128(77));
    let limits = vec![World::key_fact(other), quota(Scope::Key(other), 100)];
    world.control(limits);
    let old = world.ask_for(other, &node(1), 1, 1, 10).unwrap();
    world.control(vec![hard("tool_calls", 5, PeriodRule::Day)]);
    let young = world.ask_for(other, &node(1), 1, 2, 10).unwrap();
    let held = young.shares[0].units.0;
    let day = |world: &World| {
        let (scope, meter, rule) = (Scope::Key(other), MeterName::tool_calls(), PeriodRule::Day);
        let period = rule.period_at(world.now, "UTC").unwrap();
        world.state.counter(&UseKey { scope, meter, rule, period })
    };
    assert_eq!(day(&world), Use { consumed: 0, outstanding: held });
    world.call(&old, 3);
    assert_eq!(day(&world), Use { consumed: 3, outstanding: held }, "a call of the old one");
    world.close(&old, 3);
    assert_eq!(day(&world), Use { consumed: 3, outstanding: held }, "its end");
    world.close(&young, 0);
    assert_eq!(day(&world), Use { consumed: 3, outstanding: 0 });
}

#[test]
fn calls_of_one_message_fall_each_into_its_own_hour_and_day() {
    let mut world = World::new();
    world.control(vec![hard("tool_calls", 50, PeriodRule::Day)]);
    let midnight = PeriodRule::Day.period_at(NOON, "UTC").unwrap().to;
    world.now = midnight;
    let at = |ms: i64| Record::Usage(World::event(None, midnight.plus_ms(ms), 1));
    world.records(&node(1), 1, vec![at(-1), at(0), at(-3_600_001), at(1), at(-2)]);
    let mut hours: Vec<_> = world.changes.hours.iter().map(|(cell, n)| (cell.hour.0, *n)).collect();
    hours.sort_unstable();
    let hour = midnight.hour().0;
    assert_eq!(hours, [(hour - 2, 1), (hour - 1, 2), (hour, 2)]);
    assert_eq!(used(&world, "tool_calls", PeriodRule::Day).consumed, 2);
    world.now = midnight.plus_ms(-1);
    assert_eq!(used(&world, "tool_calls", PeriodRule::Day).consumed, 3);
}

fn tokens(id: u128, per_call: u64, want: u64) -> LeaseAsk {
    let reserve = Reserve { per_call: Quantity(per_call), want: Quantity(want) };
    let reserve = BTreeMap::from([("tokens".parse().unwrap(), reserve)]);
    LeaseAsk { lease: lease_id(id), key: KEY, want: Quantity(4), reserve }
}

#[test]
fn a_quantity_known_afterwards_is_reserved_and_the_rest_comes_back() {
    let mut world = World::new();
    world.control(vec![hard("tokens", 1_000, PeriodRule::Month), quota(Scope::Key(KEY), 100)]);
    let lease = world.ask_as(&node(1), 1, &tokens(1, 100, 400)).unwrap();
    let units = |meter: &str| lease.share(&meter.parse().unwrap()).unwrap().0;
    assert_eq!((units("tokens"), units("tool_calls")), (250, 4), "a quarter of what is left");
    let mut event = World::event(Some(&lease), world.now, 1);
    event.quantities.insert("tokens".parse().unwrap(), Quantity(30));
    world.records(&node(1), 1, vec![Record::Usage(event)]);
    assert_eq!(used(&world, "tokens", PeriodRule::Month), Use { consumed: 30, outstanding: 220 });
    let spent = [("tokens", 30), ("tool_calls", 1)];
    let spent = spent.map(|(meter, units)| (meter.parse().unwrap(), Quantity(units))).into();
    let closed = Record::LeaseClosed { lease: lease.lease, tenant: TENANT, spent };
    world.records(&node(1), 1, vec![closed]);
    assert_eq!(used(&world, "tokens", PeriodRule::Month), Use { consumed: 30, outstanding: 0 });
    assert!(world.anomalies().is_empty(), "{:?}", world.anomalies());
}

#[test]
fn a_lease_that_would_serve_no_call_is_not_granted() {
    let mut world = World::new();
    world.control(vec![hard("tokens", 1_000, PeriodRule::Month)]);
    let first = world.ask_as(&node(1), 1, &tokens(1, 600, 600)).unwrap();
    assert_eq!(first.shares[0].units, Quantity(600), "never less than one call needs");
    let refused = world.ask_as(&node(2), 1, &tokens(2, 600, 600)).unwrap_err();
    assert!(matches!(refused, LeaseRefusal::UnitsHeld { .. }), "{refused:?}");
    let refused = world.ask_as(&node(2), 1, &tokens(3, 1_001, 1_001)).unwrap_err();
    assert!(matches!(refused, LeaseRefusal::QuotaExhausted { .. }), "{refused:?}");
    assert!(world.ask_as(&node(2), 1, &tokens(4, 400, 400)).is_ok());
}

#[test]
fn a_keys_rate_is_shared_and_never_given_twice() {
    let mut world = World::new();
    let whole = RateLimits { per_minute: 60, burst: 12, concurrent: None };
    world.control(vec![ControlFact::KeyRateSet { key: KEY, rate: Some(whole) }]);
    assert_eq!(world.state.key(KEY).unwrap().1.rate, Some(whole));
    let first = world.ask(&node(1), 1, 1, 1).unwrap();
    assert_eq!(first.rate, Some(whole), "alone");
    let refused = world.ask(&node(2), 1, 2, 1);
    assert_eq!(refused, Err(LeaseRefusal::RateHeld { retry_ms: 250 }));
    world.close(&first, 0);
    let half = RateLimits { per_minute: 30, burst: 6, concurrent: None };
    assert_eq!(world.ask(&node(1), 1, 3, 1).unwrap().rate, Some(half), "two want it");
    assert_eq!(world.ask(&node(2), 1, 4, 1).unwrap().rate, Some(half));
    world.control(vec![ControlFact::KeyRateSet { key: KEY, rate: None }]);
    assert_eq!(world.ask(&node(2), 1, 5, 1).unwrap().rate, None);
}

#[test]
fn a_rotated_key_is_told_by_each_of_its_secrets_until_its_time() {
    let mut world = World::new();
    let digest = |n: u8| KeyDigest([n; 32]);
    let first = world.state.key(KEY).unwrap().1.digest;
    let rotated = |n: u8, until: i64| ControlFact::KeyRotated {
        key: KEY,
        digest: digest(n),
        hint: String::new(),
        former_until: NOON.plus_ms(until),
    };
    let lease = world.ask(&node(1), 1, 1, 5).unwrap();
    world.control(vec![rotated(8, 1_000)]);
    world.control(vec![rotated(9, 500)]);
    let told = |world: &World| {
        let (row, view) = world.state.key(KEY).unwrap();
        let former: Vec<_> =
            row.views_of_former(&view).map(|view| (view.digest, view.expires_at)).collect();
        (view.digest, view.expires_at, former)
    };
    let former = vec![(first, Some(NOON.plus_ms(1_000))), (digest(8), Some(NOON.plus_ms(500)))];
    assert_eq!(told(&world), (digest(9), None, former), "each secret until its own time");
    world.call(&lease, 1);
    assert!(world.anomalies().is_empty(), "calls go on under the lease of before");
    world.control(vec![ControlFact::KeyRevoked { key: KEY }]);
    let (row, view) = world.state.key(KEY).unwrap();
    let gone = |view: &KeyState| view.status == KeyStatus::Revoked && view.as_of == row.as_of;
    assert!(gone(&view) && row.views_of_former(&view).all(|view| gone(&view)));
}
