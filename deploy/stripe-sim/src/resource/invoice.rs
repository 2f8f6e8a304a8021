//! The first invoice of a subscription, and `GET /v1/invoices/{id}` to read it.
//!
//! Made when a subscription opens, paid at once unless the caller waits for a payment. Licensed items are charged in advance;
//! metered items have nothing to charge yet (a zero line in classic mode, none in flexible mode). Stripe's flexible mode makes no
//! empty invoice; here there always is one, so that every checkout ends in `invoice.paid`. Absent on purpose: period invoices,
//! drafts, finalization, rating of tiers.

use super::subscription::plan::Line;
use super::{Answer, Call, object};
use crate::error::ApiError;
use crate::ids;
use crate::list;
use crate::params::Params;
use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Value, json};

/// What one item costs on the first invoice.
pub struct Charge {
    price: Value,
    quantity: i64,
    /// Minor units of the currency.
    pub amount: i64,
}

/// The charges of a new subscription's items; all zero when nothing is charged yet.
///
/// # Errors
/// 501 for a tiered licensed price, 400 for an amount past 63 bits.
pub fn charges(call: &Call<'_>, lines: &[Line], is_charged: bool) -> Result<Vec<Charge>, ApiError> {
    let charge = |line: &Line| {
        let price = call.world.store.prices.get(&line.price).cloned().unwrap_or_default();
        let quantity = line.quantity.unwrap_or(0);
        let amount = if is_charged { amount(&price, quantity)? } else { 0 };
        Ok(Charge { price, quantity, amount })
    };
    lines.iter().map(charge).collect()
}

/// Quantity × unit amount in minor units, rounded half up once per line.
pub fn amount(price: &Value, quantity: i64) -> Result<i64, ApiError> {
    if quantity == 0 {
        return Ok(0);
    }
    if price["billing_scheme"] == "tiered" {
        return Err(ApiError::not_simulated("the amount of a tiered licensed price"));
    }
    let unit = price["unit_amount_decimal"]
        .as_str()
        .and_then(|text| Decimal::from_str_exact(text).ok())
        .unwrap_or_default();
    let units = packages(quantity, &price["transform_quantity"]);
    let exact = unit
        .checked_mul(Decimal::from(units))
        .map(|exact| exact.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero));
    exact
        .and_then(|whole| whole.to_i64())
        .ok_or_else(|| ApiError::invalid("quantity", "The amount is too large."))
}

fn packages(quantity: i64, transform: &Value) -> i64 {
    let Some(size) = transform["divide_by"].as_i64().filter(|size| *size > 0) else {
        return quantity;
    };
    let rest = i64::from(transform["round"] == "up" && quantity.rem_euclid(size) != 0);
    quantity.div_euclid(size) + rest
}

/// Builds the first invoice of a subscription (as stored) and counts it on the customer. The caller stores it.
pub fn first(
    call: &mut Call<'_>,
    subscription: &Value,
    charges: &[Charge],
    is_flexible: bool,
    is_paid: bool,
) -> Value {
    let id = call.mint(ids::INVOICE);
    let items = subscription["items"]["data"].as_array().cloned().unwrap_or_default();
    let shown = items.iter().zip(charges).filter(|(item, charge)| {
        !(is_flexible && is_metered(&charge.price) && item["quantity"].is_null())
    });
    let lines: Vec<Value> =
        shown.map(|(item, charge)| line(call, &id, subscription, item, charge)).collect();
    let total: i64 = charges.iter().map(|charge| charge.amount).sum();
    let (number, customer) = number(call, subscription);
    let mut invoice = object("invoice", frame(&id, subscription, call.now()));
    invoice["customer_email"] = customer["email"].clone();
    invoice["customer_name"] = customer["name"].clone();
    invoice["lines"] = list::object(&format!("/v1/invoices/{id}/lines"), lines, false);
    invoice["number"] = json!(number);
    settle(&mut invoice, total, is_paid, call.now());
    invoice
}

/// All but names, lines and money.
fn frame(id: &str, subscription: &Value, now: i64) -> Value {
    let details =
        json!({ "subscription": subscription["id"], "metadata": subscription["metadata"] });
    json!({
        "id": id, "object": "invoice", "auto_advance": false,
        "automatic_tax": object("invoice.automatic_tax", json!({ "enabled": false })), "billing_reason": "subscription_create",
        "collection_method": subscription["collection_method"], "created": now, "currency": subscription["currency"],
        "customer": subscription["customer"], "customer_tax_exempt": "none", "customer_tax_ids": [], "default_tax_rates": [],
        "discounts": [], "effective_at": now, "issuer": { "type": "self" }, "livemode": false, "metadata": {},
        "parent": object("invoice.parent", json!({ "type": "subscription_details", "subscription_details": details })),
        "payment_settings": object("invoice.payment_settings", json!({})), "period_end": now, "period_start": now,
        "total_discount_amounts": [], "total_pretax_credit_amounts": [], "total_taxes": [],
    })
}

/// The money: one total without taxes, credits or discounts, paid in full or not at all.
fn settle(invoice: &mut Value, total: i64, is_paid: bool, now: i64) {
    for name in ["amount_due", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"]
    {
        invoice[name] = json!(total);
    }
    let zero = [
        "amount_overpaid",
        "amount_shipping",
        "ending_balance",
        "post_payment_credit_notes_amount",
        "pre_payment_credit_notes_amount",
        "starting_balance",
    ];
    for name in zero {
        invoice[name] = json!(0);
    }
    invoice["amount_paid"] = json!(if is_paid { total } else { 0 });
    invoice["amount_remaining"] = json!(if is_paid { 0 } else { total });
    invoice["attempt_count"] = json!(i64::from(total > 0 && is_paid));
    invoice["attempted"] = json!(is_paid);
    invoice["status"] = json!(if is_paid { "paid" } else { "open" });
    let paid_at = if is_paid { json!(now) } else { Value::Null };
    let transitions = json!({ "finalized_at": now, "paid_at": paid_at });
    invoice["status_transitions"] = object("invoice.status_transitions", transitions);
}

fn is_metered(price: &Value) -> bool {
    price["recurring"]["usage_type"] == "metered"
}

/// The customer's next invoice number, used up.
fn number(call: &mut Call<'_>, subscription: &Value) -> (String, Value) {
    let id = subscription["customer"].as_str().unwrap_or_default();
    let customer = call
        .store()
        .customers
        .get_mut(id)
        .expect("a subscription is opened for a customer that exists");
    let sequence = customer["next_invoice_sequence"].as_i64().unwrap_or(1);
    customer["next_invoice_sequence"] = json!(sequence + 1);
    let prefix = customer["invoice_prefix"].as_str().unwrap_or_default();
    (format!("{prefix}-{sequence:04}"), customer.clone())
}

fn line(
    call: &mut Call<'_>,
    invoice: &str,
    subscription: &Value,
    item: &Value,
    charge: &Charge,
) -> Value {
    let details = object(
        "invoice_line_item.parent.subscription_item_details",
        json!({
            "proration": false, "subscription": subscription["id"], "subscription_item": item["id"],
        }),
    );
    let pricing = object(
        "invoice_line_item.pricing",
        json!({
            "type": "price_details", "price_details": { "price": charge.price["id"], "product": charge.price["product"] },
            "unit_amount_decimal": charge.price["unit_amount_decimal"],
        }),
    );
    let fields = json!({
        "id": call.mint(ids::INVOICE_LINE), "object": "line_item", "amount": charge.amount, "currency": subscription["currency"],
        "discount_amounts": [], "discountable": true, "discounts": [], "invoice": invoice, "livemode": false,
        "metadata": subscription["metadata"],
        "parent": object("invoice_line_item.parent", json!({ "type": "subscription_item_details", "subscription_item_details": details })),
        "period": { "start": item["current_period_start"], "end": item["current_period_end"] }, "pretax_credit_amounts": [],
        "pricing": pricing, "quantity": charge.quantity, "quantity_decimal": charge.quantity.to_string(),
        "subscription": subscription["id"], "subtotal": charge.amount, "taxes": [],
    });
    object("line_item", fields)
}

/// `GET /v1/invoices/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.invoices, "invoice", id, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_rounded_half_up_once() {
        #[track_caller]
        fn check(unit: &str, transform: &Value, quantity: i64, expect: i64) {
            let price = json!({ "billing_scheme": "per_unit", "unit_amount_decimal": unit, "transform_quantity": transform });
            assert_eq!(amount(&price, quantity).unwrap(), expect, "{unit} x {quantity}");
        }
        check("0.5", &Value::Null, 3, 2);
        check("0.4", &Value::Null, 1, 0);
        check("1000", &Value::Null, 2, 2000);
        check("100", &json!({ "divide_by": 10, "round": "up" }), 11, 200);
        check("100", &json!({ "divide_by": 10, "round": "down" }), 19, 100);
        assert_eq!(amount(&json!({ "billing_scheme": "tiered" }), 1).unwrap_err().status, 501);
    }
}
