//! What comes after the 200 of a meter event: error reports as thin events, and adjustments that take effect later.
//!
//! Events that do not count are gathered by meter for the account's lag, counted by code, and told with at most five samples, each
//! known by its request's `Idempotency-Key` (or by the event's identifier, where the request had none). A delivery holds no data:
//! the report is read from `GET /v2/core/events/{id}` for 30 days. Only event destinations get thin events, as at Stripe.
//! Absent on purpose: all other thin events.

use super::{Answer, Call};
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::ids;
use crate::list::Page;
use crate::params::Params;
use crate::schema::spec;
use crate::store::table::id_of;
use crate::store::usage::{Outcome, Row};
use chrono::DateTime;
use form_urlencoded::Serializer;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How many failures of one code a report shows.
const SAMPLES: usize = 5;
const KEPT_S: i64 = 30 * 86_400;

/// Tells of failures and applies adjustments whose time has come.
pub fn flush(call: &mut Call<'_>, now_ms: i64) {
    for at in call.world.usage.due_adjustments(now_ms) {
        call.world.usage.cancel(at);
    }
    let lag_ms = call.world.settings.report_lag_s * 1000;
    for (meter, rows) in call.world.usage.due_failures(now_ms, lag_ms) {
        report(call, meter.as_deref(), &rows);
    }
}

fn report(call: &mut Call<'_>, meter: Option<&str>, rows: &[Row]) {
    let mut codes: BTreeMap<Outcome, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        codes.entry(row.outcome).or_default().push(row);
    }
    let types: Vec<Value> = codes.iter().map(|(code, rows)| error_type(*code, rows)).collect();
    let stamp = |ms: Option<i64>| rfc3339(ms.unwrap_or(call.now_ms).div_euclid(1000));
    let start = stamp(rows.iter().map(|row| row.received_at_ms).min());
    let end = stamp(rows.iter().map(|row| row.received_at_ms).max().map(|ms| ms + 1000));
    let data = json!({
        "developer_message_summary": format!("There is {} invalid event", rows.len()),
        "reason": { "error_count": rows.len(), "error_types": types }, "validation_start": start, "validation_end": end,
    });
    let kind = match meter {
        Some(_) => "v1.billing.meter.error_report_triggered",
        None => "v1.billing.meter.no_meter_found",
    };
    let mut event = json!({
        "id": call.mint(ids::EVENT), "object": "v2.core.event", "type": kind, "created": rfc3339(call.now()), "livemode": false,
    });
    if let Some(id) = meter {
        event["related_object"] =
            json!({ "id": id, "type": "billing.meter", "url": format!("/v1/billing/meters/{id}") });
    }
    send(call, event.clone(), kind);
    event["data"] = data;
    check(call, &event, kind, "");
    call.store().thin_events.insert(event);
}

fn error_type(code: Outcome, rows: &[&Row]) -> Value {
    let sample = |row: &&Row| {
        let key = row.idempotency_key.as_ref().unwrap_or(&row.identifier);
        json!({ "error_message": code.message(), "request": { "identifier": key } })
    };
    let samples: Vec<Value> = rows.iter().take(SAMPLES).map(sample).collect();
    json!({ "code": code, "error_count": rows.len(), "sample_errors": samples })
}

/// The description's name of a thin event's type.
fn check(call: &mut Call<'_>, event: &Value, kind: &str, suffix: &str) {
    let own =
        if kind.ends_with("no_meter_found") { "no_meter_found" } else { "error_report_triggered" };
    let component = format!("v1.billing_meter_{own}_event{suffix}");
    if let Err(complaint) = spec().check_component(&component, event) {
        call.world.tally.invalid_responses += 1;
        call.world.tally.complain(complaint);
    }
}

fn send(call: &mut Call<'_>, mut event: Value, kind: &str) {
    event["context"] = Value::Null;
    check(call, &event, kind, "_notification");
    let id = id_of(&event).to_owned();
    call.store().notifications.insert(event);
    call.owe(&id, kind, |store| &store.destinations);
}

/// `GET /v2/core/events/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let oldest = rfc3339(call.now() - KEPT_S);
    let found = call.world.store.thin_events.get(id);
    let kept = found.filter(|row| row["created"].as_str().is_some_and(|at| at >= oldest.as_str()));
    kept.cloned().ok_or_else(|| ApiError::not_found("event", id))
}

/// `GET /v2/core/events`: those of the last 30 days, the newest first; a page's token is the last row of the page before.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let object = params.text("object_id");
    let types = params.texts("types");
    let page = Page::take_v2(&mut params)?;
    let mut filters = Serializer::new(String::new()); // The next page has them too.
    filters.extend_pairs(object.iter().map(|id| ("object_id", id)));
    filters.extend_pairs(types.iter().flatten().map(|kind| ("types[]", kind)));
    let bounds = bounds(&mut params, &mut filters)?;
    params.finish()?;
    let oldest = call.now() - KEPT_S;
    let rows = call.world.store.thin_events.newest_first();
    let (rows, has_more) = page.cut("event", rows, |row| {
        let at = row["created"].as_str().and_then(second).unwrap_or_default();
        at >= oldest
            && bounds.iter().all(|(bound, fits)| fits(&at, bound))
            && object.as_ref().is_none_or(|id| row["related_object"]["id"] == id.as_str())
            && types
                .as_ref()
                .is_none_or(|types| types.iter().any(|kind| row["type"] == kind.as_str()))
    })?;
    let last = rows.last().filter(|_| has_more).map(|row| id_of(row));
    let next =
        last.map(|id| format!("/v2/core/events?{}", filters.append_pair("page", id).finish()));
    let data: Vec<Value> = rows.into_iter().cloned().collect();
    Ok(json!({ "data": data, "next_page_url": next, "previous_page_url": null }))
}

/// A second that `created` names, and how an event's must compare with it.
type Bound = (i64, Comparison);
type Comparison = fn(&i64, &i64) -> bool;

fn bounds(
    params: &mut Params,
    filters: &mut Serializer<'_, String>,
) -> Result<Vec<Bound>, ApiError> {
    let mut given = params.hash("created").unwrap_or_default();
    let all: [(&str, Comparison); 4] =
        [("gt", i64::gt), ("gte", i64::ge), ("lt", i64::lt), ("lte", i64::le)];
    let mut bounds = Vec::new();
    for (name, fits) in all {
        let path = given.path_of(name);
        if let Some(text) = given.text(name) {
            let at = second(&text);
            let bad = || ApiError::invalid(&path, format!("Invalid timestamp: {text}"));
            bounds.push((at.ok_or_else(bad)?, fits));
            filters.append_pair(&format!("created[{name}]"), &text);
        }
    }
    given.finish()?;
    Ok(bounds)
}

fn second(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.timestamp())
}
