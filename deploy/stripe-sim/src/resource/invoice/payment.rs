//! The payment of an invoice, as far as it shows: `payments` and `confirmation_secret`, which follow from the invoice alone.
//!
//! A finalized invoice with something due has one payment, by an intent of its own. Absent on purpose: the intents themselves; an
//! id stands for each, and nothing is found by it.

use super::super::object;
use crate::ids;
use crate::list;
use serde_json::{Value, json};

/// `payments`: none before there is something to pay.
pub fn list(invoice: &Value) -> Value {
    let id = invoice["id"].as_str().unwrap_or_default();
    list::object("/v1/invoice_payments", of(invoice, id).into_iter().collect(), false)
}

fn of(invoice: &Value, id: &str) -> Option<Value> {
    let at = invoice["status_transitions"]["finalized_at"].as_i64()?;
    let due = invoice["amount_due"].as_i64().filter(|due| *due > 0)?;
    let (status, canceled_at) = match invoice["status"].as_str()? {
        "paid" => ("paid", Value::Null),
        "void" => ("canceled", invoice["status_transitions"]["voided_at"].clone()),
        _ => ("open", Value::Null),
    };
    let paid_at = &invoice["status_transitions"]["paid_at"];
    let fields = json!({
        "id": ids::derive(ids::INVOICE_PAYMENT, &[id.as_bytes()]), "object": "invoice_payment",
        "amount_paid": if status == "paid" { invoice["amount_paid"].clone() } else { Value::Null }, "amount_requested": due,
        "created": at, "currency": invoice["currency"], "invoice": id, "is_default": true, "livemode": false,
        "payment": { "type": "payment_intent", "payment_intent": intent(id) }, "status": status,
        "status_transitions": { "canceled_at": canceled_at, "paid_at": paid_at },
    });
    Some(object("invoice_payment", fields))
}

/// `confirmation_secret`: what a buyer's page confirms the payment with, while an invoice waits for its card.
pub fn secret(invoice: &Value) -> Value {
    let id = invoice["id"].as_str().unwrap_or_default();
    let waits = invoice["status"] == "open"
        && invoice["collection_method"] == "charge_automatically"
        && invoice["amount_remaining"].as_i64().is_some_and(|left| left > 0);
    if !waits {
        return Value::Null;
    }
    let secret = ids::derive(ids::INTENT_SECRET, &[id.as_bytes()]);
    json!({ "type": "payment_intent", "client_secret": format!("{}{secret}", intent(id)) })
}

fn intent(invoice: &str) -> String {
    ids::derive(ids::INTENT, &[invoice.as_bytes()])
}
