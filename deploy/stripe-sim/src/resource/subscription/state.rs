//! How payments and ends change a subscription's status.
//!
//! `incomplete` becomes active by its first payment; `past_due` and `unpaid` become active when the latest invoice is paid. A failed
//! payment makes an active subscription past due, and the end of the retry ladder does what the account's settings say.

use super::super::Call;
use super::super::invoice::pay;
use super::is_terminal;
use crate::settings::AfterRetries;
use crate::store::table::id_of;
use serde_json::{Value, json};

/// An invoice of this subscription was paid.
pub fn paid(call: &mut Call<'_>, mut subscription: Value, invoice: &str) {
    let status = subscription["status"].as_str().unwrap_or_default();
    let waits = matches!(status, "incomplete" | "past_due" | "unpaid");
    if waits && subscription["latest_invoice"] == invoice {
        subscription["status"] = json!("active");
        save(call, subscription, "customer.subscription.updated");
    }
}

/// A payment failed; `end` is set when it was the last try.
pub fn unpaid(call: &mut Call<'_>, mut subscription: Value, end: Option<AfterRetries>) {
    if is_terminal(&subscription) || subscription["status"] == "paused" {
        return;
    }
    match end.and_then(pay::last_status) {
        Some("canceled") => {
            subscription["cancellation_details"]["reason"] = json!("payment_failed");
            finish(call, subscription, "canceled");
        }
        Some(status) => {
            subscription["status"] = json!(status);
            save(call, subscription, "customer.subscription.updated");
        }
        None if matches!(subscription["status"].as_str(), Some("active" | "trialing")) => {
            subscription["status"] = json!("past_due");
            save(call, subscription, "customer.subscription.updated");
        }
        None => {}
    }
}

/// Ends a subscription for good. `deleted` tells the final state and, unlike `updated`, no previous attributes.
pub fn finish(call: &mut Call<'_>, mut subscription: Value, status: &str) -> Value {
    subscription["status"] = json!(status);
    subscription["ended_at"] = json!(call.now());
    if status != "canceled" {
        return save(call, subscription, "customer.subscription.updated");
    }
    if subscription["canceled_at"].is_null() {
        subscription["canceled_at"] = json!(call.now());
    }
    call.store().subscriptions.replace(subscription.clone());
    let shown = super::render(&call.world.store, &subscription);
    call.emit("customer.subscription.deleted", &shown, None);
    shown
}

/// Keeps a changed subscription and tells what changed.
pub fn save(call: &mut Call<'_>, subscription: Value, event_type: &str) -> Value {
    call.save(|store| &mut store.subscriptions, subscription, event_type)
}

/// Sets what an invoice made just now changes about its subscription, without telling.
pub fn note_invoice(call: &mut Call<'_>, subscription: &Value, invoice: &Value) {
    if let Some(row) = call.store().subscriptions.get_mut(id_of(subscription)) {
        row["latest_invoice"] = invoice["id"].clone();
    }
}
