//! What comes after the 200 of a meter event: error reports as thin events, and adjustments that take effect later.
//!
//! Events that do not count are gathered by meter for the account's lag, counted by code, and told with at most five samples, each
//! known by its request's `Idempotency-Key` (or by the event's identifier, where the request had none). A delivery holds no data:
//! the report is read from `GET /v2/core/events/{id}` for 30 days. Only event destinations get thin events, as at Stripe; they are
//! registered by the control API, since the description has no path for them. Absent on purpose: all other thin events.

use super::{Answer, Call};
use crate::clock::utc;
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::schema::spec;
use crate::store::deliveries::{Delivery, State};
use crate::store::table::id_of;
use crate::store::usage::{IDENTIFIER_KEEP_MS, Outcome, Row};
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

fn rfc3339(at: i64) -> String {
    utc(at).map_or_else(String::new, |at| at.format("%Y-%m-%dT%H:%M:%S.000Z").to_string())
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
    let wants = |row: &&Value| {
        let mut wanted = row["enabled_events"].as_array().into_iter().flatten();
        wanted.any(|one| one == "*" || one == kind)
    };
    let rows = call.world.store.destinations.newest_first();
    let found: Vec<(String, String)> = rows
        .filter(wants)
        .map(|row| (id_of(row).to_owned(), row["url"].as_str().unwrap_or_default().to_owned()))
        .collect();
    call.store().notifications.insert(event);
    for (endpoint, url) in found {
        let delivery = call.mint(ids::DELIVERY);
        call.world.deliveries.add(Delivery {
            id: delivery.clone(),
            event: id.clone(),
            event_type: kind.to_owned(),
            endpoint,
            url,
            state: State::Pending,
            fault: None,
            attempts: Vec::new(),
        });
        call.owe(delivery);
    }
}

/// Registers an event destination for thin events. Answers it with its signing secret.
pub fn register(
    call: &mut Call<'_>,
    url: &str,
    secret: Option<String>,
    events: &[String],
) -> Value {
    let id = call.mint(ids::DESTINATION);
    let secret = secret.unwrap_or_else(|| call.mint(ids::ENDPOINT_SECRET));
    let row = json!({ "id": id, "url": url, "status": "enabled", "enabled_events": events });
    call.store().endpoint_secrets.insert(id, secret.clone());
    call.store().destinations.insert(row.clone());
    let mut shown = row;
    shown["secret"] = json!(secret);
    shown
}

/// `GET /v2/core/events/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let oldest = rfc3339(call.now() - KEPT_S);
    let found = call.world.store.thin_events.get(id);
    let kept = found.filter(|row| row["created"].as_str().is_some_and(|at| at >= oldest.as_str()));
    kept.cloned().ok_or_else(|| ApiError::not_found("event", id))
}

/// `POST /v1/billing/meter_event_adjustments`: cancels an event that was received within 24 hours. It shows after the account's lag.
pub fn adjust(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let event_name = params.required_text("event_name")?;
    params.ignore(&["type"]);
    let mut cancel = params.hash("cancel").unwrap_or_default();
    let identifier = cancel.required_text("identifier")?;
    cancel.finish()?;
    params.finish()?;
    let found = call.world.usage.find(&event_name, &identifier);
    let (at, received_ms) = found.ok_or_else(|| {
        ApiError::no_such("billing meter event", &identifier, "cancel[identifier]")
    })?;
    if call.now_ms - received_ms >= IDENTIFIER_KEEP_MS {
        let message = "You can only cancel a meter event within 24 hours of Stripe receiving it.";
        return Err(ApiError::refused(None, "cancel[identifier]", message));
    }
    let due_ms = call.now_ms + call.world.settings.adjustment_lag_s * 1000;
    call.world.usage.adjust(due_ms, at);
    Ok(json!({
        "object": "billing.meter_event_adjustment", "cancel": { "identifier": identifier }, "event_name": event_name,
        "livemode": false, "status": "pending", "type": "cancel",
    }))
}
