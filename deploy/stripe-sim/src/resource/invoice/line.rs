//! Lines of invoices: what each of them is for, and what it costs.
//!
//! A metered line counts the usage of its own half-open period; a licensed line is charged ahead. Quantities are exact: one that is
//! not whole shows as `quantity_decimal` alone. Descriptions are ours.

use super::super::{Call, object, summary};
use crate::error::ApiError;
use crate::ids;
use crate::rating::{self, Part};
use crate::store::table::id_of;
use crate::store::usage::Row;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::{Value, json};

/// The half-open time that a line is for, in Unix seconds.
pub type Span = (i64, i64);

/// True for a price that bills what a meter counted.
pub fn is_metered(price: &Value) -> bool {
    price["recurring"]["usage_type"] == "metered"
}

/// What the price's meter counted for a customer.
pub fn usage(call: &Call<'_>, price: &Value, customer: &str, (from, to): Span) -> Decimal {
    let id = price["recurring"]["meter"].as_str().unwrap_or_default();
    let meter = call.world.store.meters.get(id).unwrap_or(&Value::Null);
    let formula = meter["default_aggregation"]["formula"].as_str().unwrap_or_default();
    let rows: Vec<&Row> = call.world.usage.between(id, customer, from, to).collect();
    summary::aggregate(formula, &rows)
}

/// The lines of one item for a span: metered by what was counted, licensed by the item's quantity.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn of_item(
    call: &mut Call<'_>,
    subscription: &Value,
    item: &Value,
    span: Span,
) -> Result<Vec<Value>, ApiError> {
    let price = price(call, &item["price"]);
    let quantity = if is_metered(&price) {
        usage(call, &price, subscription["customer"].as_str().unwrap_or_default(), span)
    } else {
        Decimal::from(item["quantity"].as_i64().unwrap_or(1))
    };
    let parts = unbilled(call, item, span.0, rate(call, &price, quantity)?);
    Ok(parts.iter().map(|part| item_line(call, subscription, item, &price, span, part)).collect())
}

/// The second from which an item's usage is on its next line, in a period that starts at `start`.
pub fn usage_from(call: &Call<'_>, item: &Value, start: i64) -> i64 {
    call.world.store.usage_from.get(id_of(item)).copied().unwrap_or(start).max(start)
}

/// What invoices of a threshold have left of an item's usage since `from`: one part, whose tiers go on where theirs ended.
pub fn unbilled(call: &Call<'_>, item: &Value, from: i64, parts: Vec<Part>) -> Vec<Part> {
    let Some((quantity, amount)) = call.world.store.billed.get(&(id_of(item).to_owned(), from))
    else {
        return parts;
    };
    let sum = |total: Decimal, part: &Part| total.checked_add(part.quantity).unwrap_or(total);
    let whole = parts.iter().fold(Decimal::ZERO, sum);
    let left = Part {
        quantity: whole.checked_sub(*quantity).unwrap_or(whole),
        unit: parts.first().and_then(|part| part.unit),
        amount: parts.iter().map(|part| part.amount).sum::<i64>() - amount,
        tier: None,
    };
    vec![left]
}

/// Rates a quantity by a stored price, in the shape that the account's settings name.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn rate(call: &Call<'_>, price: &Value, quantity: Decimal) -> Result<Vec<Part>, ApiError> {
    let tiers = call.world.store.price_tiers.get(price["id"].as_str().unwrap_or_default());
    rating::rate(price, tiers, quantity, call.world.settings.graduated_lines)
}

/// A stored price by the id that a document holds.
pub fn price(call: &Call<'_>, id: &Value) -> Value {
    let found = id.as_str().and_then(|id| call.world.store.prices.get(id)).cloned();
    found.expect("a price in use is never removed")
}

/// One line of a subscription's item.
pub fn item_line(
    call: &mut Call<'_>,
    subscription: &Value,
    item: &Value,
    price: &Value,
    span: Span,
    part: &Part,
) -> Value {
    let details = object(
        "invoice_line_item.parent.subscription_item_details",
        json!({ "proration": false, "subscription": subscription["id"], "subscription_item": item["id"] }),
    );
    let parent =
        json!({ "type": "subscription_item_details", "subscription_item_details": details });
    let mut line = blank(call, part, &subscription["currency"], span);
    line["description"] = json!(describe(call, price, part));
    line["metadata"] = subscription["metadata"].clone();
    line["parent"] = object("invoice_line_item.parent", parent);
    line["pricing"] = pricing(price, part);
    line["subscription"] = subscription["id"].clone();
    line
}

/// A pending invoice item as a line.
pub fn of_invoice_item(call: &mut Call<'_>, row: &Value) -> Value {
    let subscription = row["parent"]["subscription_details"]["subscription"].clone();
    let details = object(
        "invoice_line_item.parent.invoice_item_details",
        json!({ "invoice_item": row["id"], "proration": row["proration"], "subscription": subscription }),
    );
    let parent = json!({ "type": "invoice_item_details", "invoice_item_details": details });
    let part = Part {
        quantity: rating::decimal(&row["quantity_decimal"]).unwrap_or(Decimal::ONE),
        unit: None,
        amount: row["amount"].as_i64().unwrap_or_default(),
        tier: None,
    };
    let span = (
        row["period"]["start"].as_i64().unwrap_or_default(),
        row["period"]["end"].as_i64().unwrap_or_default(),
    );
    let mut line = blank(call, &part, &row["currency"], span);
    line["description"] = row["description"].clone();
    line["discountable"] = row["discountable"].clone();
    line["metadata"] = row["metadata"].clone();
    line["parent"] = object("invoice_line_item.parent", parent);
    line["subscription"] = subscription;
    if !row["pricing"].is_null() {
        line["pricing"] = object("invoice_line_item.pricing", row["pricing"].clone());
    }
    line
}

fn blank(call: &mut Call<'_>, part: &Part, currency: &Value, (start, end): Span) -> Value {
    let whole = part.quantity.is_integer().then(|| part.quantity.to_i64()).flatten();
    let fields = json!({
        "id": call.mint(ids::INVOICE_LINE), "object": "line_item", "amount": part.amount, "currency": currency,
        "discount_amounts": [], "discountable": true, "discounts": [], "livemode": false, "metadata": {},
        "period": { "start": start, "end": end }, "pretax_credit_amounts": [], "quantity": whole,
        "quantity_decimal": part.quantity.normalize().to_string(), "subtotal": part.amount, "taxes": [],
    });
    object("line_item", fields)
}

/// The `pricing` of a line or an invoice item.
pub fn pricing(price: &Value, part: &Part) -> Value {
    let fields = json!({
        "type": "price_details", "price_details": { "price": price["id"], "product": price["product"] },
        "unit_amount_decimal": part.unit.map(|unit| unit.normalize().to_string()),
    });
    object("invoice_line_item.pricing", fields)
}

/// `12 × Tool calls`, with the tier where it is one of several lines.
pub fn describe(call: &Call<'_>, price: &Value, part: &Part) -> String {
    let product = price["product"].as_str().and_then(|id| call.world.store.products.get(id));
    let name = product.and_then(|product| product["name"].as_str()).unwrap_or("a price");
    let tier = part.tier.map_or_else(String::new, |tier| format!(" (tier {tier})"));
    format!("{} × {name}{tier}", part.quantity.normalize())
}

/// Counts the metered lines of a draft again: usage that came since is in, with the same line ids as far as there are lines.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn recount(
    call: &mut Call<'_>,
    subscription: &Value,
    lines: Vec<Value>,
) -> Result<Vec<Value>, ApiError> {
    let mut fresh: Vec<Value> = Vec::new();
    let mut spans: Vec<(String, Span, Vec<Value>)> = Vec::new();
    for line in lines {
        let item = &line["parent"]["subscription_item_details"]["subscription_item"];
        let Some(item) = item.as_str().filter(|_| counts_usage(call, &line)) else {
            fresh.push(line);
            continue;
        };
        let span = (
            line["period"]["start"].as_i64().unwrap_or_default(),
            line["period"]["end"].as_i64().unwrap_or_default(),
        );
        match spans.iter_mut().find(|(own, at, _)| own == item && *at == span) {
            Some((_, _, rows)) => rows.push(line),
            None => spans.push((item.to_owned(), span, vec![line])),
        }
    }
    for (item, span, old) in spans {
        let price = &old[0]["pricing"]["price_details"]["price"];
        let item = json!({ "id": item, "price": price });
        let mut rows = of_item(call, subscription, &item, span)?;
        for (row, old) in rows.iter_mut().zip(&old) {
            row["id"] = json!(id_of(old));
        }
        fresh.append(&mut rows);
    }
    Ok(fresh)
}

fn counts_usage(call: &Call<'_>, line: &Value) -> bool {
    let price = line["pricing"]["price_details"]["price"].as_str();
    price.and_then(|id| call.world.store.prices.get(id)).is_some_and(is_metered)
}
