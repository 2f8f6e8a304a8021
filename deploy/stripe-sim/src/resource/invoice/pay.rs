//! Paying, failing to pay, and giving up; each with what it does to the subscription.
//!
//! The card's outcome is scripted ([`crate::store::cards`]). A failed automatic payment is tried again by the account's retry
//! ladder; when the ladder ends, the subscription goes where the settings say. Absent on purpose: payment intents and charges.

use super::super::{Call, credit_grant, subscription};
use super::finalize;
use crate::error::ApiError;
use crate::settings::AfterRetries;
use crate::store::cards::Outcome;
use crate::store::table::id_of;
use serde_json::{Value, json};

/// Who asks for a payment. Only the schedule moves the retry ladder on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Schedule,
    Request,
}

/// Charges the card for an open invoice. Answers the invoice and how it went.
pub fn attempt(call: &mut Call<'_>, id: &str, trigger: Trigger) -> (Value, Outcome) {
    let mut invoice = stored(call, id);
    let customer = invoice["customer"].as_str().unwrap_or_default().to_owned();
    let outcome = call.world.cards.charge(&customer);
    let count = invoice["attempt_count"].as_i64().unwrap_or_default();
    if count == 0 || trigger == Trigger::Schedule {
        invoice["attempt_count"] = json!(count + 1);
    }
    invoice["attempted"] = json!(true);
    if outcome == Outcome::Ok {
        return (settle(call, invoice), outcome);
    }
    (fail(call, invoice, outcome, trigger), outcome)
}

fn stored(call: &Call<'_>, id: &str) -> Value {
    call.world.store.invoices.get(id).cloned().expect("an invoice that is being paid is stored")
}

/// Marks an open invoice as paid in full.
pub fn settle(call: &mut Call<'_>, mut invoice: Value) -> Value {
    let paid = invoice["amount_paid"].as_i64().unwrap_or_default()
        + invoice["amount_remaining"].as_i64().unwrap_or_default();
    invoice["amount_paid"] = json!(paid);
    invoice["amount_remaining"] = json!(0);
    invoice["attempted"] = json!(true);
    invoice["auto_advance"] = json!(false);
    invoice["next_payment_attempt"] = Value::Null;
    invoice["status"] = json!("paid");
    invoice["status_transitions"]["paid_at"] = json!(call.now());
    keep(call, &invoice, &["invoice.paid", "invoice.payment_succeeded"]);
    if let Some(own) = finalize::subscription_of(call, &invoice) {
        subscription::state::paid(call, own, id_of(&invoice));
    }
    invoice
}

fn fail(call: &mut Call<'_>, mut invoice: Value, outcome: Outcome, trigger: Trigger) -> Value {
    let own = finalize::subscription_of(call, &invoice);
    let is_first = own.as_ref().is_some_and(|row| row["status"] == "incomplete");
    if trigger == Trigger::Schedule {
        invoice["next_payment_attempt"] =
            if is_first { Value::Null } else { json!(next_attempt(call, &invoice)) };
    }
    let is_last =
        trigger == Trigger::Schedule && !is_first && invoice["next_payment_attempt"].is_null();
    let mut types = vec!["invoice.payment_failed"];
    if outcome == Outcome::RequiresAction {
        types.push("invoice.payment_action_required");
    }
    keep(call, &invoice, &types);
    if let Some(own) = own {
        let end = is_last.then_some(call.world.settings.after_retries);
        subscription::state::unpaid(call, own, end);
    }
    invoice
}

/// The next rung of the ladder, counted from the finalization; none after the last.
fn next_attempt(call: &Call<'_>, invoice: &Value) -> Option<i64> {
    let first = invoice["status_transitions"]["finalized_at"].as_i64()?;
    let failed = usize::try_from(invoice["attempt_count"].as_i64()?).ok()?;
    let rungs = &call.world.settings.retries_after_s;
    let next = rungs.get(failed.checked_sub(1)?).map(|after| first + after)?;
    Some(next.max(call.now() + 1)) // Finalized late or settings changed: never in the past.
}

/// Voids an invoice and gives back what it took from the customer's balance and credit grants.
pub fn void(call: &mut Call<'_>, mut invoice: Value) -> Value {
    let number = |name: &str| invoice[name].as_i64().unwrap_or_default();
    let taken = number("starting_balance") - number("ending_balance");
    let customer = invoice["customer"].as_str().unwrap_or_default().to_owned();
    let balance = call.world.store.live_customer(&customer).and_then(|row| row["balance"].as_i64());
    close(call, &mut invoice, "void", "voided_at");
    keep(call, &invoice, &["invoice.voided"]);
    if let Some(balance) = balance {
        finalize::set_balance(call, &customer, balance + taken);
    }
    credit_grant::restore(call, id_of(&invoice));
    invoice
}

/// Marks an invoice as uncollectible: it can still be paid.
pub fn give_up(call: &mut Call<'_>, mut invoice: Value) -> Value {
    close(call, &mut invoice, "uncollectible", "marked_uncollectible_at");
    keep(call, &invoice, &["invoice.marked_uncollectible"]);
    invoice
}

fn close(call: &Call<'_>, invoice: &mut Value, status: &str, stamp: &str) {
    invoice["auto_advance"] = json!(false);
    invoice["next_payment_attempt"] = Value::Null;
    invoice["status"] = json!(status);
    invoice["status_transitions"][stamp] = json!(call.now());
}

fn keep(call: &mut Call<'_>, invoice: &Value, types: &[&str]) {
    call.store().invoices.replace(invoice.clone());
    let shown = super::render(invoice);
    for event_type in types {
        call.emit(event_type, &shown, None);
    }
}

/// What the caller of a payment is told when the card did not pay.
pub fn refusal(outcome: Outcome) -> ApiError {
    match outcome {
        Outcome::RequiresAction => ApiError::card(
            "invoice_payment_intent_requires_action",
            "This payment requires additional user action before it can be completed successfully.",
        ),
        Outcome::Missing => ApiError::refused(
            Some("resource_missing"),
            "",
            "This customer has no attached payment source or default payment method. Please consider adding a default payment method.",
        ),
        Outcome::Ok | Outcome::Decline => ApiError::declined("card_declined", "generic_decline"),
    }
}

/// What the end of the ladder makes of a subscription, if it changes it.
pub fn last_status(after: AfterRetries) -> Option<&'static str> {
    match after {
        AfterRetries::Cancel => Some("canceled"),
        AfterRetries::Unpaid => Some("unpaid"),
        AfterRetries::PastDue => None,
    }
}
