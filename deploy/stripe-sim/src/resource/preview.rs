//! `POST /v1/invoices/create_preview` and the invoice inside `invoice.upcoming`: what the next renewal would be, kept nowhere.
//!
//! Usage is as counted so far. Ids and lines' ids follow from the subscription, so a preview moves nobody else's ids.
//! Absent on purpose: previews of a changed subscription, of schedules and of one-off items.

use super::invoice::draft::{self, Draft};
use super::invoice::line::Span;
use super::subscription::roll;
use super::{Answer, Call, invoice};
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::store::table::id_of;
use serde_json::{Value, json};

/// `POST /v1/invoices/create_preview`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let (customer, id) = (params.text("customer"), params.text("subscription"));
    params.ignore(&["preview_mode"]);
    params.finish()?;
    let rows = &call.world.store.subscriptions;
    let subscription = match (&id, &customer) {
        (Some(id), _) => Some(
            rows.get(id).ok_or_else(|| ApiError::no_such("subscription", id, "subscription"))?,
        ),
        (None, Some(customer)) => {
            if call.world.store.live_customer(customer).is_none() {
                return Err(ApiError::no_such("customer", customer, "customer"));
            }
            let live = |row: &&Value| {
                row["customer"] == customer.as_str() && !super::subscription::is_terminal(row)
            };
            rows.newest_first().find(live)
        }
        (None, None) => return Err(ApiError::missing("customer")),
    };
    let Some(subscription) = subscription.cloned() else { return Err(none()) };
    if super::subscription::is_terminal(&subscription) {
        return Err(none());
    }
    call.enter_clock_of(&subscription);
    upcoming(call, &subscription)
}

fn none() -> ApiError {
    let message = "No upcoming invoices for this customer or subscription.";
    ApiError { status: 404, ..ApiError::refused(Some("invoice_upcoming_none"), "", message) }
}

/// The next renewal invoice of a subscription (as stored), as of now.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn upcoming(call: &mut Call<'_>, subscription: &Value) -> Answer {
    let span = roll::span_of(subscription);
    let ends = subscription["cancel_at"].as_i64().is_some_and(|at| at <= span.1);
    let next = roll::next_end(call, subscription, span.1)
        .ok_or_else(|| ApiError::invalid("subscription", "The period ends past the calendar."))?;
    let is_trial = subscription["status"] == "trialing";
    let counters = call.world.ids.clone(); // A preview uses no ids up.
    let built = build(call, subscription, span, (!ends).then_some(next), !is_trial);
    call.world.ids = counters;
    built
}

fn build(
    call: &mut Call<'_>,
    subscription: &Value,
    span: Span,
    next: Option<i64>,
    bills_usage: bool,
) -> Answer {
    let lines = match next {
        Some(next) => roll::lines(call, subscription, span, next, bills_usage)?,
        None if bills_usage => roll::usage_lines(call, subscription, span)?,
        None => Vec::new(),
    };
    let material = [id_of(subscription).as_bytes(), &span.1.to_be_bytes()];
    let id = ids::derive(ids::UPCOMING, &material);
    let customer = subscription["customer"].as_str().unwrap_or_default();
    let currency = subscription["currency"].as_str().unwrap_or_default();
    let made = Draft {
        customer,
        subscription: Some(subscription),
        reason: "upcoming",
        currency,
        lines,
        period: span,
        finalizes_at: None,
    };
    let pending = draft::pending(call, &made);
    let mut preview = draft::build(call, &id, made, &pending);
    preview["created"] = json!(span.1);
    preview["next_payment_attempt"] = json!(span.1 + call.world.settings.grace_s);
    for (index, row) in preview["lines"]["data"].as_array_mut().into_iter().flatten().enumerate() {
        let material = [id.as_bytes(), &index.to_be_bytes()];
        row["id"] = json!(ids::derive(ids::INVOICE_LINE, &material));
    }
    Ok(invoice::render(&preview))
}
