//! `POST /v1/subscriptions/{id}/pause` and `/resume`: a status of its own, with no invoices meanwhile.
//!
//! Pausing bills the usage so far (unless told not to) and credits unused licences; resuming begins a new period, or goes on in the
//! old rhythm with `billing_cycle_anchor[type]=unchanged`. Usage while paused is on no invoice.

use super::super::invoice::draft::{self, Draft};
use super::super::invoice::finalize;
use super::super::{Answer, Call};
use super::{alive, change, period, roll, state};
use crate::error::ApiError;
use crate::params::Params;
use serde_json::{Value, json};

/// `POST /v1/subscriptions/{id}/pause`.
pub fn pause(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut subscription = alive(call, id)?;
    let mut bill_for = params.hash("bill_for").unwrap_or_default();
    let usage = kind(&mut bill_for, "outstanding_usage_through")?;
    let unused = kind(&mut bill_for, "unused_time_from")?;
    bill_for.finish()?;
    let invoices = params.text("invoicing_behavior").as_deref() == Some("invoice");
    params.ignore(&["type"]);
    params.finish()?;
    if !matches!(subscription["status"].as_str(), Some("active" | "past_due" | "trialing")) {
        let message =
            format!("The subscription {id} is {} and cannot be paused.", subscription["status"]);
        return Err(ApiError::refused(None, "id", message));
    }
    let is_trial = subscription["status"] == "trialing";
    let (start, end) = roll::span_of(&subscription);
    let mut items = Vec::new();
    if !is_trial && usage.as_deref() != Some("none") {
        items.append(&mut change::usage_items(call, &subscription, (start, call.now()))?);
    }
    let from = match unused.as_deref() {
        Some("none") => None,
        Some("item_current_period_start") => Some(start),
        _ => Some(call.now()),
    };
    if let (Some(from), false) = (from, is_trial) {
        items.append(&mut change::unused_items(call, &subscription, from, (start, end))?);
    }
    change::add(call, items);
    stop(call, &mut subscription, "pause_requested");
    let shown = state::save(call, subscription, "customer.subscription.paused");
    if invoices {
        change::invoice_pending(call, id)?;
        return Ok(super::shown(call, id));
    }
    Ok(shown)
}

fn kind(bill_for: &mut Params, name: &str) -> Result<Option<String>, ApiError> {
    let Some(mut hash) = bill_for.hash(name) else { return Ok(None) };
    let kind = hash.text("type");
    hash.finish()?;
    Ok(kind)
}

/// Sets what a paused subscription shows.
pub fn stop(call: &Call<'_>, subscription: &mut Value, reason: &str) {
    subscription["status"] = json!("paused");
    subscription["status_details"] = json!({
        "paused": { "type": "subscription", "subscription": { "type": reason }, "transitioned_at": call.now() },
    });
}

/// `POST /v1/subscriptions/{id}/resume`.
pub fn resume(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut subscription = alive(call, id)?;
    let anchor = match params.hash("billing_cycle_anchor") {
        None => None,
        Some(mut anchor) => {
            let kind = anchor.text("type");
            anchor.finish()?;
            kind
        }
    };
    params.ignore(&["payment_behavior", "proration_behavior"]);
    params.finish()?;
    if subscription["status"] != "paused" {
        let message = format!("The subscription {id} is not paused.");
        return Err(ApiError::refused(None, "id", message));
    }
    let now = call.now();
    let keeps = anchor.as_deref() == Some("unchanged");
    if !keeps {
        subscription["billing_cycle_anchor"] = json!(now);
        subscription["billing_cycle_anchor_config"] = Value::Null;
    }
    let next = roll::next_end(call, &subscription, now)
        .ok_or_else(|| ApiError::invalid("id", "The period ends past the calendar."))?;
    let lines = if keeps {
        Vec::new() // The old rhythm goes on: licences are charged at its next edge.
    } else {
        roll::licence_lines(call, &subscription, (now, next))?
    };
    let start = if keeps { period_start(call, &subscription, now, next) } else { now };
    roll::set_period(call, &mut subscription, (start, next));
    for item in subscription["items"]["data"].as_array().cloned().into_iter().flatten() {
        let item = item["id"].as_str().unwrap_or_default().to_owned();
        call.store().usage_from.insert(item, now);
    }
    subscription["status"] = json!("active");
    subscription.as_object_mut().map(|fields| fields.remove("status_details"));
    state::save(call, subscription.clone(), "customer.subscription.resumed");
    if !lines.is_empty() || (!keeps && draft::has_pending(call, &subscription)) {
        bill_now(call, &subscription, lines, (now, now))?;
    }
    Ok(super::shown(call, id))
}

fn period_start(call: &Call<'_>, subscription: &Value, now: i64, next: i64) -> i64 {
    let price =
        super::super::invoice::line::price(call, &subscription["items"]["data"][0]["price"]);
    let interval = price["recurring"]["interval"].as_str().unwrap_or_default();
    let count = price["recurring"]["interval_count"].as_u64().and_then(|n| u32::try_from(n).ok());
    period::before(next, interval, count.unwrap_or(1)).unwrap_or(now).min(now)
}

/// An invoice that is made, finalized and charged at this very moment.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn bill_now(
    call: &mut Call<'_>,
    subscription: &Value,
    lines: Vec<Value>,
    period: (i64, i64),
) -> Result<Value, ApiError> {
    let made = Draft {
        customer: subscription["customer"].as_str().unwrap_or_default(),
        subscription: Some(subscription),
        reason: "subscription_update",
        currency: subscription["currency"].as_str().unwrap_or_default(),
        lines,
        period,
        finalizes_at: Some(call.now()),
    };
    let invoice = draft::make(call, made);
    state::note_invoice(call, subscription, &invoice);
    draft::announce(call, &invoice);
    finalize::finalize(call, invoice, true)
}
