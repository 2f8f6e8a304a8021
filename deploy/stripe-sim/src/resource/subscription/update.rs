//! `POST /v1/subscriptions/{id}`.
//!
//! Items can be added, removed and moved to another price as long as nothing has to be prorated: metered prices, or
//! `proration_behavior=none`. Absent on purpose: proration invoices, a new anchor, a new trial.

use super::super::{Answer, Call};
use super::alive;
use super::open;
use super::plan::{self, Line};
use crate::error::ApiError;
use crate::params::{Params, merge_metadata};
use crate::store::table::id_of;
use serde_json::{Value, json};

/// `POST /v1/subscriptions/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut subscription = alive(call, id)?;
    merge_metadata(&mut subscription["metadata"], params.take("metadata"))?;
    params.copy_into(
        &mut subscription,
        &["collection_method", "days_until_due", "description", "pause_collection"],
    );
    if subscription["pause_collection"].is_object()
        && subscription["pause_collection"]["resumes_at"].is_null()
    {
        subscription["pause_collection"]["resumes_at"] = Value::Null;
    }
    schedule_end(call, &mut subscription, &mut params);
    if let Some(mut details) = params.hash("cancellation_details") {
        details.copy_into(&mut subscription["cancellation_details"], &["comment", "feedback"]);
        details.finish()?;
    }
    let prorates = params.text("proration_behavior").as_deref() != Some("none");
    if let Some(changes) = params.hashes("items") {
        change_items(call, &mut subscription, changes, prorates)?;
    }
    params.ignore(&["off_session", "payment_behavior"]);
    params.ignore_if_off("automatic_tax", "enabled");
    params.finish()?;
    Ok(call.save(|store| &mut store.subscriptions, subscription, "customer.subscription.updated"))
}

/// Sets or lifts the end: at the end of the period, or at a given second.
fn schedule_end(call: &Call<'_>, subscription: &mut Value, params: &mut Params) {
    let end = match (params.flag("cancel_at_period_end"), params.take_nullable("cancel_at")) {
        (Some(true), _) => subscription["items"]["data"][0]["current_period_end"].clone(),
        (_, Some(at @ Value::Number(_))) => at,
        (Some(false), _) | (_, Some(Value::Null)) => Value::Null,
        _ => return,
    };
    let at_period_end = end == subscription["items"]["data"][0]["current_period_end"];
    subscription["cancel_at_period_end"] = json!(at_period_end);
    subscription["canceled_at"] = if end.is_null() { Value::Null } else { json!(call.now()) };
    subscription["cancellation_details"]["reason"] =
        if end.is_null() { Value::Null } else { json!("cancellation_requested") };
    subscription["cancel_at"] = end;
}

fn change_items(
    call: &mut Call<'_>,
    subscription: &mut Value,
    changes: Vec<Params>,
    prorates: bool,
) -> Result<(), ApiError> {
    let Value::Array(mut items) = subscription["items"]["data"].take() else {
        unreachable!("items are a list")
    };
    for mut change in changes {
        let id_path = change.path_of("id");
        let Some(id) = change.text("id") else {
            items.push(new_item(call, subscription, &items, change, prorates)?);
            continue;
        };
        let at = items.iter().position(|item| item["id"] == id.as_str());
        let at = at.ok_or_else(|| ApiError::no_such("subscription_item", &id, &id_path))?;
        if change.flag("deleted") == Some(true) {
            change.ignore(&["clear_usage"]); // Usage belongs to the meter and stays there.
            change.finish()?;
            check_proration(call, &items[at]["price"], prorates)?;
            items.remove(at);
            continue;
        }
        change_item(call, &mut items[at], change, prorates)?;
    }
    if items.is_empty() {
        return Err(ApiError::invalid("items", "A subscription needs at least one item."));
    }
    subscription["items"]["data"] = Value::Array(items);
    Ok(())
}

fn new_item(
    call: &mut Call<'_>,
    subscription: &Value,
    items: &[Value],
    change: Params,
    prorates: bool,
) -> Answer {
    let line = read_one(call, change)?;
    check_fits(call, subscription, items, &line)?;
    check_proration(call, &json!(line.price), prorates)?;
    let id = id_of(subscription);
    let end =
        items.first().and_then(|item| item["current_period_end"].as_i64()).unwrap_or_default();
    let now = call.now();
    Ok(open::item(call, id, &line, now, end))
}

fn change_item(
    call: &mut Call<'_>,
    item: &mut Value,
    mut change: Params,
    prorates: bool,
) -> Result<(), ApiError> {
    merge_metadata(&mut item["metadata"], change.take("metadata"))?;
    let quantity = change.int("quantity");
    let new_price = change.text("price").filter(|price| item["price"] != price.as_str());
    if new_price.is_none() && quantity.is_none() {
        return change.finish();
    }
    let price = new_price.unwrap_or_else(|| item["price"].as_str().unwrap_or_default().to_owned());
    let mut line = json!({ "price": price });
    if let Some(quantity) =
        quantity.or_else(|| item["quantity"].as_i64().filter(|_| is_licensed(call, &price)))
    {
        line["quantity"] = json!(quantity);
    }
    change.finish()?;
    let Value::Object(line) = line else { unreachable!("written as an object") };
    let line = read_one(call, Params::new(line))?;
    check_proration(call, &item["price"], prorates)?;
    check_proration(call, &json!(line.price), prorates)?;
    item["price"] = json!(line.price);
    match line.quantity {
        Some(quantity) => item["quantity"] = json!(quantity),
        None => {
            item.as_object_mut().map(|fields| fields.remove("quantity"));
        }
    }
    Ok(())
}

fn read_one(call: &Call<'_>, change: Params) -> Result<Line, ApiError> {
    let mut lines = plan::read_lines(call, vec![change], "items")?;
    Ok(lines.swap_remove(0))
}

fn check_fits(
    call: &Call<'_>,
    subscription: &Value,
    items: &[Value],
    line: &Line,
) -> Result<(), ApiError> {
    let price = call.world.store.prices.get(&line.price).unwrap_or(&Value::Null);
    if price["currency"] != subscription["currency"] {
        return Err(ApiError::invalid(
            "items",
            "All prices of a subscription must have the same currency.",
        ));
    }
    if items.iter().any(|item| item["price"] == line.price.as_str()) {
        return Err(ApiError::invalid("items", "A price may appear once in a subscription."));
    }
    Ok(())
}

fn is_licensed(call: &Call<'_>, price: &str) -> bool {
    call.world
        .store
        .prices
        .get(price)
        .is_some_and(|price| price["recurring"]["usage_type"] == "licensed")
}

/// A change of a licensed item makes proration lines at Stripe.
fn check_proration(call: &Call<'_>, price: &Value, prorates: bool) -> Result<(), ApiError> {
    if prorates && is_licensed(call, price.as_str().unwrap_or_default()) {
        return Err(ApiError::not_simulated(
            "proration of a licensed item; pass `proration_behavior=none`",
        ));
    }
    Ok(())
}
