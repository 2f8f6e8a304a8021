//! Opening a subscription, by API or through checkout: one plan, one way.
//!
//! Opening makes the subscription and its first invoice, which is finalized and charged at once. A card that does not pay leaves the
//! subscription incomplete, or refuses the whole request, as the caller chose. Licensed items are charged ahead, for the share of a
//! period that an anchor cuts short; metered items have nothing to charge yet (a zero line in classic mode, none in flexible mode).
//! Stripe's flexible mode makes no empty invoice; here there always is one, so that every checkout ends in `invoice.paid`.

use super::super::invoice::draft::{self, Draft};
use super::super::invoice::line::{self, Span};
use super::super::invoice::{finalize, pay};
use super::super::{Call, discount, object, payment_method};
use super::extra::{self, Extra};
use super::plan::{Anchor, Line, Payment, Plan, Trial};
use super::{change, item_list, period, render, threshold};
use crate::error::ApiError;
use crate::ids;
use crate::rating;
use crate::store::cards::Outcome;
use crate::store::table::id_of;
use rust_decimal::Decimal;
use serde_json::{Value, json};

const DAY_S: i64 = 86_400;

/// What opening made, before its first invoice moves on.
pub struct Opened {
    subscription: Value,
    pub invoice: String,
    charges: bool,
}

impl Opened {
    /// The new subscription's id.
    pub fn id(&self) -> &str {
        id_of(&self.subscription)
    }
}

/// The first period and what follows from it.
struct Dates {
    end: i64,
    anchor: i64,
    trial_end: Option<i64>,
}

fn dates(call: &Call<'_>, plan: &Plan) -> Result<Dates, ApiError> {
    let now = call.now();
    let trial_end = match plan.trial {
        Trial::None => None,
        Trial::Days(days) => Some(now + days * DAY_S),
        Trial::Until(end) => Some(end),
    };
    if let Some(end) = trial_end {
        return Ok(Dates { end, anchor: end, trial_end });
    }
    let recurring =
        &call.world.store.prices.get(&plan.lines[0].price).unwrap_or(&Value::Null)["recurring"];
    let interval = recurring["interval"].as_str().unwrap_or_default();
    let count = recurring["interval_count"]
        .as_u64()
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(1);
    let natural = period::add(now, interval, count)
        .ok_or_else(|| ApiError::invalid("items", "The period ends past the calendar."))?;
    let anchored = match &plan.anchor {
        Anchor::Now => return Ok(Dates { end: natural, anchor: now, trial_end: None }),
        Anchor::At(at) => Some(*at),
        Anchor::Config(config) => period::next_anchor(now, config),
    };
    match anchored.filter(|at| (now + 1..=natural).contains(at)) {
        Some(at) => Ok(Dates { end: at, anchor: at, trial_end: None }),
        None => {
            let message =
                "The billing cycle anchor must lie within the first natural billing period."
                    .to_owned();
            Err(ApiError::invalid("billing_cycle_anchor", message))
        }
    }
}

/// What each licensed line of the first invoice costs; nothing in a trial or in a free stub of a period.
///
/// # Errors
/// 400 for an amount past 63 bits.
fn amounts(call: &Call<'_>, plan: &Plan, dates: &Dates) -> Result<Vec<i64>, ApiError> {
    let is_cut_short = !matches!(plan.anchor, Anchor::Now);
    let is_free = plan.has_trial() || (is_cut_short && !plan.prorates);
    let amount = |line: &Line| -> Result<i64, ApiError> {
        let price = call.world.store.prices.get(&line.price).cloned().unwrap_or_default();
        let Some(quantity) = line.quantity.filter(|_| !is_free) else { return Ok(0) };
        let parts = line::rate(call, &price, Decimal::from(quantity))?;
        let full: i64 = parts.iter().map(|part| part.amount).sum();
        if !is_cut_short {
            return Ok(full);
        }
        let interval = price["recurring"]["interval"].as_str().unwrap_or_default();
        let count =
            price["recurring"]["interval_count"].as_u64().and_then(|n| u32::try_from(n).ok());
        let whole = period::before(dates.end, interval, count.unwrap_or(1))
            .map_or(dates.end - call.now(), |start| dates.end - start);
        rating::share(full, dates.end - call.now(), whole)
    };
    plan.lines.iter().map(amount).collect()
}

/// The due amounts of a price line, as checkout shows them.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn line_amounts(call: &Call<'_>, plan: &Plan) -> Result<Vec<i64>, ApiError> {
    amounts(call, plan, &dates(call, plan)?)
}

/// What the first invoice comes to, before discounts and what else is pending.
fn due(plan: &Plan, amounts: &[i64]) -> i64 {
    amounts.iter().chain(&plan.extras.iter().map(Extra::amount).collect::<Vec<_>>()).sum()
}

/// Says whether a plan can be opened now, and changes nothing.
///
/// # Errors
/// 400 or 402 when it cannot.
pub fn check(call: &Call<'_>, plan: &Plan) -> Result<(), ApiError> {
    let due = due(plan, &line_amounts(call, plan)?);
    let outcome = call.world.cards.peek(&plan.customer);
    let refuses = plan.payment == Payment::Refuse && plan.is_charged() && due > 0;
    if refuses && outcome != Outcome::Ok { Err(pay::refusal(outcome)) } else { Ok(()) }
}

/// Makes the subscription and the draft of its first invoice. Emits nothing and charges nothing: see [`announce`].
///
/// # Errors
/// 400 or 402 when the plan cannot be opened; nothing has changed then.
pub fn open(call: &mut Call<'_>, plan: &Plan) -> Result<Opened, ApiError> {
    if let Some(id) = &plan.default_payment_method {
        payment_method::use_for(call, id, &plan.customer);
    }
    check(call, plan)?;
    let dates = dates(call, plan)?;
    let amounts = amounts(call, plan, &dates)?;
    let due = due(plan, &amounts);
    let pays =
        call.world.cards.peek(&plan.customer) == Outcome::Ok && plan.payment != Payment::Wait;
    let is_incomplete = due > 0 && plan.is_charged() && !pays;
    let mut subscription = document(call, plan, &dates, is_incomplete);
    let id = id_of(&subscription).to_owned();
    let holder = ("subscription", id.as_str());
    subscription["discounts"] =
        discount::make(call, plan.discounts.clone(), &plan.customer, holder);
    call.store().subscriptions.insert(subscription.clone());
    threshold::watch(call, &subscription);
    let extras = extra::items(call, &plan.extras, &subscription);
    change::add(call, extras);
    let lines = first_lines(call, plan, &subscription, &amounts)?;
    let now = call.now();
    let made = Draft {
        customer: &plan.customer,
        subscription: Some(&subscription),
        reason: "subscription_create",
        currency: &plan.currency,
        lines,
        period: (now, now),
        finalizes_at: None,
    };
    let invoice = id_of(&draft::make(call, made)).to_owned();
    subscription["latest_invoice"] = json!(invoice);
    call.store().subscriptions.replace(subscription.clone());
    let charges = plan.payment != Payment::Wait;
    Ok(Opened { subscription, invoice, charges })
}

/// The first invoice of a plan, kept nowhere.
///
/// # Errors
/// 400 when the plan cannot be opened.
pub fn preview(
    call: &mut Call<'_>,
    plan: &Plan,
    id: &str,
    items: Vec<Value>,
) -> Result<Value, ApiError> {
    let dates = dates(call, plan)?;
    let amounts = amounts(call, plan, &dates)?;
    let subscription = document(call, plan, &dates, false);
    let lines = first_lines(call, plan, &subscription, &amounts)?;
    let now = call.now();
    let made = Draft {
        customer: &plan.customer,
        subscription: Some(&subscription),
        reason: "upcoming",
        currency: &plan.currency,
        lines,
        period: (now, now),
        finalizes_at: None,
    };
    let mut pending = draft::pending(call, &made);
    pending.extend(items);
    Ok(draft::build(call, id, made, &pending))
}

fn first_lines(
    call: &mut Call<'_>,
    plan: &Plan,
    subscription: &Value,
    amounts: &[i64],
) -> Result<Vec<Value>, ApiError> {
    let mut lines = Vec::new();
    let items = subscription["items"]["data"].as_array().cloned().unwrap_or_default();
    for (item, amount) in items.iter().zip(amounts) {
        let price = line::price(call, &item["price"]);
        if plan.is_flexible && line::is_metered(&price) {
            continue;
        }
        let span: Span = (
            item["current_period_start"].as_i64().unwrap_or_default(),
            item["current_period_end"].as_i64().unwrap_or_default(),
        );
        let quantity = Decimal::from(item["quantity"].as_i64().unwrap_or(0));
        let unit = rating::decimal(&price["unit_amount_decimal"]);
        let part = rating::Part { quantity, unit, amount: *amount, tier: None };
        let mut row = line::item_line(call, subscription, item, &price, span, &part);
        let prorated = *amount > 0 && !matches!(plan.anchor, Anchor::Now);
        row["parent"]["subscription_item_details"]["proration"] = json!(prorated);
        lines.push(row);
    }
    Ok(lines)
}

fn document(call: &mut Call<'_>, plan: &Plan, dates: &Dates, is_incomplete: bool) -> Value {
    let id = call.mint(ids::SUBSCRIPTION);
    let now = call.now();
    let items = plan.lines.iter().map(|line| item(call, &id, line, now, dates.end)).collect();
    let status = match dates.trial_end {
        Some(_) => "trialing",
        None if is_incomplete => "incomplete",
        None => "active",
    };
    let config = match &plan.anchor {
        Anchor::Config(config) => {
            object("subscription.billing_cycle_anchor_config", config.clone())
        }
        _ => Value::Null,
    };
    let mode = if plan.is_flexible {
        json!({ "type": "flexible", "flexible": {} })
    } else {
        json!({ "type": "classic", "flexible": null })
    };
    let cancel_at = plan.cancel_at.or(plan.cancel_at_period_end.then_some(dates.end));
    let ends = cancel_at.is_some();
    let reason = if ends { json!("cancellation_requested") } else { Value::Null };
    let customer = call.world.store.customers.get(&plan.customer).cloned().unwrap_or_default();
    let fields = json!({
        "id": id, "object": "subscription", "automatic_tax": object("subscription.automatic_tax", json!({ "enabled": false })),
        "billing_cycle_anchor": dates.anchor, "billing_cycle_anchor_config": config, "billing_mode": mode,
        "billing_schedules": [], "billing_thresholds": plan.thresholds, "cancel_at": cancel_at, "cancel_at_period_end": cancel_at == Some(dates.end),
        "canceled_at": if ends { json!(now) } else { Value::Null },
        "cancellation_details": object("subscription.cancellation_details", json!({ "reason": reason })),
        "collection_method": plan.collection_method, "created": now, "currency": plan.currency, "customer": plan.customer,
        "days_until_due": plan.days_until_due, "default_payment_method": plan.default_payment_method, "default_tax_rates": [], "description": plan.description, "discounts": [],
        "invoice_settings": object("subscription.invoice_settings", json!({ "issuer": { "type": "self" } })),
        "items": item_list(&id, items), "livemode": false, "metadata": plan.metadata,
        "payment_settings": object("subscription.payment_settings", plan.payment_settings.clone()),
        "start_date": now, "status": status, "test_clock": customer["test_clock"], "trial_end": dates.trial_end,
        "trial_settings": { "end_behavior": object("subscription.trial_settings.end_behavior", json!({ "missing_payment_method": plan.trial_without_card })) },
        "trial_start": dates.trial_end.map(|_| now),
    });
    object("subscription", fields)
}

/// One item as stored: its price by id.
pub fn item(call: &mut Call<'_>, subscription: &str, line: &Line, start: i64, end: i64) -> Value {
    let mut item = object(
        "subscription_item",
        json!({
            "id": call.mint(ids::ITEM), "object": "subscription_item", "created": call.now(), "current_period_end": end,
            "current_period_start": start, "discounts": [], "metadata": line.metadata, "price": line.price,
            "subscription": subscription, "tax_rates": [],
        }),
    );
    if let Some(quantity) = line.quantity {
        item["quantity"] = json!(quantity);
    }
    item["billing_thresholds"] = line.thresholds.clone();
    item
}

/// Tells of a new subscription and lets its first invoice go its way. Answers the subscription as it is then.
///
/// # Errors
/// 400 for an amount past 63 bits, which [`open`] excludes.
pub fn announce(call: &mut Call<'_>, opened: &Opened) -> Result<Value, ApiError> {
    let id = id_of(&opened.subscription);
    let shown = render(&call.world.store, &opened.subscription);
    call.emit("customer.subscription.created", &shown, None);
    let invoice = call.world.store.invoices.get(&opened.invoice).cloned().unwrap_or_default();
    draft::announce(call, &invoice);
    let invoice = finalize::finalize(call, invoice, opened.charges)?;
    if !opened.charges && invoice["amount_remaining"] == 0 {
        pay::settle(call, invoice);
    }
    Ok(super::shown(call, id))
}
