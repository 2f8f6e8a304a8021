//! `POST /v1/invoices/create_preview` and the invoice inside `invoice.upcoming`: what the next invoice would be, kept nowhere.
//!
//! Of a subscription as it is, as it would be after a change, or as it would be made. Usage is as counted so far. A preview leaves no
//! trace ([`without_trace`]): ids follow from the subscription, and prices of `price_data` go again. Absent on purpose: previews of
//! schedules, of new anchors and trials.

use super::invoice::draft::{self, Draft};
use super::invoice::line::Span;
use super::invoice_item::{self, Item};
use super::subscription::update::{self, Change, Proration};
use super::subscription::{change, open, plan, roll};
use super::{Answer, Call, discount, invoice};
use crate::error::ApiError;
use crate::ids;
use crate::params::{Params, merge_metadata};
use crate::store::table::id_of;
use serde_json::{Value, json};

/// `POST /v1/invoices/create_preview`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let customer = params.text("customer");
    if let Some(customer) = &customer {
        call.enter_clock_of_customer(customer, "customer")?;
    }
    let id = params.text("subscription");
    let mut details = params.hash("subscription_details").unwrap_or_default();
    let items = details.hashes("items");
    if id.is_none() && items.is_none() && customer.is_none() {
        return Err(ApiError::missing("customer"));
    }
    params.ignore(&["preview_mode"]);
    params.ignore_if_off("automatic_tax", "enabled");
    without_trace(call, |call| match (id, items, customer) {
        (None, Some(items), Some(customer)) => of_new(call, params, details, items, &customer),
        (None, Some(_), None) => Err(ApiError::missing("customer")),
        (id, items, customer) => {
            let subscription = subscription(call, id.as_deref(), customer.as_deref())?;
            match (subscription, customer) {
                (Some(own), _) => of_changed(call, params, details, items.unwrap_or_default(), own),
                (None, Some(customer)) => of_customer(call, params, details, &customer),
                (None, None) => Err(none()),
            }
        }
    })
}

/// Does the work and takes back what it left: ids that were used up, prices that came along, where usage counts from.
fn without_trace(call: &mut Call<'_>, work: impl FnOnce(&mut Call<'_>) -> Answer) -> Answer {
    let (counters, usage_from) = (call.world.ids.clone(), call.world.store.usage_from.clone());
    let prices = call.world.store.prices.len();
    let answer = work(call);
    let store = call.store();
    let made = store.prices.newest_first().take(store.prices.len() - prices);
    let made: Vec<String> = made.map(|row| id_of(row).to_owned()).collect();
    for id in made {
        store.prices.remove(&id);
    }
    store.usage_from = usage_from;
    call.world.ids = counters;
    answer
}

/// The subscription that is asked for: by its id, or the customer's latest that has not ended.
fn subscription(
    call: &mut Call<'_>,
    id: Option<&str>,
    customer: Option<&str>,
) -> Result<Option<Value>, ApiError> {
    let rows = &call.world.store.subscriptions;
    let found = match (id, customer) {
        (Some(id), _) => {
            let row = rows
                .get(id)
                .ok_or_else(|| ApiError::no_such("subscription", id, "subscription"))?;
            if super::subscription::is_terminal(row) {
                return Err(none());
            }
            Some(row)
        }
        (None, customer) => rows.newest_first().find(|row| {
            row["customer"].as_str() == customer && !super::subscription::is_terminal(row)
        }),
    };
    let found = found.cloned();
    if let Some(row) = &found {
        call.enter_clock_of(row);
    }
    Ok(found)
}

/// The next invoice of a subscription after a change, which may be none.
fn of_changed(
    call: &mut Call<'_>,
    mut params: Params,
    mut details: Params,
    items: Vec<Params>,
    mut subscription: Value,
) -> Answer {
    let currency = subscription["currency"].as_str().unwrap_or_default().to_owned();
    let customer = subscription["customer"].as_str().unwrap_or_default().to_owned();
    let mut own = Own::take(call, &mut params, &customer, &currency)?;
    params.finish()?;
    let ends_now = details.flag("cancel_now").unwrap_or(false);
    if details.flag("cancel_at_period_end") == Some(true) {
        subscription["cancel_at"] = json!(roll::span_of(&subscription).1);
    }
    merge_metadata(&mut subscription["metadata"], details.take("metadata"))?;
    let change = Change::take(call, &subscription, items, &mut details)?;
    details.finish()?;
    let (proration, at) = (change.proration, change.at);
    let span = roll::span_of(&subscription);
    let (changed, owed) = update::changed_and_owed(call, subscription, change)?;
    own.items.extend(owed);
    if ends_now {
        let is_trial = changed["status"] == "trialing";
        let until = (span.0, call.now());
        let lines = if is_trial { Vec::new() } else { roll::usage_lines(call, &changed, until)? };
        if proration != Proration::None && !is_trial {
            own.items.append(&mut change::unused_items(call, &changed, at, span)?);
        }
        return Ok(build(call, &changed, lines, until, own));
    }
    if proration == Proration::Invoice {
        return Ok(build(call, &changed, Vec::new(), (span.0, call.now()), own));
    }
    next(call, &changed, own)
}

/// The first invoice of a subscription that is not there.
fn of_new(
    call: &mut Call<'_>,
    mut params: Params,
    mut details: Params,
    items: Vec<Params>,
    customer: &str,
) -> Answer {
    let lines = plan::read_lines(call, items, "subscription_details[items]")?;
    if let Some(anchor) = details.hash("billing_cycle_anchor") {
        anchor.finish()?; // Named as what is not simulated.
    }
    let plan = plan::Plan::read(call, &mut details, customer.to_owned(), lines)?;
    details.finish()?;
    let mut own = Own::take(call, &mut params, customer, &plan.currency)?;
    params.finish()?;
    name(call, &mut own.items);
    let id = ids::derive(ids::UPCOMING, &[customer.as_bytes()]);
    let mut preview = open::preview(call, &plan, &id, own.items)?;
    if let Some(wanted) = own.discounts {
        discount::try_on(call, wanted, &mut preview);
    }
    Ok(shown(call, &id, preview, call.now()))
}

/// What is pending for a customer without a subscription.
fn of_customer(call: &mut Call<'_>, mut params: Params, details: Params, customer: &str) -> Answer {
    details.finish()?;
    let currency = crate::currency::take(&mut params)?.unwrap_or_else(|| "usd".to_owned());
    let mut own = Own::take(call, &mut params, customer, &currency)?;
    params.finish()?;
    let now = call.now();
    let made = Draft {
        customer,
        subscription: None,
        reason: "upcoming",
        currency: &currency,
        lines: Vec::new(),
        period: (now, now),
        finalizes_at: None,
    };
    name(call, &mut own.items);
    let mut all = draft::pending(call, &made);
    all.append(&mut own.items);
    if all.is_empty() {
        return Err(none());
    }
    let id = ids::derive(ids::UPCOMING, &[customer.as_bytes()]);
    let mut preview = draft::build(call, &id, made, &all);
    if let Some(wanted) = own.discounts {
        discount::try_on(call, wanted, &mut preview);
    }
    Ok(shown(call, &id, preview, now))
}

/// What is only in a preview: items, and discounts in the place of those that the subscription has.
#[derive(Default)]
struct Own {
    items: Vec<Value>,
    discounts: Option<discount::Wanted>,
}

impl Own {
    fn take(
        call: &mut Call<'_>,
        params: &mut Params,
        customer: &str,
        currency: &str,
    ) -> Result<Self, ApiError> {
        let discounts = discount::take(call, params, customer)?;
        Ok(Self { items: one_off(call, params, customer, currency)?, discounts })
    }
}

/// Takes `invoice_items`: items that are only in the preview.
fn one_off(
    call: &mut Call<'_>,
    params: &mut Params,
    customer: &str,
    currency: &str,
) -> Result<Vec<Value>, ApiError> {
    let given = params.hashes("invoice_items").unwrap_or_default();
    let read = |mut given: Params| -> Answer {
        let description = given.take_nullable("description").unwrap_or_default();
        let discountable = given.flag("discountable").unwrap_or(true);
        let mut metadata = json!({});
        merge_metadata(&mut metadata, given.take("metadata"))?;
        let period = invoice_item::period(call, &mut given)?;
        let (part, price, _) = invoice_item::amount(call, &mut given, Some(currency))?;
        given.finish()?;
        let made = Item {
            customer,
            currency,
            description: String::new(),
            is_proration: false,
            part,
            price: price.as_ref(),
            period,
            subscription: None,
            item: None,
        };
        let mut row = invoice_item::document(call, &made);
        row["description"] = description;
        row["discountable"] = json!(discountable);
        row["metadata"] = metadata;
        Ok(row)
    };
    given.into_iter().map(read).collect()
}

fn none() -> ApiError {
    let message = "No upcoming invoices for this customer or subscription.";
    ApiError { status: 404, ..ApiError::refused(Some("invoice_upcoming_none"), "", message) }
}

/// The next renewal invoice of a subscription (as stored), as of now.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn upcoming(call: &mut Call<'_>, subscription: &Value) -> Answer {
    without_trace(call, |call| next(call, subscription, Own::default()))
}

/// The invoice at the end of the running period, with items beside those that are pending.
fn next(call: &mut Call<'_>, subscription: &Value, own: Own) -> Answer {
    let span = roll::span_of(subscription);
    let ends = subscription["cancel_at"].as_i64().is_some_and(|at| at <= span.1);
    let next = roll::next_end(call, subscription, span.1)
        .ok_or_else(|| ApiError::invalid("subscription", "The period ends past the calendar."))?;
    let bills_usage = subscription["status"] != "trialing";
    let lines = match (ends, bills_usage) {
        (false, _) => roll::lines(call, subscription, span, next, bills_usage)?,
        (true, true) => roll::usage_lines(call, subscription, span)?,
        (true, false) => Vec::new(),
    };
    Ok(build(call, subscription, lines, span, own))
}

fn build(
    call: &mut Call<'_>,
    subscription: &Value,
    lines: Vec<Value>,
    period: Span,
    mut own: Own,
) -> Value {
    let material = [id_of(subscription).as_bytes(), &period.1.to_be_bytes()];
    let id = ids::derive(ids::UPCOMING, &material);
    let made = Draft {
        customer: subscription["customer"].as_str().unwrap_or_default(),
        subscription: Some(subscription),
        reason: "upcoming",
        currency: subscription["currency"].as_str().unwrap_or_default(),
        lines,
        period,
        finalizes_at: None,
    };
    let mut pending = draft::pending(call, &made);
    name(call, &mut own.items);
    pending.append(&mut own.items);
    let mut preview = draft::build(call, &id, made, &pending);
    if let Some(wanted) = own.discounts {
        discount::try_on(call, wanted, &mut preview);
    }
    shown(call, &id, preview, period.1)
}

/// Gives items that are only in a preview the ids that lines refer to.
fn name(call: &mut Call<'_>, items: &mut [Value]) {
    for item in items {
        item["id"] = json!(call.mint(ids::INVOICE_ITEM));
    }
}

/// The preview as the API shows it, as if made at a second.
fn shown(call: &Call<'_>, id: &str, mut preview: Value, at: i64) -> Value {
    preview["created"] = json!(at);
    preview["next_payment_attempt"] = json!(at + call.world.settings.grace_s);
    for (index, row) in preview["lines"]["data"].as_array_mut().into_iter().flatten().enumerate() {
        let material = [id.as_bytes(), &index.to_be_bytes()];
        row["id"] = json!(ids::derive(ids::INVOICE_LINE, &material));
    }
    invoice::render(&preview)
}
