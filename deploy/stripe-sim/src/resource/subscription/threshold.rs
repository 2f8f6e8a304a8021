//! Billing thresholds: an invoice in mid-period as soon as what is not billed yet reaches an amount, or an item's usage a quantity.
//!
//! Looked at whenever usage comes in, of subscriptions whose periods are paid for: never in a trial, and not in the last 24 hours
//! of a period. The invoice takes in all usage so far and the pending items; it waits like a renewal's and is not counted again.
//! Tiers go on where it ended ([`line::unbilled`]). With `reset_billing_cycle_anchor` a new period begins, as at a natural edge.

use super::super::invoice::draft::{self, Draft};
use super::super::invoice::line::{self, Span};
use super::super::{Call, object};
use super::{roll, state};
use crate::error::ApiError;
use crate::params::Params;
use crate::store::table::id_of;
use rust_decimal::Decimal;
use serde_json::{Value, json};

const DAY_S: i64 = 86_400;
/// The least amount that Stripe takes, in minor units.
const LEAST_AMOUNT: i64 = 50;

/// Takes a subscription's `billing_thresholds`; an empty text lifts them.
///
/// # Errors
/// 400 for an amount that is too small.
pub fn take(params: &mut Params) -> Result<Option<Value>, ApiError> {
    let at = params.path_of("billing_thresholds");
    let mut given = match params.take("billing_thresholds") {
        None => return Ok(None),
        Some(Value::Object(fields)) => Params::within(&at, fields),
        Some(_) => return Ok(Some(Value::Null)),
    };
    let path = given.path_of("amount_gte");
    let amount = given.int("amount_gte");
    if amount.is_some_and(|amount| amount < LEAST_AMOUNT) {
        let message = format!("The amount of a threshold is at least {LEAST_AMOUNT}.");
        return Err(ApiError::invalid(&path, message));
    }
    let resets = given.flag("reset_billing_cycle_anchor");
    given.finish()?;
    let fields = json!({ "amount_gte": amount, "reset_billing_cycle_anchor": resets });
    Ok(Some(object("subscription.billing_thresholds", fields)))
}

/// Takes an item's `billing_thresholds`, which only usage can reach.
///
/// # Errors
/// 400 for a licensed item, or a quantity that no usage has to reach.
pub fn take_usage(params: &mut Params, is_metered: bool) -> Result<Option<Value>, ApiError> {
    let at = params.path_of("billing_thresholds");
    let mut given = match params.take("billing_thresholds") {
        None => return Ok(None),
        Some(Value::Object(fields)) => Params::within(&at, fields),
        Some(_) => return Ok(Some(Value::Null)),
    };
    let path = given.path_of("usage_gte");
    let usage = given.int("usage_gte");
    given.finish()?;
    if !is_metered {
        let message = "Usage thresholds go with prices of `usage_type=metered` only.";
        return Err(ApiError::invalid(&path, message));
    }
    if usage.is_some_and(|usage| usage < 1) {
        return Err(ApiError::invalid(&path, "The usage of a threshold is at least 1."));
    }
    Ok(Some(json!({ "usage_gte": usage })))
}

/// Remembers whose usage has to be looked at.
pub fn watch(call: &mut Call<'_>, subscription: &Value) {
    let of_items = items(subscription).any(|item| item["billing_thresholds"].is_object());
    if of_items || subscription["billing_thresholds"].is_object() {
        let customer = subscription["customer"].as_str().unwrap_or_default().to_owned();
        let id = id_of(subscription).to_owned();
        call.store().watched.entry(customer).or_default().insert(id);
    }
}

fn items(subscription: &Value) -> impl Iterator<Item = &Value> {
    subscription["items"]["data"].as_array().into_iter().flatten()
}

/// Usage of a customer came in: bills every subscription that reached a threshold by it. That is nobody's request.
pub fn look(call: &mut Call<'_>, customer: &str) {
    let Some(own) = call.world.store.watched.get(customer).cloned() else { return };
    let (at_ms, beside) = (call.now_ms, call.beside_test_clock);
    let origin = std::mem::take(&mut call.origin);
    for id in own {
        if let Err(error) = look_at(call, &id) {
            call.world.tally.invalid_responses += 1;
            call.world.tally.complain(format!("the threshold of {id}: {}", error.message));
        }
    }
    (call.now_ms, call.beside_test_clock, call.origin) = (at_ms, beside, origin);
}

fn look_at(call: &mut Call<'_>, id: &str) -> Result<(), ApiError> {
    let Some(subscription) = call.world.store.subscriptions.get(id).cloned() else { return Ok(()) };
    call.enter_clock_of(&subscription);
    let span = roll::span_of(&subscription);
    let is_paid_for = matches!(subscription["status"].as_str(), Some("active" | "past_due"));
    if !is_paid_for || call.now() < span.0 || call.now() >= span.1 - DAY_S {
        return Ok(());
    }
    let counters = call.world.ids.clone(); // A look uses no ids up.
    let reached = reached(call, &subscription, span);
    call.world.ids = counters;
    match reached? {
        Some(reached) => bill(call, subscription, span, &reached),
        None => Ok(()),
    }
}

/// Which thresholds were reached.
struct Reached {
    amount_gte: Option<i64>,
    items: Vec<(String, i64)>,
}

fn reached(
    call: &mut Call<'_>,
    subscription: &Value,
    span: Span,
) -> Result<Option<Reached>, ApiError> {
    let lines = lines(call, subscription, span)?;
    let mut of_items = Vec::new();
    for item in items(subscription) {
        let Some(limit) = item["billing_thresholds"]["usage_gte"].as_i64() else { continue };
        let used: Decimal = lines
            .iter()
            .filter(|line| is_of(line, id_of(item)))
            .filter_map(|line| crate::rating::decimal(&line["quantity_decimal"]))
            .sum();
        if used >= Decimal::from(limit) {
            of_items.push((id_of(item).to_owned(), limit));
        }
    }
    let made = draft_of(subscription, lines, span);
    let pending = draft::pending(call, &made);
    let total = draft::build(call, "", made, &pending)["total"].as_i64().unwrap_or_default();
    let limit = subscription["billing_thresholds"]["amount_gte"].as_i64();
    let amount_gte = limit.filter(|limit| total >= *limit);
    let is_any = amount_gte.is_some() || !of_items.is_empty();
    Ok(is_any.then_some(Reached { amount_gte, items: of_items }))
}

fn is_of(line: &Value, item: &str) -> bool {
    line["parent"]["subscription_item_details"]["subscription_item"] == item
}

/// What is not billed yet, this very second's usage included.
fn lines(
    call: &mut Call<'_>,
    subscription: &Value,
    (start, _): Span,
) -> Result<Vec<Value>, ApiError> {
    let now = call.now();
    let mut lines = roll::usage_lines(call, subscription, (start, now + 1))?;
    for line in &mut lines {
        line["period"]["end"] = json!(now);
    }
    Ok(lines)
}

fn draft_of(subscription: &Value, lines: Vec<Value>, period: Span) -> Draft<'_> {
    Draft {
        customer: subscription["customer"].as_str().unwrap_or_default(),
        subscription: Some(subscription),
        reason: "subscription_threshold",
        currency: subscription["currency"].as_str().unwrap_or_default(),
        lines,
        period,
        finalizes_at: None,
    }
}

fn bill(
    call: &mut Call<'_>,
    mut subscription: Value,
    span: Span,
    reached: &Reached,
) -> Result<(), ApiError> {
    let now = call.now();
    let resets = subscription["billing_thresholds"]["reset_billing_cycle_anchor"] == true;
    let mut lines = lines(call, &subscription, span)?;
    if resets {
        subscription["billing_cycle_anchor"] = json!(now);
        subscription["billing_cycle_anchor_config"] = Value::Null;
        let next = roll::next_end(call, &subscription, now)
            .ok_or_else(|| ApiError::invalid("id", "The period ends past the calendar."))?;
        lines.append(&mut roll::licence_lines(call, &subscription, (now, next))?);
        roll::set_period(call, &mut subscription, (now, next));
        note_billed(call, &subscription, now)?; // This second lies in both periods.
    } else {
        note_billed(call, &subscription, span.0)?;
    }
    let mut invoice =
        roll::invoice(call, &subscription, lines, (span.0, now), "subscription_threshold");
    invoice["threshold_reason"] = reason(&invoice, reached);
    call.store().invoices.replace(invoice.clone());
    subscription["latest_invoice"] = invoice["id"].clone();
    state::save(call, subscription, "customer.subscription.updated");
    draft::announce(call, &invoice);
    Ok(())
}

/// Notes all usage of a period up to now as billed.
fn note_billed(call: &mut Call<'_>, subscription: &Value, start: i64) -> Result<(), ApiError> {
    let customer = subscription["customer"].as_str().unwrap_or_default();
    for item in items(subscription) {
        let price = line::price(call, &item["price"]);
        if !line::is_metered(&price) {
            continue;
        }
        let from = line::usage_from(call, item, start);
        let quantity = line::usage(call, &price, customer, (from, call.now() + 1));
        let parts = line::rate(call, &price, quantity)?;
        let amount = parts.iter().map(|part| part.amount).sum();
        call.store().billed.insert((id_of(item).to_owned(), from), (quantity, amount));
    }
    Ok(())
}

fn reason(invoice: &Value, reached: &Reached) -> Value {
    let of_item = |(item, usage_gte): &(String, i64)| {
        let lines = invoice["lines"]["data"].as_array().into_iter().flatten();
        let own: Vec<&Value> =
            lines.filter(|line| is_of(line, item)).map(|line| &line["id"]).collect();
        json!({ "line_item_ids": own, "usage_gte": usage_gte })
    };
    let items: Vec<Value> = reached.items.iter().map(of_item).collect();
    json!({ "amount_gte": reached.amount_gte, "item_reasons": items })
}
