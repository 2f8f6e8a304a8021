use serde_json::{Value, json};

use super::*;

const SHIPPED: [&str; 4] = [
    include_str!("../../plans/free.v1.json"),
    include_str!("../../plans/starter.v1.json"),
    include_str!("../../plans/team.v1.json"),
    include_str!("../../plans/enterprise.v1.json"),
];

/// The plan for small slips: a fee and a meter.
fn plain() -> Value {
    json!({"v": 1, "plan": "p", "version": 1, "title": "P", "prices": {"usd": {"charges": [
        {"charge": "base", "price": {"model": "flat", "amount": "5"}},
        {"charge": "calls", "meter": "tool_calls", "price": {"model": "per_unit", "amount": "0.01"}},
    ]}}})
}

fn parse(json: &Value) -> Result<Plan, PlanError> {
    Plan::parse(&json.to_string())
}

#[test]
fn the_shipped_plans_can_be_charged() {
    let plans = SHIPPED.map(|json| Plan::parse(json).unwrap());
    for plan in &plans {
        assert_eq!(Plan::parse(std::str::from_utf8(&plan.canonical()).unwrap()).as_ref(), Ok(plan));
        assert_eq!(plan.prices.len(), 3, "dollars, euros and yen");
    }
    let book = Book::try_new(plans).unwrap();
    let entry = book.get(&PlanRef { plan: "team".into(), version: 1 }).unwrap();
    assert_eq!(entry.plan.title, "Team");
    assert!(book.get(&PlanRef { plan: "team".into(), version: 2 }).is_none());
}

#[test]
fn a_shipped_version_never_changes() {
    let plans = SHIPPED.map(|json| Plan::parse(json).unwrap());
    let book = Book::try_new(plans.clone()).unwrap();
    let digests = plans.map(|plan| book.get(&plan.reference()).unwrap().digest.clone());
    // To change a price, add a version: bills name these digests.
    assert_eq!(digests, FROZEN);
}

const FROZEN: [&str; 4] = [
    "b1b734e920804106b7951d3058421a1e8d563766bbdb34254fb38a1d004ee7f2",
    "5933097f916a246bcdde955d733224edea156def6a7caf9ecdf7c5fcd331e240",
    "e8848cdfc92bc0a1908e8522d780d85338c55a3bf75daab53185df03b2f54e6a",
    "f475487e606fc9d034e8dedd20cb6275ad1a96f25b83fa64ab70aa0b36fbe492",
];

#[test]
fn a_plan_that_cannot_be_charged_is_refused() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), error: &PlanError) {
        let mut json = plain();
        change(&mut json);
        assert_eq!(parse(&json).as_ref(), Err(error), "{json}");
    }
    fn usd(json: &mut Value) -> &mut Value {
        &mut json["prices"]["usd"]
    }
    assert!(parse(&plain()).is_ok());
    check(|json| json["plan"] = json!("Pro Plan"), &PlanError::Name("Pro Plan".into()));
    check(|json| json["version"] = json!(0), &PlanError::VersionZero);
    check(|json| json["v"] = json!(2), &PlanError::Unreadable("its form is 2".into()));
    check(|json| json["prices"] = json!({}), &PlanError::NoPrices);
    check(|json| usd(json)["maximum"] = json!("-1"), &PlanError::Limits);
    check(|json| usd(json)["minimum"] = json!("0.005"), &PlanError::Limits);
    check(
        |json| {
            usd(json)["minimum"] = json!("2");
            usd(json)["maximum"] = json!("1");
        },
        &PlanError::Limits,
    );
    check(|json| usd(json)["charges"][0]["maximum"] = json!("0.001"), &PlanError::Limits);
    let no_meter = PlanError::Meter("calls".into());
    check(|json| usd(json)["charges"][1]["meter"] = Value::Null, &no_meter);
    let fee_with_meter = PlanError::Meter("base".into());
    check(|json| usd(json)["charges"][0]["meter"] = json!("tokens"), &fee_with_meter);
    let twice = PlanError::Twice("calls".into());
    check(|json| usd(json)["charges"][0]["charge"] = json!("calls"), &twice);
    let price = PlanError::Price { charge: "base".into(), source: PriceError::Negative };
    check(|json| usd(json)["charges"][0]["price"]["amount"] = json!("-5"), &price);
}

#[test]
fn two_prices_for_one_meter_are_refused() {
    let mut json = plain();
    let mut second = json["prices"]["usd"]["charges"][1].clone();
    second["charge"] = json!("more-calls");
    json["prices"]["usd"]["charges"].as_array_mut().unwrap().push(second);
    assert_eq!(parse(&json), Err(PlanError::Twice("tool_calls".into())));
}

#[test]
fn a_plan_charges_for_the_same_things_in_every_currency() {
    let mut json = plain();
    json["prices"]["eur"] = json["prices"]["usd"].clone();
    assert!(parse(&json).is_ok());
    json["prices"]["eur"]["charges"].as_array_mut().unwrap().pop();
    assert_eq!(parse(&json), Err(PlanError::UnlikeCurrencies("usd".parse().unwrap())));
}

#[test]
fn a_slip_in_a_plan_is_refused() {
    for (path, key) in
        [("", "trial"), ("/prices/usd", "minium"), ("/prices/usd/charges/0", "maxmum")]
    {
        let mut json = plain();
        json.pointer_mut(path).unwrap()[key] = json!("1");
        assert!(matches!(parse(&json), Err(PlanError::Unreadable(_))), "{key}");
    }
    let mut json = plain();
    json["prices"] = json!({"dollars": json["prices"]["usd"]});
    assert!(matches!(parse(&json), Err(PlanError::Unreadable(_))));
}

#[test]
fn a_version_is_in_the_book_once() {
    let plan = parse(&plain()).unwrap();
    let twice = Book::try_new([plan.clone(), plan.clone()]).unwrap_err();
    assert_eq!(twice, PlanError::VersionTwice(plan.reference()));
}

#[test]
fn a_trial_ends_whole_days_later() {
    let plan = Plan { trial_days: 14, ..parse(&plain()).unwrap() };
    assert_eq!(plan.trial_end(Timestamp(5)), Some(Timestamp(5 + 14 * 86_400_000)));
    assert_eq!(parse(&plain()).unwrap().trial_end(Timestamp(5)), None);
}
