//! How fast one core rates: `cargo run --release -p billing-core --example rate [BILLS]`.
//!
//! Rates the shipped plans for `BILLS` tenants (default 300,000) in whole bills, as a closing does: every bill has its
//! own use, some have a plan change, a coupon or a credit. Prints one line of JSON: bill lines per second, and lines of
//! use (a meter's hour) folded per second when each bill has a month of hours. Nothing is kept or written.

#![allow(clippy::disallowed_methods)] // It measures, so it looks at a clock; the crate itself does not.

use std::{error::Error, hint::black_box, time::Instant};

use billing_core::{
    invoice::{Statement, UsageLine, rate_bill},
    plan::{Book, Plan},
};
use schemas::{MeterName, Quantity, time::HOUR_MS};

const PLANS: [&str; 4] = [
    include_str!("../plans/free.v1.json"),
    include_str!("../plans/starter.v1.json"),
    include_str!("../plans/team.v1.json"),
    include_str!("../plans/enterprise.v1.json"),
];
const METERS: [&str; 3] = ["tool_calls", "tokens", "bytes"];
/// Hours of the period.
const HOURS: i64 = 744;

/// A statement of one tenant under a plan; every eighth changes to another in mid-period.
fn statement(number: usize) -> Result<Statement, Box<dyn Error>> {
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
fn usage(number: u64, hours: i64) -> Result<Vec<UsageLine>, Box<dyn Error>> {
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

/// Bill lines and lines of use per second over `bills` bills with `hours` hours of use each.
fn measure(book: &Book, bills: usize, hours: i64) -> Result<(u128, u128), Box<dyn Error>> {
    let kinds: Vec<Statement> = (0..16).map(statement).collect::<Result<_, _>>()?;
    let mut statements = Vec::new();
    for number in 0..256u64 {
        let kind = &kinds[usize::try_from(number)? % kinds.len()];
        statements.push(Statement { usage: usage(number + 1, hours)?, ..kind.clone() });
    }
    let (mut lines, mut used) = (0u128, 0u128);
    let start = Instant::now();
    for number in 0..bills {
        let statement = &statements[number % statements.len()];
        let bill = rate_bill(book, black_box(statement))?;
        lines += u128::try_from(bill.lines.len())?;
        used += u128::try_from(statement.usage.len())?;
        black_box(bill);
    }
    let micros = start.elapsed().as_micros().max(1);
    Ok((lines * 1_000_000 / micros, used * 1_000_000 / micros))
}

fn main() -> Result<(), Box<dyn Error>> {
    let bills: usize = std::env::args().nth(1).map_or(Ok(300_000), |text| text.parse())?;
    let book =
        Book::try_new(PLANS.iter().map(|text| Plan::parse(text)).collect::<Result<Vec<_>, _>>()?)?;
    let (lines, _) = measure(&book, bills, 1)?;
    let (_, used) = measure(&book, bills / 200 + 1, HOURS)?;
    println!("{{\"bills\":{bills},\"rated_lines_per_s\":{lines},\"usage_lines_per_s\":{used}}}");
    Ok(())
}
