//! Claims about leases of several meters: what is reserved, measured, covered and refused of each.

use uuid::Uuid;

use super::{
    tests::{Bench, at, exhausted, lease, period},
    *,
};

/// A lease of `units` of `tokens`, and as many calls as are wanted.
fn tokens(id: u128, granted_ms: u64, units: u64) -> Lease {
    let mut lease = lease(id, granted_ms, Some(units));
    lease.shares[0].meter = "tokens".parse().unwrap();
    lease
}

fn needs_tokens(units: u64) -> Needs {
    let need = |meter: &str, units| MeterDemand { meter: meter.parse().unwrap(), units };
    [need("tool_calls", 1), need("tokens", units)].into()
}

fn counted(tokens: u64) -> BTreeMap<MeterName, Quantity> {
    [("tool_calls", 1), ("tokens", tokens)]
        .map(|(meter, units)| (meter.parse().unwrap(), Quantity(units)))
        .into()
}

#[test]
fn what_is_known_afterwards_is_reserved_and_the_rest_comes_back() {
    let mut bench = Bench { needs: needs_tokens(100), ..Bench::new() };
    assert_eq!(bench.take(0), Take::Wait);
    let asked = bench.done();
    let [Action::Ask(ask)] = asked.as_slice() else { panic!("{asked:?}") };
    let reserve = Reserve { per_call: Quantity(100), want: Quantity(100 * LEAST_WANT) };
    assert_eq!(ask.reserve, [("tokens".parse().unwrap(), reserve)].into());
    bench.book.granted(at(0), &tokens(1, 0, 250), &mut bench.actions);
    let (a, b) = (bench.unit(1), bench.unit(2));
    assert_eq!(bench.take(3), Take::Wait, "50 are left, and the next may need 100");
    bench.done();
    bench.book.settle(a, &counted(30), &mut bench.actions);
    bench.book.settle(b, &counted(1_000), &mut bench.actions);
    let again = bench.unit(4);
    bench.book.settle(again, &BTreeMap::new(), &mut bench.actions);
    assert_eq!(bench.done(), [], "what is left serves on");
    bench.book.close_all(&mut bench.actions);
    let spent = [("tokens".parse().unwrap(), Quantity(130))].into();
    let lease = LeaseId(Uuid::from_u128(1));
    assert_eq!(bench.done(), [Action::Close { lease, spent }], "never more than was reserved");
}

#[test]
fn a_lease_that_is_too_small_for_the_next_call_goes_back() {
    let mut bench = Bench { needs: needs_tokens(100), ..Bench::new() };
    bench.take(0);
    bench.book.granted(at(0), &tokens(1, 0, 150), &mut bench.actions);
    let unit = bench.unit(1);
    bench.book.settle(unit, &counted(100), &mut bench.actions);
    bench.done();
    assert_eq!(bench.take(2), Take::Wait);
    let spent = [("tokens".parse().unwrap(), Quantity(100))].into();
    let close = Action::Close { lease: LeaseId(Uuid::from_u128(1)), spent };
    assert!(bench.done().contains(&close));
}

/// A lease of calls and of tokens.
fn both(id: u128, granted_ms: u64, calls: u64, units: u64) -> Lease {
    let mut both = lease(id, granted_ms, Some(calls));
    both.shares.extend(tokens(id, granted_ms, units).shares);
    both
}

#[test]
fn what_a_call_measures_beyond_its_reserve_counts_as_far_as_its_lease_has_it() {
    let mut bench = Bench { needs: needs_tokens(100), ..Bench::new() };
    bench.take(0);
    bench.book.granted(at(0), &tokens(1, 0, 250), &mut bench.actions);
    let (mut a, mut b) = (bench.unit(1), bench.unit(2));
    let mut measured = counted(130);
    assert_eq!(bench.book.cover(&mut a, &mut measured), 0);
    assert_eq!(measured, counted(130), "30 of the 50 that nobody had taken");
    let mut measured_b = counted(1_000);
    assert_eq!(bench.book.cover(&mut b, &mut measured_b), 880, "20 were left");
    assert_eq!(measured_b, counted(120));
    bench.book.settle(a, &measured, &mut bench.actions);
    bench.done();
    bench.book.settle(b, &measured_b, &mut bench.actions);
    let spent = [("tokens".parse().unwrap(), Quantity(250))].into();
    let close = Action::Close { lease: LeaseId(Uuid::from_u128(1)), spent };
    assert_eq!(bench.done(), [close], "all that was granted, and not a unit more");
}

#[test]
fn what_was_covered_and_not_recorded_is_free_again() {
    let mut bench = Bench { needs: needs_tokens(10), ..Bench::new() };
    bench.take(0);
    bench.book.granted(at(0), &tokens(1, 0, 100), &mut bench.actions);
    let mut unit = bench.unit(1);
    let mut measured = counted(60);
    bench.book.cover(&mut unit, &mut measured);
    bench.book.settle(unit, &BTreeMap::new(), &mut bench.actions);
    bench.done();
    bench.book.close_all(&mut bench.actions);
    let spent = [("tokens".parse().unwrap(), Quantity(0))].into();
    assert_eq!(bench.done(), [Action::Close { lease: LeaseId(Uuid::from_u128(1)), spent }]);
}

#[test]
fn an_unlimited_meter_counts_whatever_was_measured() {
    let mut bench = Bench { needs: needs_tokens(1), ..Bench::new() };
    bench.take(0);
    bench.grant(0, 1, Some(5));
    let (mut unit, mut measured) = (bench.unit(1), counted(1_000_000));
    assert_eq!(bench.book.cover(&mut unit, &mut measured), 0);
    assert_eq!(measured, counted(1_000_000));
    bench.book.settle(unit, &measured, &mut bench.actions);
}

#[test]
fn what_is_refused_to_a_large_call_is_not_refused_to_a_small_one() {
    let needs = |units| -> Needs { [MeterDemand { meter: MeterName::tool_calls(), units }].into() };
    let mut bench = Bench { needs: needs(5), ..Bench::new() };
    bench.take(0);
    bench.refuse(1, 1, exhausted());
    assert!(matches!(bench.take(2), Take::Refused { .. }));
    bench.needs = one_call();
    assert_eq!(bench.take(3), Take::Wait, "three may be left");
    bench.grant(4, 2, Some(3));
    let small = bench.unit(5);
    bench.done();
    bench.needs = needs(5);
    assert!(matches!(bench.take(6), Take::Refused { .. }), "refused still, without a question");
    assert_eq!(bench.done(), [], "and the small lease stays");
    bench.needs = needs(7);
    assert!(matches!(bench.take(7), Take::Refused { .. }));
    bench.settle(small, true);
    bench.needs = one_call();
    let again = bench.unit(8);
    bench.settle(again, true);
}

#[test]
fn a_call_that_needs_no_tokens_is_served_when_they_are_gone() {
    let gone = LeaseRefusal::QuotaExhausted {
        meter: "tokens".parse().unwrap(),
        scope: Scope::Key(KeyId(Uuid::nil())),
        limit: Quantity(9),
        period: period(),
    };
    let mut bench = Bench { needs: needs_tokens(100), ..Bench::new() };
    bench.take(0);
    bench.book.granted(at(0), &both(1, 0, 10, 50), &mut bench.actions);
    assert_eq!(bench.take(1), Take::Wait, "50 are too few");
    bench.refuse(2, 2, gone);
    assert!(matches!(bench.take(3), Take::Refused { .. }));
    bench.needs = one_call();
    assert_eq!(bench.take(4), Take::Wait);
    bench.book.granted(at(5), &both(3, 5, 10, 50), &mut bench.actions);
    let unit = bench.unit(6);
    bench.settle(unit, true);
}
