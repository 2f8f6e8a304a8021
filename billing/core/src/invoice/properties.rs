//! Laws of bills, over plans, changes, coupons, credits and use of any size.

use std::collections::BTreeMap;

use proptest::prelude::*;
use schemas::{Quantity, Timestamp};
use serde_json::json;

use super::{
    Bill, Statement, UsageLine, rate_bill,
    tests::{at, january, meter, plan},
};
use crate::{
    money::Minor,
    plan::{Book, Plan},
    price::Price,
    rate::properties::prices,
};

const METERS: [&str; 3] = ["tool_calls", "tokens", "bytes"];
const PLANS: [&str; 3] = ["a", "b", "c"];
const DAY_MS: i64 = 86_400_000;

/// A plan with a fee, two of three meters and perhaps limits.
fn plans(name: &'static str) -> impl Strategy<Value = Plan> {
    let usage = || prices().prop_filter("for use", |price| !matches!(price, Price::Flat { .. }));
    let limits = prop::option::of((0u32..500, 0u32..5_000));
    (0u32..100_000, usage(), usage(), limits, any::<bool>(), any::<bool>()).prop_map(
        move |(cents, first, second, limits, on_charge, prorated)| {
            let mut list = json!({"charges": [
                {"charge": "base", "price": {"model": "flat", "amount": format!("{}.{:02}", cents / 100, cents % 100)}},
                {"charge": "one", "meter": METERS[0], "price": first},
                {"charge": "two", "meter": METERS[1], "price": second},
            ]});
            if let Some((minimum, more)) = limits {
                let place = if on_charge { &mut list["charges"][1] } else { &mut list };
                place["minimum"] = json!(minimum.to_string());
                place["maximum"] = json!((minimum + more).to_string());
            }
            let mut plan = plan(name, &list);
            if prorated {
                plan.allowance = crate::plan::Allowance::Prorated;
            }
            plan
        },
    )
}

fn books() -> impl Strategy<Value = Book> {
    (plans(PLANS[0]), plans(PLANS[1]), plans(PLANS[2]))
        .prop_map(|(a, b, c)| Book::try_new([a, b, c]).unwrap())
}

fn usage() -> impl Strategy<Value = Vec<UsageLine>> {
    let line = (0usize..3, 0i64..744, 0u64..100_000).prop_map(|(name, hour, units)| UsageLine {
        meter: meter(METERS[name]),
        at: at("2024-01-01").plus_ms(hour * 3_600_000),
        quantity: Quantity(units),
    });
    prop::collection::vec(line, 0..40)
}

fn statements() -> impl Strategy<Value = Statement> {
    let terms = prop::collection::btree_map(-20i64..40, 0usize..3, 0..5);
    let edges = (prop::option::of(-20i64..40), prop::option::of(0i64..40));
    let coupons = prop::collection::vec((any::<bool>(), 1u32..100, 0u32..3), 0..3);
    let grants =
        prop::collection::vec((0usize..4, 0u64..200_000, prop::option::of(1i64..40)), 0..4);
    (terms, edges, usage(), coupons, grants, any::<bool>()).prop_map(
        |(terms, (trial, end), usage, coupons, grants, closing)| {
            let day = |days: i64| at("2024-01-01").plus_ms(days * DAY_MS);
            let mut statement = january(&[], &[]);
            let term = |(days, name): (i64, usize)| {
                json!({"from": day(days), "plan": {"plan": PLANS[name], "version": 1}})
            };
            let terms = terms.into_iter().map(term).collect::<Vec<_>>();
            statement.subscription.terms = serde_json::from_value(json!(terms)).unwrap();
            statement.subscription.trial_until = trial.map(day);
            statement.subscription.ends_at = end.map(day);
            statement.usage = usage;
            statement.closing = closing;
            let coupon = |(place, (percent, size, uses)): (usize, (bool, u32, u32))| {
                let off = if percent {
                    json!({"percent": size.to_string()})
                } else {
                    json!({"amount": {"usd": size.to_string()}})
                };
                json!({"coupon": {"coupon": format!("c{place}"), "off": off, "lasts": {"repeating": 2}}, "uses": uses})
            };
            let coupons = coupons.into_iter().enumerate().map(coupon).collect::<Vec<_>>();
            statement.coupons = serde_json::from_value(json!(coupons)).unwrap();
            let grant = |(place, (of, left, end)): (usize, (usize, u64, Option<i64>))| {
                let of = METERS.get(of).map_or(json!({"money": "usd"}), |name| json!({"units": name}));
                json!({"grant": format!("g{place}"), "of": of, "granted_at": day(-30), "left": left,
                       "expires_at": end.map(day)})
            };
            let grants = grants.into_iter().enumerate().map(grant).collect::<Vec<_>>();
            statement.grants = serde_json::from_value(json!(grants)).unwrap();
            statement
        },
    )
}

fn sum(amounts: impl Iterator<Item = Minor>) -> i64 {
    amounts.map(Minor::units).sum()
}

/// Units of each meter, on lines or unbilled.
fn units(bill: &Bill) -> BTreeMap<String, u64> {
    let mut units = BTreeMap::new();
    let lines = bill.lines.iter().filter_map(|line| Some((line.meter.as_ref()?, line.quantity)));
    let unbilled = bill.unbilled.iter().map(|one| (&one.meter, one.quantity));
    for (meter, quantity) in lines.chain(unbilled).filter(|(_, quantity)| quantity.0 > 0) {
        *units.entry(meter.to_string()).or_default() += quantity.0;
    }
    units
}

proptest! {
    /// Parts make lines, lines make the subtotal, and everything after it leads to the total.
    #[test]
    fn everything_adds_up(book in books(), statement in statements()) {
        let bill = rate_bill(&book, &statement).unwrap();
        for line in &bill.lines {
            prop_assert_eq!(line.rated.units() + line.adjustment.units(), line.amount.units());
            prop_assert!(line.amount >= Minor::ZERO && line.discount <= line.amount);
            if line.fee.is_none() {
                prop_assert_eq!(sum(line.parts.iter().map(|part| part.amount)), line.rated.units());
                let priced: u64 = line.parts.iter().map(|part| part.quantity.0).sum();
                let trial = bill.terms[usize::try_from(line.term).unwrap()].trial;
                prop_assert_eq!(priced, if trial { 0 } else { line.quantity.0 - line.granted.0 });
            }
        }
        let discounts = sum(bill.discounts.iter().map(|one| one.amount));
        prop_assert_eq!(sum(bill.lines.iter().map(|line| line.discount)), discounts);
        prop_assert_eq!(sum(bill.lines.iter().map(|line| line.amount)), bill.subtotal.units());
        let commitments = sum(bill.commitments.iter().map(|one| one.amount));
        let credits: u64 = bill.credits.iter().map(|one| one.used).sum();
        let total = bill.subtotal.units() - discounts + commitments - i64::try_from(credits).unwrap();
        prop_assert_eq!(total, bill.total.units());
        prop_assert!(bill.total >= Minor::ZERO);
    }

    /// Every unit is on one line or unbilled, whatever the plan changes; grants cover no more than there was.
    #[test]
    fn units_are_conserved(book in books(), statement in statements()) {
        let bill = rate_bill(&book, &statement).unwrap();
        let mut used: BTreeMap<String, u64> = BTreeMap::new();
        for line in statement.usage.iter().filter(|line| line.quantity.0 > 0) {
            *used.entry(line.meter.to_string()).or_default() += line.quantity.0;
        }
        prop_assert_eq!(units(&bill), used);
        let granted: u64 = bill.lines.iter().map(|line| line.granted.0).sum();
        prop_assert_eq!(granted, bill.unit_credits.iter().map(|one| one.used).sum::<u64>());
    }

    /// The same input gives the same bytes; the order of the use and of the grants, and use told in pieces, change
    /// nothing; and the bytes read back as the bill.
    #[test]
    fn the_same_facts_give_the_same_bytes(book in books(), statement in statements(), turn: prop::sample::Index, cut in 1u64..1000) {
        let bill = rate_bill(&book, &statement).unwrap();
        let bytes = bill.canonical();
        prop_assert_eq!(&rate_bill(&book, &statement).unwrap().canonical(), &bytes);
        prop_assert_eq!(&serde_json::from_slice::<Bill>(&bytes).unwrap(), &bill);
        let mut other = statement.clone();
        other.usage = statement.usage.iter().flat_map(|line| {
            let piece = line.quantity.at_most(Quantity(cut));
            let rest = line.quantity.left_after(piece);
            [piece, rest].map(|quantity| UsageLine { quantity, ..line.clone() })
        }).collect();
        if !other.usage.is_empty() {
            let middle = turn.index(other.usage.len());
            other.usage.rotate_left(middle);
        }
        other.grants.reverse();
        prop_assert_eq!(&rate_bill(&book, &other).unwrap().canonical(), &bytes);
        let written = serde_json::to_vec(&statement).unwrap();
        let read: Statement = serde_json::from_slice(&written).unwrap();
        prop_assert_eq!(&rate_bill(&book, &read).unwrap().canonical(), &bytes);
    }

    /// A bill and its correction are the later bill, whatever was different.
    #[test]
    fn a_bill_and_its_correction_are_the_later_bill(book in books(), before in statements(), after in statements()) {
        let (before, after) = (rate_bill(&book, &before).unwrap(), rate_bill(&book, &after).unwrap());
        let correction = after.since(&before).unwrap();
        prop_assert_eq!(before.total.units() + correction.difference.units(), after.total.units());
        let lines: i64 = correction.lines.iter().map(|one| one.amount_after.units() - one.amount_before.units()).sum();
        prop_assert_eq!(lines + correction.settlement.units(), correction.difference.units());
        prop_assert_eq!(before.since(&before).unwrap().lines, vec![]);
    }

    /// Any quantity is billed or refused: never a panic, never a wrapped amount.
    #[test]
    fn any_quantity_is_billed_or_refused(book in books(), statement in statements(), huge in prop::collection::vec((0usize..3, any::<u64>()), 1..4)) {
        let mut statement = statement;
        let line = |(name, units): (usize, u64)| UsageLine {
            meter: meter(METERS[name]),
            at: Timestamp(statement.period.from.0 + DAY_MS),
            quantity: Quantity(units),
        };
        statement.usage.extend(huge.into_iter().map(line).collect::<Vec<_>>());
        if let Ok(bill) = rate_bill(&book, &statement) {
            prop_assert!(bill.total >= Minor::ZERO && bill.total <= Minor::MAX);
        }
    }
}
