//! From draft to open: the last count of the usage, the number, the customer's balance; and what Stripe does at once afterwards.
//!
//! Only a renewal counts its usage again ([`line::recount`]): what came before this moment with a stamp inside the period is in,
//! what comes later is on no invoice. Nothing to pay is paid at once; else the card is charged, or the invoice is sent.

use super::super::{Call, credit_grant, discount};
use super::draft;
use super::line;
use super::pay;
use crate::error::ApiError;
use crate::store::table::id_of;
use serde_json::{Value, json};

const DAY_S: i64 = 86_400;

/// Finalizes a draft. With `advances`, what follows automatically follows now.
///
/// # Errors
/// 400 for an invoice that is no draft, or an amount past 63 bits; nothing has changed then.
pub fn finalize(
    call: &mut Call<'_>,
    mut invoice: Value,
    advances: bool,
) -> Result<Value, ApiError> {
    if invoice["status"] != "draft" {
        let message =
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.";
        return Err(ApiError::refused(Some("invoice_not_editable"), "", message));
    }
    let subscription = subscription_of(call, &invoice);
    if let (Some(subscription), true) =
        (&subscription, invoice["billing_reason"] == "subscription_cycle")
    {
        let lines = match invoice["lines"]["data"].take() {
            Value::Array(lines) => lines,
            _ => Vec::new(),
        };
        let mut lines = line::recount(call, subscription, lines)?;
        for line in &mut lines {
            line["invoice"] = invoice["id"].clone();
        }
        invoice["lines"]["data"] = Value::Array(lines);
    }
    discount::apply(call, &mut invoice); // Credits pay for what is left.
    credit_grant::apply(call, &mut invoice);
    draft::reckon(call, &mut invoice);
    use_balance(call, &mut invoice);
    open(call, &mut invoice, subscription.as_ref(), advances);
    call.store().invoices.replace(invoice.clone());
    let shown = super::render(&invoice);
    call.emit("invoice.finalized", &shown, None);
    if advances { Ok(advance(call, invoice, subscription.as_ref())) } else { Ok(invoice) }
}

/// The subscription that an invoice is of, as stored.
pub fn subscription_of(call: &Call<'_>, invoice: &Value) -> Option<Value> {
    let id = invoice["parent"]["subscription_details"]["subscription"].as_str()?;
    call.world.store.subscriptions.get(id).cloned()
}

/// What the customer's balance takes or gives; the rest of a credit stays there.
fn use_balance(call: &mut Call<'_>, invoice: &mut Value) {
    let number = |name: &str| invoice[name].as_i64().unwrap_or_default();
    let (balance, total, due) = (number("starting_balance"), number("total"), number("amount_due"));
    let ending = balance + total - due;
    invoice["ending_balance"] = json!(ending);
    let id = invoice["customer"].as_str().unwrap_or_default();
    set_balance(call, id, ending);
}

/// Changes a customer's balance, and tells of it if that is a change.
pub fn set_balance(call: &mut Call<'_>, customer: &str, balance: i64) {
    let Some(mut row) = call.world.store.live_customer(customer).cloned() else { return };
    if row["balance"] != balance {
        row["balance"] = json!(balance);
        call.save(|store| &mut store.customers, row, "customer.updated");
    }
}

fn open(call: &mut Call<'_>, invoice: &mut Value, subscription: Option<&Value>, advances: bool) {
    let now = call.now();
    invoice["number"] = json!(number(call, invoice["customer"].as_str().unwrap_or_default()));
    invoice["status"] = json!("open");
    invoice["status_transitions"]["finalized_at"] = json!(now);
    if invoice["effective_at"].is_null() {
        invoice["effective_at"] = json!(now);
    }
    let page = format!("https://stripe-sim.invalid/invoices/{}", id_of(invoice));
    invoice["invoice_pdf"] = json!(format!("{page}/pdf"));
    invoice["hosted_invoice_url"] = json!(page); // Nobody serves either.
    invoice["auto_advance"] = json!(advances);
    invoice["automatically_finalizes_at"] = Value::Null;
    invoice["next_payment_attempt"] = Value::Null;
    if invoice["collection_method"] == "send_invoice" && invoice["due_date"].is_null() {
        let days = subscription.and_then(|row| row["days_until_due"].as_i64()).unwrap_or(30);
        invoice["due_date"] = json!(now + days * DAY_S);
    }
}

/// The customer's next invoice number, used up.
fn number(call: &mut Call<'_>, customer: &str) -> String {
    let Some(row) = call.store().customers.get_mut(customer) else { return "0001".to_owned() };
    let sequence = row["next_invoice_sequence"].as_i64().unwrap_or(1);
    if row["deleted"].is_null() {
        row["next_invoice_sequence"] = json!(sequence + 1);
    }
    format!("{}-{sequence:04}", row["invoice_prefix"].as_str().unwrap_or("DELETED"))
}

/// What follows a finalization by itself.
fn advance(call: &mut Call<'_>, invoice: Value, subscription: Option<&Value>) -> Value {
    let behavior = subscription.and_then(|row| row["pause_collection"]["behavior"].as_str());
    match behavior {
        Some("void") => return pay::void(call, invoice),
        Some("mark_uncollectible") => return pay::give_up(call, invoice),
        _ => {}
    }
    if invoice["amount_remaining"] == 0 {
        return pay::settle(call, invoice);
    }
    if invoice["collection_method"] == "send_invoice" {
        let shown = super::render(&invoice);
        call.emit("invoice.sent", &shown, None);
        return invoice;
    }
    pay::attempt(call, id_of(&invoice), pay::Trigger::Schedule).0
}
