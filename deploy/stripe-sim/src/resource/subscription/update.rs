//! `POST /v1/subscriptions/{id}`: metadata, ends, pauses of collection, items, and the end of a trial.
//!
//! Items can be added, removed, moved to another price and given another quantity. What the old state owes comes first: usage under
//! an old metered price, the unused time of old licences; then what the new state owes ([`change`]). With `proration_behavior=none`
//! nothing is owed, and usage from before a change of price is on no invoice, as at Stripe. Absent on purpose: other intervals, updates
//! that wait for their payment.

use super::super::invoice::{line, pay};
use super::super::{Answer, Call, discount, payment_method};
use super::extra::{self, Extra};
use super::open;
use super::plan::{self, Line};
use super::{alive, change, pause, roll, state, threshold};
use crate::error::ApiError;
use crate::params::{Params, merge_metadata};
use crate::store::cards::Outcome;
use crate::store::table::id_of;
use serde_json::{Value, json};

/// How a change in mid-period is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proration {
    /// Items for the next invoice.
    Items,
    /// Items, and an invoice of them at once.
    Invoice,
    None,
}

impl Proration {
    /// Takes `proration_behavior`.
    pub fn take(params: &mut Params) -> Self {
        match params.text("proration_behavior").as_deref() {
            Some("none") => Self::None,
            Some("always_invoice") => Self::Invoice,
            _ => Self::Items,
        }
    }
}

/// A change of items, and how it is settled.
pub struct Change {
    pub items: Vec<Params>,
    pub proration: Proration,
    /// The second from which time is charged anew: now, or the `proration_date`.
    pub at: i64,
    pub extras: Vec<Extra>,
}

impl Change {
    /// Takes `proration_behavior` and `proration_date`, for items that are read already.
    ///
    /// # Errors
    /// 400 for a date outside the running period.
    pub fn take(
        call: &Call<'_>,
        subscription: &Value,
        items: Vec<Params>,
        params: &mut Params,
    ) -> Result<Self, ApiError> {
        let proration = Proration::take(params);
        let path = params.path_of("proration_date");
        let at = params.int("proration_date").unwrap_or_else(|| call.now());
        let (start, end) = roll::span_of(subscription);
        if at != call.now() && !(start..=end).contains(&at) {
            let message = "The proration date must lie in the current billing period.";
            return Err(ApiError::invalid(&path, message));
        }
        Ok(Self { items, proration, at, extras: Vec::new() })
    }
}

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
    let method = params.take_nullable("default_payment_method");
    if let Some(method) = &method {
        let customer = subscription["customer"].as_str().unwrap_or_default();
        if let Some(id) = method.as_str() {
            payment_method::check(call, id, customer, "default_payment_method")?;
        }
        subscription["default_payment_method"] = method.clone();
    }
    plan::read_payment_settings(&mut params, &mut subscription["payment_settings"])?;
    let customer = subscription["customer"].as_str().unwrap_or_default().to_owned();
    let discounts = discount::take(call, &mut params, &customer)?;
    let items = params.hashes("items").unwrap_or_default();
    let mut change = Change::take(call, &subscription, items, &mut params)?;
    end_trial(call, &mut subscription, &mut params)?;
    if let Some(thresholds) = threshold::take(&mut params)? {
        subscription["billing_thresholds"] = thresholds;
    }
    let currency = subscription["currency"].as_str().unwrap_or_default();
    change.extras = extra::take(call, &mut params, currency)?;
    let behavior = params.text("payment_behavior");
    params.ignore(&["off_session"]);
    params.ignore_if_off("automatic_tax", "enabled");
    let restarts = take_anchor(&mut params)? == Some("now");
    params.finish()?;
    if restarts && !matches!(subscription["status"].as_str(), Some("active" | "past_due")) {
        return Err(ApiError::not_simulated("a new anchor of a subscription that is not active"));
    }
    check_payment(call, &customer, change.proration, behavior.as_deref())?;
    if let Some(id) = method.as_ref().and_then(Value::as_str) {
        payment_method::use_for(call, id, &customer);
    }
    if let Some(wanted) = discounts {
        subscription["discounts"] = discount::make(call, wanted, &customer, ("subscription", id));
    }
    if restarts {
        return restart(call, subscription, change);
    }
    change_items(call, subscription, change)
}

/// Takes the `billing_cycle_anchor` of a change: `now` or `unchanged`.
fn take_anchor(params: &mut Params) -> Result<Option<&'static str>, ApiError> {
    let Some(mut anchor) = params.hash("billing_cycle_anchor") else { return Ok(None) };
    let kind = anchor.text("type");
    anchor.finish()?;
    Ok(kind.map(|kind| if kind == "now" { "now" } else { "unchanged" }))
}

/// Begins a new period at this second, billed at once: usage so far and unused time of the old one, licences of the new one.
fn restart(call: &mut Call<'_>, subscription: Value, change: Change) -> Answer {
    let id = id_of(&subscription).to_owned();
    let (span, now) = (roll::span_of(&subscription), call.now());
    let mut owed = Vec::new();
    if change.proration != Proration::None {
        owed.append(&mut change::usage_items(call, &subscription, (span.0, now))?);
        owed.append(&mut change::unused_items(call, &subscription, change.at, span)?);
    }
    let rest = Change { proration: Proration::None, ..change };
    let (mut after, mut extras) = changed_and_owed(call, subscription, rest)?;
    owed.append(&mut extras);
    after["billing_cycle_anchor"] = json!(now);
    after["billing_cycle_anchor_config"] = Value::Null;
    let next = roll::next_end(call, &after, now)
        .ok_or_else(|| ApiError::invalid("items", "The period ends past the calendar."))?;
    let lines = roll::licence_lines(call, &after, (now, next))?;
    roll::set_period(call, &mut after, (now, next));
    change::add(call, owed);
    threshold::watch(call, &after);
    state::save(call, after.clone(), "customer.subscription.updated");
    pause::bill_now(call, &after, lines, (span.0, now))?;
    Ok(super::shown(call, &id))
}

/// Refuses a change whose invoice would not be paid at once, where the caller wants that.
fn check_payment(
    call: &Call<'_>,
    customer: &str,
    proration: Proration,
    behavior: Option<&str>,
) -> Result<(), ApiError> {
    let outcome = call.world.cards.peek(customer);
    match behavior {
        _ if proration != Proration::Invoice || outcome == Outcome::Ok => Ok(()),
        Some("error_if_incomplete") => Err(pay::refusal(outcome)),
        Some("pending_if_incomplete") => Err(ApiError::not_simulated("a pending update")),
        _ => Ok(()),
    }
}

/// `POST /v1/subscriptions/{id}/migrate`: from classic to flexible billing. There is no way back.
pub fn migrate(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut subscription = alive(call, id)?;
    let mut mode = params.hash("billing_mode").unwrap_or_default();
    mode.ignore(&["type"]); // `flexible` is the only one.
    mode.finish()?;
    params.finish()?;
    if subscription["billing_mode"]["type"] == "flexible" {
        let message = format!("The subscription {id} is in flexible billing mode already.");
        return Err(ApiError::refused(None, "billing_mode", message));
    }
    subscription["billing_mode"] =
        json!({ "type": "flexible", "flexible": {}, "updated_at": call.now() });
    Ok(state::save(call, subscription, "customer.subscription.updated"))
}

/// Changes items and settles what that owes. Answers the subscription.
///
/// # Errors
/// 400 for what Stripe refuses, 501 for what is not simulated; nothing has changed then.
pub fn change_items(call: &mut Call<'_>, subscription: Value, change: Change) -> Answer {
    let proration = change.proration;
    let (subscription, owed) = changed_and_owed(call, subscription, change)?;
    let id = id_of(&subscription).to_owned();
    let customer = subscription["customer"].as_str().unwrap_or_default().to_owned();
    let has_owed = !owed.is_empty();
    change::add(call, owed);
    threshold::watch(call, &subscription);
    state::save(call, subscription, "customer.subscription.updated");
    if has_owed && proration == Proration::Invoice {
        change::invoice_pending(call, &id)?;
    }
    threshold::look(call, &customer); // Usage so far may be past a threshold that is new.
    Ok(super::shown(call, &id))
}

/// The subscription with its items changed, and the invoice items that this owes; neither is stored. Usage under a new price counts
/// from now on.
///
/// # Errors
/// As [`change_items`].
pub fn changed_and_owed(
    call: &mut Call<'_>,
    mut subscription: Value,
    change: Change,
) -> Result<(Value, Vec<Value>), ApiError> {
    let before = subscription["items"]["data"].as_array().cloned().unwrap_or_default();
    let after = changed(call, &subscription, before.clone(), change.items)?;
    let mut owed = owed(call, &subscription, &before, &after, (change.proration, change.at))?;
    owed.append(&mut extra::items(call, &change.extras, &subscription));
    let now = call.now();
    for item in &after {
        let old = before.iter().find(|old| old["id"] == item["id"]);
        let is_new = old.is_none_or(|old| old["price"] != item["price"]);
        if is_new && line::is_metered(&line::price(call, &item["price"])) {
            call.store().usage_from.insert(id_of(item).to_owned(), now);
        }
    }
    subscription["items"]["data"] = Value::Array(after);
    Ok((subscription, owed))
}

/// Items for what a change owes; nothing while no time is charged for.
fn owed(
    call: &Call<'_>,
    subscription: &Value,
    before: &[Value],
    after: &[Value],
    (proration, at): (Proration, i64),
) -> Result<Vec<Value>, ApiError> {
    let is_free =
        matches!(subscription["status"].as_str(), Some("trialing" | "paused" | "incomplete"));
    if proration == Proration::None || is_free {
        return Ok(Vec::new());
    }
    let (start, end) = roll::span_of(subscription);
    let now = call.now();
    let is_flexible = subscription["billing_mode"]["type"] == "flexible";
    let same = |left: &Value, right: &Value| {
        left["id"] == right["id"]
            && left["price"] == right["price"]
            && left["quantity"] == right["quantity"]
    };
    let mut items = Vec::new();
    for old in before.iter().filter(|old| !after.iter().any(|new| same(old, new))) {
        // Classic mode forgets what was used under the old price.
        let keeps_price =
            after.iter().any(|new| new["id"] == old["id"] && new["price"] == old["price"]);
        if is_flexible && !keeps_price {
            items.append(&mut change::usage_of(call, subscription, old, (start, now))?);
        }
        items.extend(change::proration(call, subscription, old, at, (start, end), -1)?);
    }
    for new in after.iter().filter(|new| !before.iter().any(|old| same(old, new))) {
        items.extend(change::proration(call, subscription, new, at, (start, end), 1)?);
    }
    Ok(items)
}

/// Sets or lifts the end: at the end of the period, or at a given second.
fn schedule_end(call: &Call<'_>, subscription: &mut Value, params: &mut Params) {
    let end = match (params.flag("cancel_at_period_end"), params.take_nullable("cancel_at")) {
        (Some(true), _) => subscription["items"]["data"][0]["current_period_end"].clone(),
        (_, Some(at @ Value::Number(_))) => at,
        (_, Some(Value::String(_))) => {
            subscription["items"]["data"][0]["current_period_end"].clone()
        }
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

/// Moves the end of a trial. `now` ends it at this instant; the renewal follows from the agenda.
fn end_trial(
    call: &Call<'_>,
    subscription: &mut Value,
    params: &mut Params,
) -> Result<(), ApiError> {
    let end = match params.take("trial_end") {
        None => return Ok(()),
        Some(Value::Number(at)) => at.as_i64().unwrap_or_default(),
        Some(_) => call.now(),
    };
    if subscription["status"] != "trialing" {
        return Err(ApiError::not_simulated("a new trial of a running subscription"));
    }
    if end < call.now() {
        return Err(ApiError::invalid("trial_end", "The trial end must be in the future."));
    }
    subscription["trial_end"] = json!(end);
    subscription["billing_cycle_anchor"] = json!(end);
    for item in subscription["items"]["data"].as_array_mut().into_iter().flatten() {
        item["current_period_end"] = json!(end);
    }
    Ok(())
}

fn changed(
    call: &mut Call<'_>,
    subscription: &Value,
    mut items: Vec<Value>,
    changes: Vec<Params>,
) -> Result<Vec<Value>, ApiError> {
    for mut change in changes {
        let id_path = change.path_of("id");
        let Some(id) = change.text("id") else {
            items.push(new_item(call, subscription, &items, change)?);
            continue;
        };
        let at = items.iter().position(|item| item["id"] == id.as_str());
        let at = at.ok_or_else(|| ApiError::no_such("subscription_item", &id, &id_path))?;
        if change.flag("deleted") == Some(true) {
            change.ignore(&["clear_usage"]); // Usage belongs to the meter and stays there.
            change.finish()?;
            items.remove(at);
            continue;
        }
        change_item(call, subscription, &mut items[at], change)?;
    }
    if items.is_empty() {
        return Err(ApiError::invalid("items", "A subscription needs at least one item."));
    }
    Ok(items)
}

fn new_item(call: &mut Call<'_>, subscription: &Value, items: &[Value], change: Params) -> Answer {
    let line = read_one(call, change)?;
    check_fits(call, subscription, &line)?;
    if items.iter().any(|item| item["price"] == line.price.as_str()) {
        return Err(ApiError::invalid("items", "A price may appear once in a subscription."));
    }
    let (start, end) = roll::span_of(subscription);
    Ok(open::item(call, id_of(subscription), &line, start, end))
}

fn change_item(
    call: &mut Call<'_>,
    subscription: &Value,
    item: &mut Value,
    mut change: Params,
) -> Result<(), ApiError> {
    merge_metadata(&mut item["metadata"], change.take("metadata"))?;
    if let Some(thresholds) = threshold::take_usage(&mut change, is_metered(call, item))? {
        item["billing_thresholds"] = thresholds;
    }
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
    check_fits(call, subscription, &line)?;
    item["price"] = json!(line.price);
    match line.quantity {
        Some(quantity) => item["quantity"] = json!(quantity),
        None => {
            item.as_object_mut().map(|fields| fields.remove("quantity"));
        }
    }
    Ok(())
}

fn read_one(call: &mut Call<'_>, change: Params) -> Result<Line, ApiError> {
    let mut lines = plan::read_lines(call, vec![change], "items")?;
    Ok(lines.swap_remove(0))
}

fn check_fits(call: &Call<'_>, subscription: &Value, line: &Line) -> Result<(), ApiError> {
    let price = call.world.store.prices.get(&line.price).unwrap_or(&Value::Null);
    if price["currency"] != subscription["currency"] {
        return Err(ApiError::invalid(
            "items",
            "All prices of a subscription must have the same currency.",
        ));
    }
    let own = line::price(call, &subscription["items"]["data"][0]["price"]);
    let interval = |price: &Value| {
        (price["recurring"]["interval"].clone(), price["recurring"]["interval_count"].clone())
    };
    if interval(price) != interval(&own) {
        return Err(ApiError::not_simulated("a change to a price with another interval"));
    }
    Ok(())
}

fn is_metered(call: &Call<'_>, item: &Value) -> bool {
    line::is_metered(&line::price(call, &item["price"]))
}

fn is_licensed(call: &Call<'_>, price: &str) -> bool {
    let row = call.world.store.prices.get(price);
    row.is_some_and(|price| !line::is_metered(price))
}
