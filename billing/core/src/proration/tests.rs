use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::*;
use crate::money::Rounding;

fn at(text: &str) -> Timestamp {
    let text = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    text.parse::<DateTime<Utc>>().unwrap().into()
}

fn period(from: &str, to: &str) -> Period {
    Period { from: at(from), to: at(to) }
}

fn january() -> Period {
    period("2024-01-01", "2024-02-01")
}

fn plan(name: &str) -> PlanRef {
    PlanRef { plan: name.into(), version: 1 }
}

fn subscription(terms: &[(&str, &str)]) -> Subscription {
    let terms = terms.iter().map(|(from, name)| Term { from: at(from), plan: plan(name) });
    Subscription { terms: terms.collect(), trial_until: None, ends_at: None }
}

fn usd() -> Scale {
    Scale { currency: "usd".parse().unwrap(), rounding: Rounding::HalfUp }
}

/// Each segment: its days in January, its plan, whether it is a trial.
fn cut(subscription: &Subscription) -> Vec<(u64, u64, String, bool)> {
    let segments = segments(january(), subscription, Prorate::Day, "UTC").unwrap();
    let show =
        |segment: Segment| (segment.share.from, segment.share.to, segment.plan.plan, segment.trial);
    segments.into_iter().map(show).collect()
}

#[test]
fn shares_of_a_fee() {
    #[track_caller]
    fn check(rule: Prorate, zone: &str, from: &str, to: &str, fee: &str, cents: i64) {
        let part = Subscription { ends_at: Some(at(to)), ..subscription(&[(from, "a")]) };
        let segments = segments(january(), &part, rule, zone).unwrap();
        let amount = segments[0].share.amount(fee.parse().unwrap(), usd());
        assert_eq!(amount.unwrap().units(), cents, "{:?} {from} {to}", segments[0].share);
    }
    // A peers' case (Meteroid): [01-17, 02-01) is 15/31 of January, by day and by second alike.
    check(Prorate::Day, "UTC", "2024-01-17", "2024-02-01", "31", 1500);
    check(Prorate::Second, "UTC", "2024-01-17", "2024-02-01", "31", 1500);
    check(Prorate::Second, "UTC", "2023-06-01", "2024-02-01", "31", 3100);
    check(Prorate::Second, "UTC", "2024-01-16T12:00:00Z", "2024-02-01", "31", 1550);
    // Peers disagree: Stripe prorates by second, others by day. By day a day is whole: it begins at its midnight.
    check(Prorate::Day, "UTC", "2024-01-16T12:00:00Z", "2024-02-01", "31", 1600);
    // 23:30 UTC is the next day in Tokyo.
    check(Prorate::Day, "Asia/Tokyo", "2024-01-16T23:30:00Z", "2024-02-01", "31", 1500);
    check(Prorate::Second, "UTC", "2024-01-31T23:59:59Z", "2024-02-01", "26784", 1);
}

#[test]
fn a_month_with_a_clock_change_has_as_many_days_as_any() {
    // Berlin's March is an hour short: by second its halves differ, by day they do not.
    let march = period("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z");
    let halves = subscription(&[("2026-01-01", "a"), ("2026-03-30T22:00:00Z", "b")]);
    let share = |rule| segments(march, &halves, rule, "Europe/Berlin").unwrap()[1].share;
    assert_eq!(share(Prorate::Day), Share { from: 30, to: 31, of: 31 });
    assert_eq!(share(Prorate::Second), Share { from: 2_588_400, to: 2_674_800, of: 2_674_800 });
}

#[test]
fn a_period_is_cut_where_the_plan_changes() {
    let name = |name: &str| name.to_owned();
    assert_eq!(cut(&subscription(&[])), []);
    assert_eq!(cut(&subscription(&[("2023-05-05", "a")])), [(0, 31, name("a"), false)]);
    assert_eq!(
        cut(&subscription(&[("2023-05-05", "a"), ("2024-01-11", "b"), ("2024-02-05", "c")])),
        [(0, 10, name("a"), false), (10, 31, name("b"), false)]
    );
    // Changes before the period leave only the last; a change at its edge is half-open.
    assert_eq!(
        cut(&subscription(&[("2023-05-05", "a"), ("2023-06-01", "b"), ("2024-01-01", "c")])),
        [(0, 31, name("c"), false)]
    );
    assert_eq!(cut(&subscription(&[("2024-02-01", "a")])), []);
    // Begun and ended inside.
    let inside = Subscription {
        ends_at: Some(at("2024-01-21")),
        ..subscription(&[("2024-01-11", "a"), ("2024-01-25", "b")])
    };
    assert_eq!(cut(&inside), [(10, 20, name("a"), false)]);
    // The same plan again is no change, unless another was between.
    assert_eq!(
        cut(&subscription(&[("2024-01-01", "a"), ("2024-01-11", "a")])),
        [(0, 31, name("a"), false)]
    );
    let back = [("2024-01-01", "a"), ("2024-01-11", "b"), ("2024-01-21", "a")];
    assert_eq!(cut(&subscription(&back)).len(), 3);
}

#[test]
fn a_trial_cuts_too() {
    let name = |name: &str| name.to_owned();
    let terms = subscription(&[("2024-01-01", "a"), ("2024-01-11", "b")]);
    let until = |text: &str| Subscription { trial_until: Some(at(text)), ..terms.clone() };
    assert_eq!(
        cut(&until("2024-01-15")),
        [(0, 10, name("a"), true), (10, 14, name("b"), true), (14, 31, name("b"), false)]
    );
    assert_eq!(cut(&until("2024-01-11"))[1], (10, 31, name("b"), false));
    assert!(cut(&until("2023-12-01")).iter().all(|(_, _, _, trial)| !trial));
    assert!(cut(&until("2024-02-01")).iter().all(|(_, _, _, trial)| *trial));
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let terms = subscription(&[("2024-01-11", "a"), ("2024-01-11", "b")]);
    let order = Err(ProrationError::TermOrder(at("2024-01-11")));
    assert_eq!(segments(january(), &terms, Prorate::Second, "UTC"), order);
    let one = subscription(&[("2024-01-01", "a")]);
    let zone = Err(ProrationError::UnknownZone("Mars/Olympus".into()));
    assert_eq!(segments(january(), &one, Prorate::Second, "Mars/Olympus"), zone);
    let empty = Period { to: january().from, ..january() };
    let nothing = Err(ProrationError::EmptyPeriod);
    assert_eq!(segments(empty, &one, Prorate::Second, "UTC"), nothing);
    let turned = Period { from: january().to, to: january().from };
    assert_eq!(segments(turned, &one, Prorate::Second, "UTC"), nothing);
    let hour = Period { to: january().from.plus_ms(3_600_000), ..january() };
    assert_eq!(segments(hour, &one, Prorate::Day, "UTC"), nothing);
}

proptest! {
    /// However a period is cut, the shares of a fee and of included units add up to the whole.
    #[test]
    fn shares_add_up(
        cuts in prop::collection::btree_set(1u64..2_678_400, 0..8),
        cents in 0i64..100_000_000,
        included: u64,
        rule in 0usize..4,
    ) {
        let rounding = [Rounding::HalfUp, Rounding::HalfEven, Rounding::Up, Rounding::Down][rule];
        let scale = Scale { rounding, ..usd() };
        let fee = Minor::try_new(cents).unwrap();
        let edges: Vec<u64> = [0].into_iter().chain(cuts).chain([2_678_400]).collect();
        let shares: Vec<Share> =
            edges.windows(2).map(|pair| Share { from: pair[0], to: pair[1], of: 2_678_400 }).collect();
        let amounts = shares.iter().map(|share| share.amount(fee.exact(scale.currency), scale).unwrap());
        prop_assert_eq!(Minor::sum(amounts), Ok(fee));
        let units: u64 = shares.iter().map(|share| share.units(Quantity(included)).unwrap().0).sum();
        prop_assert_eq!(units, included);
    }

    /// Segments touch and cover what the subscription covers of the period, and no more.
    #[test]
    fn segments_touch(
        changes in prop::collection::btree_map(-40i64..80, 0usize..3, 1..8),
        trial in prop::option::of(-40i64..80),
        end in prop::option::of(-40i64..80),
    ) {
        let moment = |days: i64| january().from.plus_ms(days * 86_400_000);
        let terms = changes.iter().map(|(day, name)| Term { from: moment(*day), plan: plan(["a", "b", "c"][*name]) });
        let subscription = Subscription {
            terms: terms.collect(),
            trial_until: trial.map(moment),
            ends_at: end.map(moment),
        };
        let segments = segments(january(), &subscription, Prorate::Second, "UTC").unwrap();
        prop_assert!(segments.windows(2).all(|pair| pair[0].period.to == pair[1].period.from));
        let first = moment(*changes.keys().next().unwrap()).max(january().from);
        let last = subscription.ends_at.unwrap_or(january().to).min(january().to);
        match (segments.first(), segments.last()) {
            (Some(head), Some(tail)) => prop_assert_eq!((head.period.from, tail.period.to), (first, last)),
            _ => prop_assert!(first >= last),
        }
        for segment in &segments {
            prop_assert_eq!(segment.trial, subscription.trial_until.is_some_and(|until| segment.period.from < until));
        }
    }
}
