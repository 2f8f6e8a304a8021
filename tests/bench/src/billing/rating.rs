//! How fast one core rates: the shipped plans in whole bills, as a closing does. Every bill has its own use; some have a
//! plan change, a coupon or a credit. Nothing is kept or written.

use std::{hint::black_box, time::Instant};

use billing_core::{
    invoice::{Statement, UsageLine, rate_bill},
    plan::{Book, Plan},
};
use schemas::{MeterName, Quantity, time::HOUR_MS};

use crate::{Outcome, report::measure};

const PLANS: [&str; 4] = [
    include_str!("../../../../billing/core/plans/free.v1.json"),
    include_str!("../../../../billing/core/plans/starter.v1.json"),
    include_str!("../../../../billing/core/plans/team.v1.json"),
    include_str!("../../../../billing/core/plans/enterprise.v1.json"),
];
const METERS: [&str; 3] = ["tool_calls", "tokens", "bytes"];
/// Hours of the period.
const HOURS: i64 = 744;

/// A statement of one tenant under a plan; every eighth changes to another in mid-period.
fn statement(number: usize) -> Outcome<Statement> {
    let plan = |place: usize| ["free", "starter", "team", "enterprise"][place % 4];
    let mut terms =
        vec![format!(r#"{{"from":0,"plan":{{"plan":"{}","version":1}}}}"#, plan(number))];
    if number % 8 == 3 {
        let to = plan(number + 3);
        terms.push(format!(r#"{{"from":1300000000,"plan":{{"plan":"{to}","version":1}}}}"#));
    }
    let coupons = if number % 16 == 5 {
        r#"[{"coupon":{"coupon":"c","off":{"percent":"10"},"lasts":"forever"}}]"#
    } else {
        "[]"
    };
    let grants = if number % 16 == 9 {
        r#"[{"grant":"g","of":{"money":"usd"},"granted_at":0,"left":500}]"#
    } else {
        "[]"
    };
    let text = format!(
        r#"{{"engine":1,"tenant":"tnt_{number:032x}","period":{{"from":0,"to":{to}}},"currency":"usd",
        "time_zone":"UTC","log":{{"stream":"LOG","first":1,"last":2}},"closing":true,
        "subscription":{{"terms":[{terms}]}},"usage":[],"coupons":{coupons},"grants":{grants}}}"#,
        to = HOURS * HOUR_MS,
        terms = terms.join(","),
    );
    Ok(serde_json::from_str(&text)?)
}

/// Use of every meter in `hours` hours, different for each tenant.
fn usage(number: u64, hours: i64) -> Outcome<Vec<UsageLine>> {
    let mut lines = Vec::new();
    for name in METERS {
        let meter: MeterName = name.parse()?;
        let line = |hour: i64| UsageLine {
            meter: meter.clone(),
            at: schemas::Hour(hour * (HOURS / hours)).start(),
            quantity: Quantity(number.wrapping_mul(7_919) % 2_000_003 * 31 / hours.unsigned_abs()),
        };
        lines.extend((0..hours).map(line));
    }
    Ok(lines)
}

/// Bill lines a second over whole bills, and lines of use folded a second when each bill has a month of hours.
pub fn run(bills: usize) -> Outcome<(f64, f64)> {
    let plans: Result<Vec<Plan>, _> = PLANS.iter().map(|text| Plan::parse(text)).collect();
    let book = Book::try_new(plans?)?;
    let (lines, _) = rate(&book, bills, 1)?;
    let (_, used) = rate(&book, bills / 200 + 1, HOURS)?;
    Ok((lines, used))
}

/// Rates `bills` bills with `hours` hours of use each.
fn rate(book: &Book, bills: usize, hours: i64) -> Outcome<(f64, f64)> {
    let kinds: Vec<Statement> = (0..16).map(statement).collect::<Result<_, _>>()?;
    let mut statements = Vec::new();
    for number in 0..256u64 {
        let kind = &kinds[usize::try_from(number)? % kinds.len()];
        statements.push(Statement { usage: usage(number + 1, hours)?, ..kind.clone() });
    }
    let (mut lines, mut used) = (0u64, 0u64);
    let start = Instant::now();
    for number in 0..bills {
        let statement = &statements[number % statements.len()];
        let bill = rate_bill(book, black_box(statement))?;
        lines += bill.lines.len() as u64;
        used += statement.usage.len() as u64;
        black_box(bill);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok((measure(lines) / seconds, measure(used) / seconds))
}
