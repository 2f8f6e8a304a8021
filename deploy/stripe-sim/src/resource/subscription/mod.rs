//! `/v1/subscriptions`: read, cancel, change of status. A [`plan`] is read, then opened ([`open`]);
//! changes are in [`update`], dates in [`period`].
//!
//! Time renews and ends it ([`roll`]), payments move its status ([`state`]), mid-period changes owe items ([`change`]),
//! usage reaches thresholds ([`threshold`]).
//!
//! A subscription is stored with its prices by id and shown with the whole price and Stripe's legacy plan. All its items share one
//! period. Absent on purpose: schedules, items of different intervals.

pub mod change;
pub mod extra;
pub mod open;
pub mod pause;
pub mod period;
pub mod plan;
pub mod roll;
pub mod state;
pub mod threshold;
pub mod update;

use super::{Answer, Call, discount, object, page};
use crate::error::ApiError;
use crate::list::{self, Range};
use crate::params::Params;
use crate::store::Store;
use serde_json::{Value, json};

/// Statuses that never change again.
const TERMINAL: [&str; 2] = ["canceled", "incomplete_expired"];
/// All statuses that Stripe knows.
pub const STATUSES: [&str; 8] = [
    "active",
    "canceled",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
];

/// `POST /v1/subscriptions`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let plan = plan::Plan::from_subscription(call, &mut params)?;
    params.finish()?;
    let opened = open::open(call, &plan)?;
    open::announce(call, &opened)
}

/// `GET /v1/subscriptions/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.subscriptions, "subscription", id, params)
}

/// `GET /v1/subscriptions`: without a status, all that have not ended.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let starts = Range::take(&mut params, "current_period_start")?;
    let ends = Range::take(&mut params, "current_period_end")?;
    let status = params.text("status");
    let price = params.text("price");
    let clock = params.text("test_clock");
    let customer = params.text("customer");
    let scoped = customer.is_some(); // Else only objects of the clock that was named show.
    let wanted = [
        ("customer", customer.map(Value::from)),
        ("collection_method", params.take("collection_method")),
    ];
    page(
        call.world,
        &call.world.store.subscriptions,
        "subscription",
        "/v1/subscriptions",
        params,
        |row| {
            let period = &row["items"]["data"][0];
            created.contains(row["created"].as_i64().unwrap_or_default())
                && starts.contains(period["current_period_start"].as_i64().unwrap_or_default())
                && ends.contains(period["current_period_end"].as_i64().unwrap_or_default())
                && (scoped || row["test_clock"].as_str() == clock.as_deref())
                && has_status(row, status.as_deref())
                && wanted
                    .iter()
                    .all(|(name, value)| value.as_ref().is_none_or(|value| row[*name] == *value))
                && price
                    .as_ref()
                    .is_none_or(|price| items(row).any(|item| item["price"] == price.as_str()))
        },
    )
}

fn has_status(row: &Value, wanted: Option<&str>) -> bool {
    let status = row["status"].as_str().unwrap_or_default();
    match wanted {
        None => status != "canceled",
        Some("all") => true,
        Some("ended") => TERMINAL.contains(&status),
        Some(wanted) => status == wanted,
    }
}

fn items(row: &Value) -> impl Iterator<Item = &Value> {
    row["items"]["data"].as_array().into_iter().flatten()
}

/// `DELETE /v1/subscriptions/{id}`: ends it now. Usage of the running period goes unbilled, as at Stripe, unless `invoice_now`.
pub fn cancel(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut subscription = alive(call, id)?;
    if let Some(mut details) = params.hash("cancellation_details") {
        details.copy_into(&mut subscription["cancellation_details"], &["comment", "feedback"]);
        details.finish()?;
    }
    let invoices = params.flag("invoice_now").unwrap_or(false);
    let prorates = params.flag("prorate").unwrap_or(false);
    params.finish()?;
    let is_free =
        matches!(subscription["status"].as_str(), Some("trialing" | "paused" | "incomplete"));
    let (start, end) = roll::span_of(&subscription);
    let now = call.now();
    let lines = if invoices && !is_free {
        roll::usage_lines(call, &subscription, (start, now))?
    } else {
        Vec::new()
    };
    if prorates && !is_free {
        let items = change::unused_items(call, &subscription, now, (start, end))?;
        change::add(call, items);
    }
    if invoices && (!lines.is_empty() || super::invoice::draft::has_pending(call, &subscription)) {
        pause::bill_now(call, &subscription, lines, (start, now))?;
    }
    let mut subscription = alive(call, id)?; // The invoice may have changed it.
    subscription["cancellation_details"]["reason"] = json!("cancellation_requested");
    Ok(state::finish(call, subscription, "canceled"))
}

/// Ends every subscription of a customer.
pub fn cancel_all_of(call: &mut Call<'_>, customer: &str) {
    let rows = call.world.store.subscriptions.newest_first();
    let alive: Vec<Value> =
        rows.filter(|row| row["customer"] == customer && !is_terminal(row)).cloned().collect();
    for subscription in alive {
        state::finish(call, subscription, "canceled");
    }
}

/// The subscription as it is now, as the API shows it.
fn shown(call: &Call<'_>, id: &str) -> Value {
    let row = call.world.store.subscriptions.get(id).expect("a subscription is never removed");
    render(&call.world.store, row)
}

/// Sets a status from outside, as time, payments or a person at Stripe would, and tells of it by the event that fits:
/// `deleted`, `paused`, `resumed`, else `updated`.
///
/// # Errors
/// 404 without such a subscription; 400 for an unknown status or one that cannot change any more.
pub fn set_status(call: &mut Call<'_>, id: &str, status: &str) -> Answer {
    let mut subscription = alive(call, id)?;
    if !STATUSES.contains(&status) {
        return Err(ApiError::invalid(
            "status",
            format!("Invalid status: must be one of {}", STATUSES.join(", ")),
        ));
    }
    if TERMINAL.contains(&status) {
        return Ok(state::finish(call, subscription, status));
    }
    let event_type = match (subscription["status"].as_str(), status) {
        (Some("paused"), "paused") => "customer.subscription.updated",
        (_, "paused") => "customer.subscription.paused",
        (Some("paused"), _) => "customer.subscription.resumed",
        _ => "customer.subscription.updated",
    };
    subscription["status"] = json!(status);
    Ok(call.save(|store| &mut store.subscriptions, subscription, event_type))
}

/// A subscription that can still change.
fn alive(call: &mut Call<'_>, id: &str) -> Answer {
    let found = call.world.store.subscriptions.get(id).cloned();
    let found = found.ok_or_else(|| ApiError::not_found("subscription", id))?;
    call.enter_clock_of(&found);
    if is_terminal(&found) {
        let status = found["status"].as_str().unwrap_or_default();
        return Err(ApiError::refused(
            None,
            "id",
            format!("The subscription {id} is {status} and cannot change."),
        ));
    }
    Ok(found)
}

/// True when a subscription never changes again.
pub fn is_terminal(row: &Value) -> bool {
    TERMINAL.contains(&row["status"].as_str().unwrap_or_default())
}

/// The subscription as the API shows it: items with their price and plan.
pub fn render(store: &Store, document: &Value) -> Value {
    let mut shown = document.clone();
    for item in shown["items"]["data"].as_array_mut().into_iter().flatten() {
        let price = item["price"].as_str().and_then(|id| store.prices.get(id)).cloned();
        let price = price.expect("a price in use is never removed");
        item["plan"] = plan(&price);
        item["price"] = price;
    }
    shown["discounts"] = discount::unspent(store, document);
    shown
}

/// Items as the list object inside a subscription.
fn item_list(subscription: &str, data: Vec<Value>) -> Value {
    list::object(&format!("/v1/subscription_items?subscription={subscription}"), data, false)
}

/// Stripe's older view of a recurring price, which every item still carries.
fn plan(price: &Value) -> Value {
    let recurring = &price["recurring"];
    let fields = json!({
        "id": price["id"], "object": "plan", "active": price["active"], "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"], "billing_scheme": price["billing_scheme"], "created": price["created"],
        "currency": price["currency"], "interval": recurring["interval"], "interval_count": recurring["interval_count"],
        "livemode": false, "metadata": price["metadata"], "meter": recurring["meter"], "nickname": price["nickname"],
        "product": price["product"], "tiers_mode": price["tiers_mode"], "transform_usage": price["transform_quantity"],
        "trial_period_days": recurring["trial_period_days"], "usage_type": recurring["usage_type"],
    });
    object("plan", fields)
}
