//! Claims about one key's leases, by example.

use schemas::{Epoch, NodeId, ProjectId, Share, TenantId};
use uuid::Uuid;

use super::*;

pub(super) const TTL_MS: u64 = 90_000;
/// The ledger's clock is wrong by this much, as seen from the node.
const SKEW_MS: i64 = 5_000;

pub(super) fn at(mono_ms: u64) -> Now {
    Now { mono_ms, wall: Timestamp(1_000_000 + i64::try_from(mono_ms).unwrap()) }
}

pub(super) fn period() -> Period {
    Period { from: Timestamp(0), to: Timestamp(2_000_000) }
}

pub(super) fn lease(id: u128, granted_ms: u64, units: Option<u64>) -> Lease {
    let granted_at = at(granted_ms).wall.plus_ms(SKEW_MS);
    let share = |units| Share {
        meter: MeterName::tool_calls(),
        units: Quantity(units),
        left: Quantity(100),
        held: Some(Quantity(0)),
        limit: Quantity(1_000),
        period: period(),
    };
    Lease {
        lease: LeaseId(Uuid::from_u128(id)),
        tenant: TenantId(Uuid::nil()),
        project: ProjectId(Uuid::nil()),
        key: KeyId(Uuid::nil()),
        node: "n".parse::<NodeId>().unwrap(),
        epoch: Epoch(1),
        granted_at,
        expires_at: granted_at.plus_ms(i64::try_from(TTL_MS).unwrap()),
        shares: units.map(share).into_iter().collect(),
        rate: None,
        notices: vec![],
    }
}

/// A book and what it has done, with ids that count up from 1.
pub(super) struct Bench {
    pub book: LeaseBook,
    pub minted: u128,
    pub needs: Needs,
    pub actions: Vec<Action>,
}

impl Bench {
    pub fn new() -> Self {
        let book = LeaseBook::new(KeyId(Uuid::nil()), true, true, 1);
        Self { book, minted: 0, needs: one_call(), actions: vec![] }
    }

    pub fn take(&mut self, ms: u64) -> Take {
        let minted = &mut self.minted;
        let mint = || {
            *minted += 1;
            LeaseId(Uuid::from_u128(*minted))
        };
        self.book.take(at(ms), &self.needs, mint, &mut self.actions)
    }

    #[track_caller]
    pub fn unit(&mut self, ms: u64) -> Unit {
        match self.take(ms) {
            Take::Unit(unit) => unit,
            other => panic!("no unit but {other:?}"),
        }
    }

    pub fn grant(&mut self, ms: u64, id: u128, units: Option<u64>) {
        self.book.granted(at(ms), &lease(id, ms, units), &mut self.actions);
    }

    pub fn refuse(&mut self, ms: u64, id: u128, why: LeaseRefusal) {
        self.book.refused(at(ms), LeaseId(Uuid::from_u128(id)), why, &mut self.actions);
    }

    pub fn settle(&mut self, unit: Unit, spent: bool) {
        let counted = spent.then(|| (MeterName::tool_calls(), Quantity(1)));
        self.book.settle(unit, &counted.into_iter().collect(), &mut self.actions);
    }

    pub fn done(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}

fn ask(id: u128, want: u64) -> Action {
    Action::Ask(LeaseAsk {
        lease: LeaseId(Uuid::from_u128(id)),
        key: KeyId(Uuid::nil()),
        want: Quantity(want),
        reserve: BTreeMap::new(),
    })
}

fn close(id: u128, spent: Option<u64>) -> Action {
    let spent = spent.map(|spent| (MeterName::tool_calls(), Quantity(spent)));
    Action::Close { lease: LeaseId(Uuid::from_u128(id)), spent: spent.into_iter().collect() }
}

pub(super) fn exhausted() -> LeaseRefusal {
    let scope = Scope::Key(KeyId(Uuid::nil()));
    LeaseRefusal::QuotaExhausted {
        meter: MeterName::tool_calls(),
        scope,
        limit: Quantity(9),
        period: period(),
    }
}

pub(super) fn held(retry_ms: u32) -> LeaseRefusal {
    let scope = Scope::Key(KeyId(Uuid::nil()));
    LeaseRefusal::UnitsHeld {
        meter: MeterName::tool_calls(),
        scope,
        limit: Quantity(9),
        period: period(),
        retry_ms,
    }
}

#[test]
fn a_key_asks_once_waits_and_then_spends() {
    let mut bench = Bench::new();
    assert_eq!((bench.take(0), bench.take(1)), (Take::Wait, Take::Wait));
    assert_eq!(bench.done(), [ask(1, LEAST_WANT)], "one question, whoever waits");
    bench.grant(20, 1, Some(2));
    let (a, b) = (bench.unit(21), bench.unit(22));
    assert_eq!(bench.take(23), Take::Wait, "two units are two units");
    bench.settle(a, true);
    bench.settle(b, true);
    assert_eq!(bench.done().last(), Some(&close(1, Some(2))), "spent and settled, so closed");
}

#[test]
fn a_unit_that_does_not_count_is_free_again() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.grant(1, 1, Some(1));
    for ms in 2..50 {
        let unit = bench.unit(ms);
        bench.settle(unit, false);
    }
    let last = bench.unit(60);
    bench.settle(last, true);
    assert_eq!(bench.done().last(), Some(&close(1, Some(1))));
}

#[test]
fn a_lease_ends_by_the_moment_it_was_first_asked_for() {
    let mut bench = Bench::new();
    let _ = bench.take(1_000);
    bench.grant(60_000, 1, Some(8)); // The answer was long on its way.
    let out = bench.unit(1_000 + TTL_MS - 1);
    assert!(matches!(bench.take(1_000 + TTL_MS), Take::Wait), "not one millisecond longer");
    bench.done();
    bench.settle(out, true);
    assert_eq!(bench.done(), [close(1, Some(1))], "closed when its last call ended, not before");
}

#[test]
fn a_lease_that_comes_after_its_end_is_closed_unspent() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.done();
    bench.grant(TTL_MS, 1, Some(8));
    assert_eq!(bench.done(), [close(1, Some(0))]);
    assert_eq!(bench.take(TTL_MS), Take::Wait);
    assert_eq!(bench.done(), [ask(2, LEAST_WANT)]);
}

#[test]
fn the_next_lease_is_asked_for_before_this_one_is_empty_and_only_once() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.grant(1, 1, Some(100));
    bench.done();
    let mut asked_at = None;
    for taken in 1..=100 {
        let unit = bench.unit(2);
        bench.settle(unit, true);
        let asks =
            bench.done().into_iter().filter(|action| matches!(action, Action::Ask(_))).count();
        if asks > 0 {
            assert_eq!((asks, asked_at.replace(taken)), (1, None));
        }
    }
    let asked_at = asked_at.expect("asked before the end");
    assert!((50..=63).contains(&asked_at), "{asked_at}");
}

#[test]
fn half_of_the_time_is_reason_enough_to_ask_if_the_key_is_used() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.grant(0, 1, None);
    bench.done();
    let unit = bench.unit(TTL_MS / 2 - 1);
    bench.settle(unit, true);
    assert_eq!(bench.done(), []);
    bench.book.tick(at(TTL_MS * 3 / 4), &mut bench.actions);
    assert_eq!(bench.done(), [], "nobody called");
    let unit = bench.unit(TTL_MS * 3 / 4);
    bench.settle(unit, true);
    assert!(matches!(bench.done().as_slice(), [Action::Ask(_)]));
    bench.book.tick(at(TTL_MS), &mut bench.actions);
    assert_eq!(bench.done(), [close(1, None)], "an unlimited lease has nothing to give back");
}

#[test]
fn an_exhausted_quota_is_remembered_until_its_period_ends_or_the_key_changes() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.refuse(1, 1, exhausted());
    let Take::Refused { why, retry_ms } = bench.take(1_000) else { panic!("not refused") };
    assert_eq!((why, retry_ms), (exhausted(), 2_000_000 - 1_001_000));
    assert_eq!(bench.take(2_000_000 - 1_000_001), Take::Refused { why: exhausted(), retry_ms: 1 });
    bench.book.key_changed(true, true, 1, &mut bench.actions);
    assert!(matches!(bench.take(2_000), Take::Refused { .. }), "the same state again is no change");
    bench.book.key_changed(true, true, 2, &mut bench.actions);
    assert_eq!(bench.take(2_000), Take::Wait);
    bench.refuse(2_001, 2, exhausted());
    assert_eq!(bench.take(1_000_000), Take::Wait, "a new month");
}

#[test]
fn held_units_are_asked_for_again_after_the_ledgers_time() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.refuse(100, 1, held(200));
    assert_eq!(bench.take(150), Take::Refused { why: held(200), retry_ms: 150 });
    assert_eq!(bench.take(300), Take::Wait);
}

#[test]
fn an_early_refusal_does_not_cost_what_is_held() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.grant(1, 1, Some(2));
    let (first, second) = (bench.unit(2), bench.unit(3));
    bench.refuse(4, 2, exhausted());
    assert!(matches!(bench.take(5), Take::Refused { .. }));
    bench.settle(first, true);
    bench.settle(second, false);
    let again = bench.unit(6);
    bench.settle(again, true);
    assert_eq!(bench.done().last(), Some(&close(1, Some(2))));
}

#[test]
fn a_recall_gives_back_what_is_not_in_flight() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.grant(0, 1, Some(10));
    let out = bench.unit(1);
    bench.done();
    bench.book.recalled(at(RECALL_GRACE_MS - 1), &mut bench.actions);
    assert_eq!(bench.done(), [], "it has only just come");
    bench.book.recalled(at(RECALL_GRACE_MS), &mut bench.actions);
    assert_eq!(bench.done(), []);
    assert_eq!(bench.take(200), Take::Wait, "nothing more is taken from it");
    bench.done();
    bench.settle(out, true);
    assert_eq!(bench.done(), [close(1, Some(1))]);
}

#[test]
fn a_key_that_stops_being_active_spends_no_more() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.grant(1, 1, Some(10));
    bench.done();
    bench.book.key_changed(false, true, 2, &mut bench.actions);
    assert_eq!(bench.done(), [close(1, Some(0))]);
    assert!(matches!(bench.take(2), Take::Refused { why: LeaseRefusal::KeyNotActive, .. }));
    bench.book.key_changed(true, true, 1, &mut bench.actions);
    assert!(matches!(bench.take(3), Take::Refused { .. }), "an older state changes nothing");
}

#[test]
fn an_answer_that_comes_after_a_revocation_is_not_spent() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.done();
    bench.book.key_changed(false, true, 2, &mut bench.actions);
    bench.grant(1, 1, Some(10));
    assert_eq!(bench.done(), [close(1, Some(0))]);
}

#[test]
fn a_quota_that_comes_or_goes_ends_leases_of_the_old_kind() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.grant(1, 1, None);
    bench.done();
    bench.book.key_changed(true, false, 2, &mut bench.actions);
    assert_eq!(bench.done(), [close(1, None)]);
}

#[test]
fn a_grant_of_nothing_is_a_refusal() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.done();
    bench.grant(1, 1, Some(0));
    assert_eq!(bench.done(), [close(1, Some(0))]);
    assert!(matches!(
        bench.take(2),
        Take::Refused { why: LeaseRefusal::UnitsHeld { .. }, retry_ms: 999 }
    ));
}

#[test]
fn an_ended_epoch_stops_the_node() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.done();
    bench.refuse(1, 1, LeaseRefusal::EpochEnded);
    assert_eq!(bench.done(), [Action::Stop]);
}

#[test]
fn an_events_time_lies_within_its_lease() {
    let mut bench = Bench::new();
    let _ = bench.take(0);
    bench.grant(10, 1, Some(1));
    let unit = bench.unit(11);
    let (from, to) = (lease(1, 10, None).granted_at, lease(1, 10, None).expires_at);
    assert_eq!(unit.at(Timestamp(0)), from);
    assert_eq!(unit.at(Timestamp(i64::MAX)), to.plus_ms(-1));
    assert_eq!(unit.at(from.plus_ms(7)), from.plus_ms(7));
    assert_eq!(unit.hint.map(|hint| (hint.remaining, hint.limit)), Some((100, 1_000)));
    bench.settle(unit, true);
}

#[test]
fn a_recall_takes_a_rate_back_and_the_newest_lease_says_how_fast() {
    let mut bench = Bench::new();
    bench.take(0);
    let rate = RateLimits { per_minute: 60, burst: 5, concurrent: None };
    let lease = Lease { rate: Some(rate), ..lease(1, 0, None) };
    bench.book.granted(at(0), &lease, &mut bench.actions);
    assert_eq!(bench.book.rate(), Some(rate));
    bench.done();
    bench.book.recalled(at(500), &mut bench.actions);
    assert_eq!(bench.done(), [close(1, None)]);
    assert_eq!(bench.book.rate(), None);
}
