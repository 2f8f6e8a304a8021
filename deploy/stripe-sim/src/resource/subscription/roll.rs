//! The edge of a period: the next one begins, and a renewal invoice is drafted for the usage behind and the licences ahead.
//!
//! The draft waits for the account's grace period, so that usage stamped inside the period can still come. Usage of a trial is free.
//! An unpaid subscription's drafts wait for a person. Called by time alone ([`crate::life`]).

use super::super::Call;
use super::super::invoice::draft::{self, Draft};
use super::super::invoice::line::{self, Span};
use super::{period, state};
use crate::error::ApiError;
use crate::store::cards::Outcome;
use crate::store::table::id_of;
use serde_json::{Value, json};

/// Renews a subscription whose period ends now.
///
/// # Errors
/// 400 for an amount past 63 bits or a period past the calendar; nothing has changed then.
pub fn roll(call: &mut Call<'_>, mut subscription: Value) -> Result<(), ApiError> {
    let was_trial = subscription["status"] == "trialing";
    if was_trial && ends_without_card(call, &subscription) {
        return Ok(());
    }
    let span = span_of(&subscription);
    let next = next_end(call, &subscription, span.1)
        .ok_or_else(|| ApiError::invalid("items", "The period ends past the calendar."))?;
    let lines = lines(call, &subscription, span, next, !was_trial)?;
    set_period(call, &mut subscription, (span.1, next));
    if was_trial {
        subscription["status"] = json!("active");
    }
    let invoice = invoice(call, &subscription, lines, span, "subscription_cycle");
    subscription["latest_invoice"] = invoice["id"].clone();
    state::save(call, subscription, "customer.subscription.updated");
    draft::announce(call, &invoice);
    Ok(())
}

/// Ends a subscription whose time is over: usage of the last period is billed like any other.
///
/// # Errors
/// 400 for an amount past 63 bits; nothing has changed then.
pub fn end(call: &mut Call<'_>, mut subscription: Value) -> Result<(), ApiError> {
    let (start, _) = span_of(&subscription);
    let span = (start, call.now());
    let lines = if subscription["status"] == "trialing" {
        Vec::new()
    } else {
        usage_lines(call, &subscription, span)?
    };
    let invoice = if lines.is_empty() && !draft::has_pending(call, &subscription) {
        None
    } else {
        Some(invoice(call, &subscription, lines, span, "subscription_cycle"))
    };
    if let Some(invoice) = &invoice {
        subscription["latest_invoice"] = invoice["id"].clone();
    }
    state::finish(call, subscription, "canceled");
    if let Some(invoice) = invoice {
        draft::announce(call, &invoice);
    }
    Ok(())
}

/// The period that all items of a subscription share.
pub fn span_of(subscription: &Value) -> Span {
    let item = &subscription["items"]["data"][0];
    (
        item["current_period_start"].as_i64().unwrap_or_default(),
        item["current_period_end"].as_i64().unwrap_or_default(),
    )
}

/// Puts all items into a new period; usage counts from its start.
pub fn set_period(call: &mut Call<'_>, subscription: &mut Value, (start, end): Span) {
    for item in subscription["items"]["data"].as_array_mut().into_iter().flatten() {
        item["current_period_start"] = json!(start);
        item["current_period_end"] = json!(end);
        call.store().usage_from.remove(id_of(item));
    }
}

/// The end of the period that begins at `from`.
pub fn next_end(call: &Call<'_>, subscription: &Value, from: i64) -> Option<i64> {
    let anchor = subscription["billing_cycle_anchor"].as_i64()?;
    let price = line::price(call, &subscription["items"]["data"][0]["price"]);
    let interval = price["recurring"]["interval"].as_str()?;
    let count = u32::try_from(price["recurring"]["interval_count"].as_i64()?).ok()?;
    let day = subscription["billing_cycle_anchor_config"]["day_of_month"].as_u64();
    let day = day.and_then(|day| u32::try_from(day).ok());
    period::after(anchor, from, interval, count, day)
}

/// Lines of a renewal: metered items behind (unless the time was free), licensed ones ahead.
pub fn lines(
    call: &mut Call<'_>,
    subscription: &Value,
    span: Span,
    next: i64,
    bills_usage: bool,
) -> Result<Vec<Value>, ApiError> {
    let mut lines = if bills_usage { usage_lines(call, subscription, span)? } else { Vec::new() };
    lines.append(&mut licence_lines(call, subscription, (span.1, next))?);
    Ok(lines)
}

/// Lines of the metered items for what was used in a span.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn usage_lines(
    call: &mut Call<'_>,
    subscription: &Value,
    (start, end): Span,
) -> Result<Vec<Value>, ApiError> {
    let mut lines = Vec::new();
    for item in items(call, subscription, true) {
        let from = line::usage_from(call, &item, start);
        lines.append(&mut line::of_item(call, subscription, &item, (from, end))?);
    }
    Ok(lines)
}

/// Lines of the licensed items for a span ahead.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn licence_lines(
    call: &mut Call<'_>,
    subscription: &Value,
    span: Span,
) -> Result<Vec<Value>, ApiError> {
    let mut lines = Vec::new();
    for item in items(call, subscription, false) {
        lines.append(&mut line::of_item(call, subscription, &item, span)?);
    }
    Ok(lines)
}

fn items(call: &Call<'_>, subscription: &Value, metered: bool) -> Vec<Value> {
    let rows = subscription["items"]["data"].as_array().into_iter().flatten();
    let wanted =
        rows.filter(|item| line::is_metered(&line::price(call, &item["price"])) == metered);
    wanted.cloned().collect()
}

/// A draft that waits for the account's grace period, or for a person. `reason` is Stripe's `billing_reason`.
pub fn invoice(
    call: &mut Call<'_>,
    subscription: &Value,
    lines: Vec<Value>,
    period: Span,
    reason: &'static str,
) -> Value {
    let waits = subscription["status"] == "unpaid"
        || subscription["pause_collection"]["behavior"] == "keep_as_draft";
    let finalizes_at = (!waits).then_some(call.now() + call.world.settings.grace_s);
    let draft = Draft {
        customer: subscription["customer"].as_str().unwrap_or_default(),
        subscription: Some(subscription),
        reason,
        currency: subscription["currency"].as_str().unwrap_or_default(),
        lines,
        period,
        finalizes_at,
    };
    draft::make(call, draft)
}

/// A trial that ends with no card to charge: ends or pauses the subscription when it was told to. True: done.
fn ends_without_card(call: &mut Call<'_>, subscription: &Value) -> bool {
    let customer = subscription["customer"].as_str().unwrap_or_default();
    if call.world.cards.peek(customer) != Outcome::Missing {
        return false;
    }
    let mut own = subscription.clone();
    match own["trial_settings"]["end_behavior"]["missing_payment_method"].as_str() {
        Some("cancel") => {
            own["cancellation_details"]["reason"] = json!("payment_failed");
            state::finish(call, own, "canceled");
            true
        }
        Some("pause") => {
            super::pause::stop(call, &mut own, "trial_end_without_payment_method");
            state::save(call, own, "customer.subscription.paused");
            true
        }
        _ => false,
    }
}
