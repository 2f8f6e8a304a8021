//! What a change in mid-period owes: invoice items for usage under an old price, and prorations of licences by the second.
//!
//! The items are pending until the next invoice, or until the change asks for one at once. Amounts are shares of the whole period,
//! rounded half up each. Invariant: nothing here looks at the new state of a subscription; callers say what was and what is.

use super::super::Call;
use super::super::invoice::line::{self, Span};
use super::super::invoice_item::{self, Item};
use super::{pause, roll};
use crate::error::ApiError;
use crate::rating::{self, Part};
use rust_decimal::Decimal;
use serde_json::{Value, json};

/// Items for what all metered items used in a span.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn usage_items(
    call: &Call<'_>,
    subscription: &Value,
    span: Span,
) -> Result<Vec<Value>, ApiError> {
    let mut made = Vec::new();
    for item in subscription["items"]["data"].as_array().cloned().into_iter().flatten() {
        made.append(&mut usage_of(call, subscription, &item, span)?);
    }
    Ok(made)
}

/// Items for what one metered item used since it last was billed; none for a licensed one.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn usage_of(
    call: &Call<'_>,
    subscription: &Value,
    item: &Value,
    (start, end): Span,
) -> Result<Vec<Value>, ApiError> {
    let price = line::price(call, &item["price"]);
    let from = line::usage_from(call, item, start);
    if !line::is_metered(&price) || from >= end {
        return Ok(Vec::new());
    }
    let customer = subscription["customer"].as_str().unwrap_or_default();
    let quantity = line::usage(call, &price, customer, (from, end));
    let parts = line::unbilled(call, item, from, line::rate(call, &price, quantity)?);
    let of_part = |part: &Part| -> Value {
        let description = line::describe(call, &price, part);
        let made = Item::of(subscription, item, &price, part, (from, end));
        invoice_item::document(call, &Item { description, ..made })
    };
    Ok(parts.iter().map(of_part).collect())
}

/// Credits for the unused time of all licensed items, from `from` to the end of their period.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn unused_items(
    call: &Call<'_>,
    subscription: &Value,
    from: i64,
    period: Span,
) -> Result<Vec<Value>, ApiError> {
    let mut made = Vec::new();
    for item in subscription["items"]["data"].as_array().cloned().into_iter().flatten() {
        made.extend(proration(call, subscription, &item, from, period, -1)?);
    }
    Ok(made)
}

/// The share of one licensed item from `from` to the end of its period: a credit (`sign` -1) or a charge (1).
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn proration(
    call: &Call<'_>,
    subscription: &Value,
    item: &Value,
    from: i64,
    (start, end): Span,
    sign: i64,
) -> Result<Option<Value>, ApiError> {
    let price = line::price(call, &item["price"]);
    if line::is_metered(&price) || from >= end {
        return Ok(None);
    }
    let whole = full_span(call, subscription, (start, end));
    let quantity = Decimal::from(item["quantity"].as_i64().unwrap_or(1));
    let full: i64 = line::rate(call, &price, quantity)?.iter().map(|part| part.amount).sum();
    let amount = rating::share(full, end - from, whole.1 - whole.0)? * sign;
    if amount == 0 {
        return Ok(None);
    }
    let part =
        Part { quantity, unit: rating::decimal(&price["unit_amount_decimal"]), amount, tier: None };
    let what = if sign < 0 { "Unused time on" } else { "Remaining time on" };
    let description = format!("{what} {}", line::describe(call, &price, &part));
    let made = Item {
        description,
        is_proration: true,
        ..Item::of(subscription, item, &price, &part, (from, end))
    };
    Ok(Some(invoice_item::document(call, &made)))
}

/// The whole period that a period is a share of: itself, unless an anchor cut its beginning off.
fn full_span(call: &Call<'_>, subscription: &Value, (start, end): Span) -> Span {
    if roll::next_end(call, subscription, start - 1) == Some(start) {
        return (start, end);
    }
    let price = line::price(call, &subscription["items"]["data"][0]["price"]);
    let interval = price["recurring"]["interval"].as_str().unwrap_or_default();
    let count = price["recurring"]["interval_count"].as_u64().and_then(|n| u32::try_from(n).ok());
    let natural = super::period::before(end, interval, count.unwrap_or(1)).unwrap_or(start);
    (natural.min(start), end)
}

/// Stores items and tells of them.
pub fn add(call: &mut Call<'_>, items: Vec<Value>) {
    for mut item in items {
        item["id"] = json!(call.mint(crate::ids::INVOICE_ITEM));
        call.store().invoice_items.insert(item.clone());
        call.emit("invoiceitem.created", &item, None);
    }
}

/// Bills what is pending for a subscription at once, if anything is.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn invoice_pending(call: &mut Call<'_>, id: &str) -> Result<(), ApiError> {
    let found = call.world.store.subscriptions.get(id).cloned();
    let subscription = found.ok_or_else(|| ApiError::not_found("subscription", id))?;
    if super::super::invoice::draft::has_pending(call, &subscription) {
        let (start, _) = roll::span_of(&subscription);
        let period = (start, call.now());
        pause::bill_now(call, &subscription, Vec::new(), period)?;
    }
    Ok(())
}
