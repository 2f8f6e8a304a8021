//! Making an invoice: always as a draft first, whatever becomes of it in the same instant.
//!
//! Money is counted again whenever the lines change ([`reckon`]). A total below zero is nothing to pay; what is left of it goes to
//! the customer's balance at finalization. Absent on purpose: taxes, shipping.

use super::super::{Call, discount, object};
use super::line::{self, Span};
use crate::ids;
use crate::list;
use crate::store::table::id_of;
use serde_json::{Value, json};

/// What an invoice is made of.
pub struct Draft<'a> {
    pub customer: &'a str,
    /// The subscription as stored, for an invoice of one.
    pub subscription: Option<&'a Value>,
    /// Stripe's `billing_reason`.
    pub reason: &'static str,
    pub currency: &'a str,
    pub lines: Vec<Value>,
    pub period: Span,
    /// Unix second of the automatic finalization; none: somebody has to finalize it.
    pub finalizes_at: Option<i64>,
}

/// Makes and stores a draft, with the customer's pending invoice items of its kind taken in. Tells nothing: see [`announce`].
pub fn make(call: &mut Call<'_>, draft: Draft<'_>) -> Value {
    let pending = pending(call, &draft);
    let id = call.mint(ids::INVOICE);
    let invoice = build(call, &id, draft, &pending);
    for row in pending {
        attach(call, row, &id);
    }
    if invoice["total"] != 0 || invoice["subtotal"] != 0 {
        discount::spend(call, &invoice);
    }
    call.store().invoices.insert(invoice.clone());
    invoice
}

/// The draft's document, kept nowhere.
pub fn build(call: &mut Call<'_>, id: &str, draft: Draft<'_>, pending: &[Value]) -> Value {
    let mut lines = draft.lines;
    for row in pending {
        lines.push(line::of_invoice_item(call, row));
    }
    for line in &mut lines {
        line["invoice"] = json!(id);
    }
    let customer = call.world.store.customers.get(draft.customer).cloned().unwrap_or_default();
    let mut invoice = object("invoice", frame(id, call.now()));
    invoice["auto_advance"] = json!(draft.finalizes_at.is_some());
    invoice["automatically_finalizes_at"] = json!(draft.finalizes_at);
    invoice["billing_reason"] = json!(draft.reason);
    invoice["currency"] = json!(draft.currency);
    invoice["customer"] = json!(draft.customer);
    invoice["customer_email"] = customer["email"].clone();
    invoice["customer_name"] = customer["name"].clone();
    invoice["test_clock"] = customer["test_clock"].clone();
    invoice["period_start"] = json!(draft.period.0);
    invoice["period_end"] = json!(draft.period.1);
    invoice["collection_method"] = json!("charge_automatically");
    if let Some(subscription) = draft.subscription {
        let details =
            json!({ "subscription": subscription["id"], "metadata": subscription["metadata"] });
        let parent = json!({ "type": "subscription_details", "subscription_details": details });
        invoice["parent"] = object("invoice.parent", parent);
        invoice["collection_method"] = subscription["collection_method"].clone();
        invoice["discounts"] = discount::lasting(&call.world.store, subscription, call.now());
    }
    invoice["lines"] = list::object(&format!("/v1/invoices/{id}/lines"), lines, false);
    reckon(call, &mut invoice);
    invoice
}

/// Tells of a new draft.
pub fn announce(call: &mut Call<'_>, invoice: &Value) {
    let shown = super::render(invoice);
    call.emit("invoice.created", &shown, None);
}

fn frame(id: &str, now: i64) -> Value {
    json!({
        "id": id, "object": "invoice", "amount_overpaid": 0, "amount_paid": 0, "amount_shipping": 0, "attempt_count": 0,
        "attempted": false, "automatic_tax": object("invoice.automatic_tax", json!({ "enabled": false })), "created": now,
        "customer_tax_exempt": "none", "hosted_invoice_url": null, "invoice_pdf": null, "customer_tax_ids": [], "default_tax_rates": [], "discounts": [],
        "issuer": { "type": "self" }, "livemode": false, "metadata": {},
        "payment_settings": object("invoice.payment_settings", json!({})), "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0, "status": "draft",
        "status_transitions": object("invoice.status_transitions", json!({})), "total_discount_amounts": [],
        "total_pretax_credit_amounts": [], "total_taxes": [],
    })
}

/// Counts the money of a draft from its lines, its discounts, its credits and the customer's balance.
pub fn reckon(call: &Call<'_>, invoice: &mut Value) {
    let sum = |rows: &Value| -> i64 {
        rows.as_array().into_iter().flatten().filter_map(|row| row["amount"].as_i64()).sum()
    };
    discount::apply(call, invoice);
    let subtotal = sum(&invoice["lines"]["data"]);
    let lowered =
        sum(&invoice["total_discount_amounts"]) + sum(&invoice["total_pretax_credit_amounts"]);
    let total = subtotal - lowered;
    let customer = invoice["customer"].as_str().and_then(|id| call.world.store.customers.get(id));
    let balance = customer.and_then(|row| row["balance"].as_i64()).unwrap_or_default();
    let due = (total + balance).max(0);
    for (name, amount) in [
        ("subtotal", subtotal),
        ("subtotal_excluding_tax", subtotal),
        ("total", total),
        ("total_excluding_tax", total),
        ("starting_balance", balance),
        ("amount_due", due),
        ("amount_remaining", due),
    ] {
        invoice[name] = json!(amount);
    }
}

/// Pending items that the invoice takes in: its subscription's, and those of no subscription; oldest first.
pub fn pending(call: &Call<'_>, draft: &Draft<'_>) -> Vec<Value> {
    let subscription = draft.subscription.map(id_of);
    let wanted = |row: &&Value| {
        let own = row["parent"]["subscription_details"]["subscription"].as_str();
        row["invoice"].is_null()
            && row["customer"] == draft.customer
            && row["currency"] == draft.currency
            && (own.is_none() || own == subscription)
    };
    let mut rows: Vec<Value> =
        call.world.store.invoice_items.newest_first().filter(wanted).cloned().collect();
    rows.reverse();
    rows
}

/// Whether anything is pending that such an invoice would take in.
pub fn has_pending(call: &Call<'_>, subscription: &Value) -> bool {
    let draft = Draft {
        customer: subscription["customer"].as_str().unwrap_or_default(),
        subscription: Some(subscription),
        reason: "manual",
        currency: subscription["currency"].as_str().unwrap_or_default(),
        lines: Vec::new(),
        period: (0, 0),
        finalizes_at: None,
    };
    !pending(call, &draft).is_empty()
}

fn attach(call: &mut Call<'_>, mut row: Value, invoice: &str) {
    row["invoice"] = json!(invoice);
    call.store().invoice_items.replace(row);
}
