//! `GET /v1/billing/meters/{id}/event_summaries`.
//!
//! Start is inclusive, end exclusive (unless the account's settings say otherwise), both on a minute, or on an hour or UTC day when grouped. Groups without events have no row;
//! rows come newest first, ten unless asked otherwise. An event shows once the configured lag has passed since its receipt.
//! The row names no customer, as at Stripe. Ids follow from the row, so a cursor stays good between calls.

use super::{Answer, Call};
use crate::error::ApiError;
use crate::ids;
use crate::list::{self, Page};
use crate::params::Params;
use crate::settings::SummaryEnd;
use crate::store::usage::{self, Row};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `GET /v1/billing/meters/{id}/event_summaries`.
pub fn list(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.meters.get(id);
    let meter = found.ok_or_else(|| ApiError::not_found("billing meter", id))?;
    let formula = meter["default_aggregation"]["formula"].as_str().unwrap_or_default().to_owned();
    let customer = params.required_text("customer")?;
    if call.world.store.customers.get(&customer).is_none() {
        return Err(ApiError::no_such("customer", &customer, "customer"));
    }
    let (start, end) =
        (params.int("start_time").unwrap_or_default(), params.int("end_time").unwrap_or_default());
    let window = params.text("value_grouping_window");
    let page = Page::take(&mut params)?;
    params.finish()?;
    let step = check_alignment(start, end, window.as_deref())?;

    let mut groups: BTreeMap<i64, Vec<&Row>> = BTreeMap::new();
    // Where the end belongs to it, an event of that very second is in the last group.
    let past = i64::from(call.world.settings.summary_end == SummaryEnd::Inclusive);
    for row in call.world.usage.between(id, &customer, start, end + past) {
        if row.received_at_ms + call.summary_lag_ms <= call.now_ms {
            let group = if window.is_some() {
                row.timestamp.min(end - 1).div_euclid(step) * step
            } else {
                start
            };
            groups.entry(group).or_default().push(row);
        }
    }
    let rows: Vec<Value> = groups
        .iter()
        .rev()
        .map(|(from, rows)| {
            let to = if window.is_some() { from + step } else { end };
            summary(id, &customer, (*from, to), &aggregate(&formula, rows))
        })
        .collect();
    let (cut, has_more) = page.cut("billing meter event summary", rows.iter(), |_| true)?;
    let url = format!("/v1/billing/meters/{id}/event_summaries");
    Ok(list::object(&url, cut.into_iter().cloned().collect(), has_more))
}

/// The length of a group in seconds.
fn check_alignment(start: i64, end: i64, window: Option<&str>) -> Result<i64, ApiError> {
    let (step, unit) = match window {
        Some("hour") => (3_600, "hour"),
        Some("day") => (86_400, "UTC day"),
        _ => (60, "minute"),
    };
    for (name, at) in [("start_time", start), ("end_time", end)] {
        if at.rem_euclid(step) != 0 {
            return Err(ApiError::invalid(
                name,
                format!("`{name}` must be aligned with {unit} boundaries."),
            ));
        }
    }
    if start >= end {
        return Err(ApiError::invalid("end_time", "`end_time` must be after `start_time`."));
    }
    Ok(step)
}

/// One value of many rows, in order of time and arrival, by the formula of their meter.
pub fn aggregate(formula: &str, rows: &[&Row]) -> Decimal {
    match formula {
        "count" => Decimal::from(rows.len()),
        // Rows are in order of time, then of arrival: the last one is the last.
        "last" => rows.last().and_then(|row| row.value).unwrap_or_default(),
        _ => rows.iter().fold(Decimal::ZERO, |sum, row| usage::add(sum, row.value)),
    }
}

fn summary(meter: &str, customer: &str, (start, end): (i64, i64), value: &Decimal) -> Value {
    let material =
        [meter.as_bytes(), customer.as_bytes(), &start.to_be_bytes(), &end.to_be_bytes()];
    json!({
        "id": ids::derive(ids::SUMMARY, &material), "object": "billing.meter_event_summary", "aggregated_value": number(value),
        "end_time": end, "livemode": false, "meter": meter, "start_time": start,
    })
}

/// Stripe sends a JSON number: whole ones as integers, so nothing is lost below 2^63.
pub fn number(value: &Decimal) -> Value {
    serde_json::from_str(&value.normalize().to_string())
        .expect("a decimal without exponent is a JSON number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_must_lie_on_the_edges_of_their_window() {
        assert_eq!(check_alignment(60, 120, None).unwrap(), 60);
        assert!(check_alignment(61, 120, None).is_err());
        assert_eq!(check_alignment(3_600, 7_200, Some("hour")).unwrap(), 3_600);
        assert!(check_alignment(3_660, 7_200, Some("hour")).is_err());
        assert!(check_alignment(3_600, 86_400, Some("day")).is_err());
        assert!(check_alignment(60, 60, None).is_err());
    }

    #[test]
    fn a_whole_value_is_an_integer_and_a_fraction_a_number() {
        assert_eq!(
            number(&Decimal::from(9_007_199_254_740_993_i64)).to_string(),
            "9007199254740993"
        );
        assert_eq!(number(&Decimal::new(250, 2)).to_string(), "2.5");
    }
}
