//! Opening a subscription, by API or through checkout: one plan, one way.
//!
//! Opening makes the subscription, its first invoice (paid at once: the simulated customer always pays) and nothing else.
//! Absent on purpose: coupons, taxes, prorated first invoices.

use super::super::{Call, invoice, object};
use super::plan::{Anchor, Line, Plan, Trial};
use super::{item_list, period, render};
use crate::error::ApiError;
use crate::ids;
use serde_json::{Value, json};

const DAY_S: i64 = 86_400;

/// What opening made, as shown.
pub struct Opened {
    pub subscription: Value,
    pub invoice: Value,
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

/// What opening will do, once it is sure that it can.
struct Opening {
    dates: Dates,
    charges: Vec<invoice::Charge>,
}

fn prepare(call: &Call<'_>, plan: &Plan) -> Result<Opening, ApiError> {
    let dates = dates(call, plan)?;
    let is_cut_short = !matches!(plan.anchor, Anchor::Now);
    if is_cut_short && plan.prorates && plan.lines.iter().any(|line| line.quantity.is_some()) {
        return Err(ApiError::not_simulated(
            "a prorated first invoice; pass `proration_behavior=none`",
        ));
    }
    let charges = invoice::charges(call, &plan.lines, !plan.has_trial() && !is_cut_short)?;
    Ok(Opening { dates, charges })
}

/// Says whether a plan can be opened now, and changes nothing.
///
/// # Errors
/// As [`open`].
pub fn check(call: &Call<'_>, plan: &Plan) -> Result<(), ApiError> {
    prepare(call, plan).map(|_| ())
}

/// Makes the subscription and its first invoice. Emits nothing: see [`announce`].
///
/// # Errors
/// 400 or 501 when the plan cannot be opened; nothing has changed then.
pub fn open(call: &mut Call<'_>, plan: &Plan) -> Result<Opened, ApiError> {
    let Opening { dates, charges } = prepare(call, plan)?;
    let due: i64 = charges.iter().map(|charge| charge.amount).sum();
    let waits = plan.waits_for_payment && due > 0;
    let mut subscription = document(call, plan, &dates, waits);
    let invoice = invoice::first(call, &subscription, &charges, plan.is_flexible, !waits);
    subscription["latest_invoice"] = invoice["id"].clone();
    call.store().invoices.insert(invoice.clone());
    call.store().subscriptions.insert(subscription.clone());
    Ok(Opened { subscription: render(&call.world.store, &subscription), invoice })
}

fn document(call: &mut Call<'_>, plan: &Plan, dates: &Dates, waits: bool) -> Value {
    let id = call.mint(ids::SUBSCRIPTION);
    let now = call.now();
    let items = plan.lines.iter().map(|line| item(call, &id, line, now, dates.end)).collect();
    let status = match dates.trial_end {
        Some(_) => "trialing",
        None if waits => "incomplete",
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
    let ends = plan.cancel_at_period_end;
    let reason = if ends { json!("cancellation_requested") } else { Value::Null };
    let fields = json!({
        "id": id, "object": "subscription", "automatic_tax": object("subscription.automatic_tax", json!({ "enabled": false })),
        "billing_cycle_anchor": dates.anchor, "billing_cycle_anchor_config": config, "billing_mode": mode,
        "billing_schedules": [], "cancel_at": if ends { json!(dates.end) } else { Value::Null }, "cancel_at_period_end": ends,
        "canceled_at": if ends { json!(now) } else { Value::Null },
        "cancellation_details": object("subscription.cancellation_details", json!({ "reason": reason })),
        "collection_method": plan.collection_method, "created": now, "currency": plan.currency, "customer": plan.customer,
        "days_until_due": plan.days_until_due, "default_tax_rates": [], "description": plan.description, "discounts": [],
        "invoice_settings": object("subscription.invoice_settings", json!({ "issuer": { "type": "self" } })),
        "items": item_list(&id, items), "livemode": false, "metadata": plan.metadata,
        "payment_settings": object("subscription.payment_settings", json!({ "save_default_payment_method": "off" })),
        "start_date": now, "status": status, "trial_end": dates.trial_end,
        "trial_settings": { "end_behavior": object("subscription.trial_settings.end_behavior", json!({ "missing_payment_method": "create_invoice" })) },
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
    item
}

/// Tells of a new subscription, and of its invoice when that is paid.
pub fn announce(call: &mut Call<'_>, opened: &Opened) {
    call.emit("customer.subscription.created", &opened.subscription, None);
    if opened.invoice["status"] == "paid" {
        call.emit("invoice.paid", &opened.invoice, None);
    }
}
