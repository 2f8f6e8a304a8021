use chrono::{DateTime, Utc};
use schemas::{MeterName, Period, Quantity, TenantId};
use serde_json::{Value, json};

use super::*;
use crate::{money::Minor, plan::Plan};

pub(super) fn at(text: &str) -> Timestamp {
    let text = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    text.parse::<DateTime<Utc>>().unwrap().into()
}

pub(super) fn meter(name: &str) -> MeterName {
    name.parse().unwrap()
}

/// A plan `name`, version 1, with these charges (and limits) in dollars.
pub(super) fn plan(name: &str, list: &Value) -> Plan {
    let plan = json!({"v": 1, "plan": name, "version": 1, "title": name, "prices": {"usd": list}});
    Plan::parse(&plan.to_string()).unwrap()
}

fn list(charges: &Value) -> Value {
    json!({"charges": charges})
}

/// A statement of January 2024 in dollars, under these plans from these days on.
pub(super) fn january(terms: &[(&str, &str)], usage: &[(&str, &str, u64)]) -> Statement {
    let terms: Vec<Value> = terms
        .iter()
        .map(|(from, plan)| json!({"from": at(from), "plan": {"plan": plan, "version": 1}}))
        .collect();
    let usage: Vec<Value> = usage
        .iter()
        .map(|(meter, from, units)| json!({"meter": meter, "at": at(from), "quantity": units}))
        .collect();
    let statement = json!({
        "engine": ENGINE,
        "tenant": TenantId(uuid(7)).to_string(),
        "period": Period { from: at("2024-01-01"), to: at("2024-02-01") },
        "currency": "usd",
        "time_zone": "UTC",
        "log": {"stream": "LOG", "first": 1, "last": 900},
        "closing": true,
        "subscription": {"terms": terms},
        "usage": usage,
    });
    serde_json::from_value(statement).unwrap()
}

pub(super) fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

pub(super) fn with(mut statement: Statement, change: impl FnOnce(&mut Statement)) -> Statement {
    change(&mut statement);
    statement
}

fn coupon(off: &Value, lasts: &Value, uses: u32) -> AppliedCoupon {
    let coupon = json!({"coupon": format!("{off}"), "off": off, "lasts": lasts});
    AppliedCoupon { coupon: serde_json::from_value(coupon).unwrap(), uses }
}

pub(super) fn grant(name: &str, of: &Value, left: u64) -> crate::credit::Grant {
    let grant = json!({"grant": name, "of": of, "granted_at": at("2023-12-01"), "left": left});
    serde_json::from_value(grant).unwrap()
}

pub(super) fn bill(plans: &[Plan], statement: &Statement) -> Bill {
    rate_bill(&Book::try_new(plans.to_vec()).unwrap(), statement).unwrap()
}

fn refusal(plans: &[Plan], statement: &Statement) -> BillError {
    rate_bill(&Book::try_new(plans.to_vec()).unwrap(), statement).unwrap_err()
}

/// Each line's amount in cents.
pub(super) fn amounts(bill: &Bill) -> Vec<i64> {
    bill.lines.iter().map(|line| line.amount.units()).collect()
}

fn total(bill: &Bill) -> i64 {
    bill.total.units()
}

/// A fee of 31 dollars, and calls at a cent past 1,000.
pub(super) fn basic(name: &str) -> Plan {
    plan(
        name,
        &list(&json!([
            {"charge": "base", "price": {"model": "flat", "amount": "31"}},
            {"charge": "calls", "meter": "tool_calls",
             "price": {"model": "per_unit", "amount": "10", "per": 1000, "included": 1000}},
        ])),
    )
}

/// A fee of 62 dollars, and calls at half a cent.
pub(super) fn better() -> Plan {
    plan(
        "better",
        &list(&json!([
            {"charge": "base", "price": {"model": "flat", "amount": "62"}},
            {"charge": "calls", "meter": "tool_calls", "price": {"model": "per_unit", "amount": "0.005"}},
        ])),
    )
}

#[test]
fn a_bill_says_why_each_line_costs_what_it_costs() {
    let statement = january(
        &[("2023-05-01", "basic")],
        &[("tool_calls", "2024-01-05T07:00:00Z", 900), ("tool_calls", "2024-01-31T23:00:00Z", 600)],
    );
    let bill = bill(&[basic("basic")], &statement);
    assert_eq!(
        bill.explain(),
        [
            "base: fee of 31 = 31.00 usd",
            "calls: 1500 tool_calls: 1000 included, 500 at 10 per 1000 = 5.00 usd"
        ]
    );
    assert_eq!((bill.subtotal.units(), total(&bill)), (3600, 3600));
    assert_eq!((bill.engine, bill.log.last, bill.terms[0].digest.len()), (ENGINE, 900, 64));
}

#[test]
fn a_plan_change_cuts_fees_by_time_and_use_by_its_hour() {
    // From the 17th on (15/31 of the month) under the better plan; the hour that begins then is the first of it.
    let statement = january(
        &[("2023-05-01", "basic"), ("2024-01-17", "better")],
        &[
            ("tool_calls", "2024-01-16T23:00:00Z", 1200),
            ("tool_calls", "2024-01-17T00:00:00Z", 600),
            ("tool_calls", "2024-01-20T00:00:00Z", 400),
        ],
    );
    let bill = bill(&[basic("basic"), better()], &statement);
    assert_eq!(amounts(&bill), [1600, 200, 3000, 500]);
    assert_eq!(bill.explain()[2], "base: fee of 62 for 1296000/2678400 of the period = 30.00 usd");
    assert_eq!(total(&bill), 5300);
}

#[test]
fn included_units_are_whole_or_prorated_as_the_plan_says() {
    let terms = [("2023-05-01", "basic"), ("2024-01-17", "other")];
    let usage = [
        ("tool_calls", "2024-01-02T00:00:00Z", 1000),
        ("tool_calls", "2024-01-20T00:00:00Z", 1000),
    ];
    let statement = january(&terms, &usage);
    let whole = [basic("basic"), basic("other")];
    assert_eq!(amounts(&bill(&whole, &statement)), [1600, 0, 1500, 0]);
    // 16/31 and 15/31 of 1,000: 516 and 484.
    let prorated = whole.map(|plan| Plan { allowance: crate::plan::Allowance::Prorated, ..plan });
    assert_eq!(amounts(&bill(&prorated, &statement)), [1600, 484, 1500, 516]);
}

#[test]
fn a_trial_costs_nothing_and_shows_its_use() {
    let statement = january(
        &[("2024-01-01", "basic")],
        &[
            ("tool_calls", "2024-01-03T00:00:00Z", 9000),
            ("tool_calls", "2024-01-20T00:00:00Z", 1100),
        ],
    );
    let statement = with(statement, |one| one.subscription.trial_until = Some(at("2024-01-17")));
    let bill = bill(&[basic("basic")], &statement);
    assert_eq!(amounts(&bill), [0, 0, 1500, 100]);
    assert_eq!(bill.explain()[1], "calls: 9000 tool_calls: trial = 0.00 usd");
}

#[test]
fn a_charge_has_its_own_minimum_and_maximum() {
    // OpenMeter: the volume price with a minimum of 150 and with a maximum of 125.
    #[track_caller]
    fn check(limit: (&str, &str), units: u64, rated: i64, adjustment: i64) {
        let mut charge = json!({"charge": "calls", "meter": "tool_calls", "price": {
            "model": "volume", "flat_at_zero": true, "tiers": [{"up_to": 5, "flat": "100"},
            {"up_to": 10, "flat": "150"}, {"up_to": 15, "unit": "10"}, {"unit": "5"}]}});
        charge[limit.0] = json!(limit.1);
        let plan = plan("p", &list(&json!([charge])));
        let statement =
            january(&[("2023-05-01", "p")], &[("tool_calls", "2024-01-04T00:00:00Z", units)]);
        let bill = bill(&[plan], &statement);
        let line = &bill.lines[0];
        assert_eq!((line.rated.units(), line.adjustment.units()), (rated, adjustment));
        assert_eq!(total(&bill), rated + adjustment);
    }
    check(("minimum", "150"), 0, 10_000, 5_000);
    check(("minimum", "150"), 7, 15_000, 0);
    check(("maximum", "125"), 7, 15_000, -2_500);
    check(("maximum", "125"), 16, 8_000, 0);
}

#[test]
fn limits_of_a_part_of_a_period_are_prorated() {
    let charge = json!([{"charge": "calls", "meter": "tool_calls",
        "price": {"model": "per_unit", "amount": "1"}, "minimum": "31", "maximum": "62"}]);
    let plan = plan("p", &list(&charge));
    let statement =
        |units| january(&[("2024-01-17", "p")], &[("tool_calls", "2024-01-20T00:00:00Z", units)]);
    assert_eq!(total(&bill(std::slice::from_ref(&plan), &statement(3))), 1500);
    assert_eq!(total(&bill(std::slice::from_ref(&plan), &statement(20))), 2000);
    assert_eq!(total(&bill(&[plan], &statement(99))), 3000);
}

#[test]
fn a_charges_minimum_waits_for_the_end_of_the_period() {
    let charge = json!([{"charge": "calls", "meter": "tool_calls",
        "price": {"model": "per_unit", "amount": "1"}, "minimum": "31"}]);
    let plan = plan("p", &list(&charge));
    let usage = [("tool_calls", "2024-01-04T00:00:00Z", 5)];
    let early = with(january(&[("2023-05-01", "p")], &usage), |one| one.closing = false);
    assert_eq!(total(&bill(&[plan], &early)), 500);
}

/// A plan with calls at a dollar each, and a minimum or maximum.
fn committed(name: &str, minimum: Option<&str>, maximum: Option<&str>) -> Plan {
    let mut list = list(&json!([{"charge": "calls", "meter": "tool_calls",
        "price": {"model": "per_unit", "amount": "1"}}]));
    for (key, limit) in [("minimum", minimum), ("maximum", maximum)] {
        if let Some(limit) = limit {
            list[key] = json!(limit);
        }
    }
    plan(name, &list)
}

#[test]
fn a_commitment_tops_up_what_was_billed_before_the_closing() {
    // OpenMeter: minimum 1000, 100 already billed: the last bill adds 900. A bill before the end adds nothing.
    let plan = committed("p", Some("1000"), None);
    let early = january(&[("2023-05-01", "p")], &[("tool_calls", "2024-01-04T00:00:00Z", 100)]);
    let early = with(early, |one| one.closing = false);
    let closing = with(early.clone(), |one| one.closing = true);
    let (early, closing) = (bill(std::slice::from_ref(&plan), &early), bill(&[plan], &closing));
    assert_eq!((total(&early), total(&closing)), (10_000, 100_000));
    let last = closing.since(&early).unwrap();
    assert_eq!((last.difference.units(), last.settlement.units()), (90_000, 90_000));
    assert_eq!(last.lines, []);
}

#[test]
fn each_term_is_held_to_its_own_share_of_its_plans_limits() {
    let plans = [committed("small", Some("31"), None), committed("big", None, Some("62"))];
    let spent = |early, late| {
        let terms = [("2023-05-01", "small"), ("2024-01-17", "big")];
        let days = ["2024-01-04T00:00:00Z", "2024-01-18T00:00:00Z"];
        let usage = [("tool_calls", days[0], early), ("tool_calls", days[1], late)];
        let bill = bill(&plans, &january(&terms, &usage));
        let limits = bill.commitments.iter().map(|one| (one.term, one.kind, one.limit.units()));
        (total(&bill), limits.collect::<Vec<_>>())
    };
    let minimum = (0, CommitmentKind::Minimum, 1600); // 16/31 of 31 dollars.
    let maximum = (1, CommitmentKind::Maximum, 3000); // 15/31 of 62 dollars.
    assert_eq!(spent(20, 20), (4_000, vec![]));
    assert_eq!(spent(0, 20), (3_600, vec![minimum]));
    assert_eq!(spent(20, 99), (5_000, vec![maximum]));
    assert_eq!(spent(0, 99), (4_600, vec![minimum, maximum]));
}

#[test]
fn the_order_is_coupons_then_minimum_then_maximum_then_credits() {
    let plan = committed("p", Some("80"), Some("90"));
    let rate = |units, off: &str, credit| {
        let statement =
            january(&[("2023-05-01", "p")], &[("tool_calls", "2024-01-04T00:00:00Z", units)]);
        let statement = with(statement, |one| {
            one.coupons = vec![coupon(&json!({"percent": off}), &json!("forever"), 0)];
            one.grants = vec![grant("g", &json!({"money": "usd"}), credit)];
        });
        total(&bill(std::slice::from_ref(&plan), &statement))
    };
    assert_eq!(rate(100, "15", 0), 8_500);
    assert_eq!(rate(100, "50", 0), 8_000, "the commitment is what is paid, coupons or not");
    assert_eq!(rate(200, "50", 0), 9_000, "the maximum too");
    assert_eq!(rate(100, "50", 3_000), 5_000, "credits pay the commitment");
    assert_eq!(rate(100, "50", 99_999), 0, "all of it");
    assert_eq!(rate(100, "15", 99_999), 0, "never below nothing");
}

#[test]
fn coupons_come_off_in_order_and_are_spread_over_the_lines() {
    let statement =
        january(&[("2023-05-01", "basic")], &[("tool_calls", "2024-01-04T00:00:00Z", 1900)]);
    let statement = with(statement, |one| {
        one.coupons = vec![
            coupon(&json!({"amount": {"usd": "10"}}), &json!("once"), 0),
            coupon(&json!({"percent": "10"}), &json!({"repeating": 2}), 1),
            coupon(&json!({"percent": "50"}), &json!("once"), 1), // Used up: not on the bill.
        ];
    });
    let bill = bill(&[basic("basic")], &statement);
    // 31 + 9 = 40; less 10 = 30; less 10 % of what is left = 27.
    assert_eq!(total(&bill), 2_700);
    let taken: Vec<i64> = bill.discounts.iter().map(|one| one.amount.units()).collect();
    assert_eq!(taken, [1_000, 300]);
    let shares: Vec<i64> = bill.lines.iter().map(|line| line.discount.units()).collect();
    assert_eq!(shares, [775 + 233, 225 + 67], "by largest remainder: 232.5 and 67.5");
}

#[test]
fn grants_of_money_pay_if_they_count_at_the_end_of_the_period() {
    let money = json!({"money": "usd"});
    let statement = with(january(&[("2023-05-01", "basic")], &[]), |one| {
        one.grants = vec![
            crate::credit::Grant {
                expires_at: Some(at("2024-01-31")),
                ..grant("gone", &money, 500)
            },
            crate::credit::Grant { granted_at: at("2024-02-01"), ..grant("later", &money, 500) },
            crate::credit::Grant { priority: 1, ..grant("second", &money, 9_000) },
            grant("first", &money, 1_000),
        ];
    });
    let bill = bill(&[basic("basic")], &statement);
    let draws: Vec<_> =
        bill.credits.iter().map(|one| (one.grant.as_str(), one.used, one.left)).collect();
    assert_eq!(draws, [("first", 1_000, 0), ("second", 2_100, 6_900)]);
    assert_eq!((bill.subtotal.units(), total(&bill)), (3_100, 0));
}

#[test]
fn a_bill_is_whole_or_is_not() {
    let plans = [basic("basic")];
    let fine = january(&[("2023-05-01", "basic")], &[("tool_calls", "2024-01-04T00:00:00Z", 5)]);
    #[track_caller]
    fn check(
        plans: &[Plan],
        statement: &Statement,
        change: impl FnOnce(&mut Statement),
        error: &BillError,
    ) {
        assert_eq!(&refusal(plans, &with(statement.clone(), change)), error);
    }
    check(&plans, &fine, |one| one.engine = 2, &BillError::UnknownEngine(2));
    check(&plans, &fine, |one| one.log.first = 901, &BillError::LogRange);
    let outside = BillError::OutsidePeriod(at("2024-02-01"));
    check(&plans, &fine, |one| one.usage[0].at = at("2024-02-01"), &outside);
    let reference = basic("basic").reference();
    let unknown = PlanRef { version: 2, ..reference.clone() };
    let missing = BillError::UnknownPlan(unknown.clone());
    check(&plans, &fine, |one| one.subscription.terms[0].plan = unknown, &missing);
    let currency = "eur".parse().unwrap();
    let euros = BillError::OtherCurrency { plan: reference, currency };
    check(&plans, &fine, |one| one.currency = currency, &euros);
    let given = grant("g", &json!({"money": "usd"}), 1);
    let twice = BillError::Twice("g".into());
    check(&plans, &fine, |one| one.grants = vec![given.clone(), given], &twice);
    let half = coupon(&json!({"percent": "50"}), &json!("once"), 0);
    let twice = BillError::Twice(half.coupon.coupon.clone());
    check(&plans, &fine, |one| one.coupons = vec![half.clone(), half], &twice);
    let huge = BillError::Amount(AmountError);
    check(&plans, &fine, |one| one.usage[0].quantity = Quantity(u64::MAX), &huge);
    let twice = |one: &mut Statement| {
        one.usage = vec![one.usage[0].clone(), one.usage[0].clone()];
        one.usage[0].quantity = Quantity(u64::MAX);
    };
    check(&plans, &fine, twice, &huge);
}

#[test]
fn an_empty_bill_is_a_bill() {
    let bill = bill(&[], &january(&[], &[("tool_calls", "2024-01-04T00:00:00Z", 5)]));
    assert_eq!((total(&bill), bill.lines.len(), bill.unbilled.len()), (0, 0, 1));
    assert_eq!(Minor::ZERO, bill.subtotal);
}
