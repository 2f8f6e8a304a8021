//! `/v1/checkout/sessions` in subscription mode, and its completion by the control API.
//!
//! A session holds a checked plan of the subscription; completing it opens that plan. The address in `url` is the simulator's own
//! page with one button. A session past its time is expired the next time anybody looks at it by id.
//! Absent on purpose: payment and setup modes, embedded pages, discounts, taxes, shipping.

use super::subscription::open;
use super::subscription::plan::{self, Line, Payment, Plan};
use super::{Answer, Call, customer, discount, object, page, render};
use crate::error::ApiError;
use crate::ids;
use crate::list::{self, Page, Range};
use crate::params::{Params, merge_metadata};
use crate::store::Store;
use crate::store::table::id_of;
use serde_json::{Value, json};

const HOUR_S: i64 = 3_600;

/// `POST /v1/checkout/sessions`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    check_mode(&mut params)?;
    let success_url = params.required_text("success_url")?;
    let buyer = buyer(call, &mut params)?;
    let lines =
        plan::read_lines(call, params.hashes("line_items").unwrap_or_default(), "line_items")?;
    let mut data = params.hash("subscription_data").unwrap_or_default();
    let mut plan = Plan::read(call, &mut data, buyer.clone().unwrap_or_default(), lines)?;
    data.finish()?;
    open::check(call, &plan)?;
    let discounts = discount::take(call, &mut params, &plan.customer)?;
    let expires_at = expiry(call.now(), params.int("expires_at"))?;
    let mut session = blank(call, &plan.currency);
    session["success_url"] = json!(success_url);
    session["customer"] = json!(buyer);
    session["expires_at"] = json!(expires_at);
    params.copy_into(
        &mut session,
        &[
            "allow_promotion_codes",
            "billing_address_collection",
            "cancel_url",
            "client_reference_id",
            "customer_email",
            "integration_identifier",
            "locale",
            "origin_context",
            "payment_method_collection",
            "submit_type",
        ],
    );
    if let Some(wanted) = discounts {
        if session["allow_promotion_codes"] == true {
            return Err(ApiError::only_one_of("allow_promotion_codes", "discounts", "discounts"));
        }
        session["discounts"] = wanted.sources();
        plan.discounts = wanted;
    }
    merge_metadata(&mut session["metadata"], params.take("metadata"))?;
    for name in [
        "automatic_tax",
        "adaptive_pricing",
        "phone_number_collection",
        "tax_id_collection",
        "managed_payments",
    ] {
        params.ignore_if_off(name, "enabled");
    }
    params.finish()?;
    let amounts = open::line_amounts(call, &plan)?;
    let mut rows: Vec<Value> = plan
        .lines
        .iter()
        .zip(amounts)
        .map(|(line, amount)| line_item(call, line, amount))
        .collect();
    lower(call, &mut rows, &plan);
    store(call, session, rows, plan)
}

/// Takes the plan's discounts off the lines, as its first invoice will.
fn lower(call: &mut Call<'_>, rows: &mut [Value], plan: &Plan) {
    let line = |row: &Value| {
        let price = row["price"].as_str().and_then(|id| call.world.store.prices.get(id));
        let product = price.map_or(Value::Null, |price| price["product"].clone());
        json!({ "amount": row["amount_subtotal"], "discountable": true, "pricing": { "price_details": { "product": product } } })
    };
    let lines: Vec<Value> = rows.iter().map(line).collect();
    let mut invoice = json!({ "lines": { "data": lines } });
    let counters = call.world.ids.clone(); // What is only tried uses no ids up.
    discount::try_on(call, plan.discounts.clone(), &mut invoice);
    call.world.ids = counters;
    for (row, line) in
        rows.iter_mut().zip(invoice["lines"]["data"].as_array().into_iter().flatten())
    {
        let net = discount::net(line);
        row["amount_total"] = json!(net);
        row["amount_discount"] = json!(row["amount_subtotal"].as_i64().unwrap_or_default() - net);
    }
}

fn store(call: &mut Call<'_>, mut session: Value, rows: Vec<Value>, plan: Plan) -> Answer {
    let sum = |name: &str| -> i64 { rows.iter().filter_map(|row| row[name].as_i64()).sum() };
    session["amount_subtotal"] = json!(sum("amount_subtotal"));
    session["amount_total"] = json!(sum("amount_total"));
    session["total_details"]["amount_discount"] = json!(sum("amount_discount"));
    let id = id_of(&session).to_owned();
    call.store().session_lines.insert(id.clone(), rows);
    call.store().session_plans.insert(id, plan);
    call.store().sessions.insert(session.clone());
    Ok(session)
}

fn check_mode(params: &mut Params) -> Result<(), ApiError> {
    match params.text("mode").as_deref() {
        Some("subscription") => {}
        Some(other) => {
            return Err(ApiError::not_simulated(&format!("checkout with `mode={other}`")));
        }
        None => return Err(ApiError::missing("mode")),
    }
    match params.text("ui_mode").as_deref() {
        None | Some("hosted_page") => Ok(()),
        Some(other) => Err(ApiError::not_simulated(&format!("checkout with `ui_mode={other}`"))),
    }
}

/// The id of the existing customer, if one is named.
fn buyer(call: &Call<'_>, params: &mut Params) -> Result<Option<String>, ApiError> {
    let customer = params.text("customer");
    match &customer {
        Some(id) if call.world.store.live_customer(id).is_none() => {
            Err(ApiError::no_such("customer", id, "customer"))
        }
        _ => Ok(customer),
    }
}

fn expiry(now: i64, given: Option<i64>) -> Result<i64, ApiError> {
    match given {
        None => Ok(now + 24 * HOUR_S),
        Some(at) if (now + HOUR_S / 2..=now + 24 * HOUR_S).contains(&at) => Ok(at),
        Some(_) => Err(ApiError::invalid(
            "expires_at",
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.",
        )),
    }
}

fn blank(call: &mut Call<'_>, currency: &str) -> Value {
    let id = call.mint(ids::SESSION);
    let url = format!("{}/_sim/checkout/sessions/{id}", call.base_url);
    let fields = json!({
        "id": id, "object": "checkout.session", "automatic_tax": object("checkout.session.automatic_tax", json!({ "enabled": false })),
        "created": call.now(), "currency": currency, "custom_fields": [], "custom_text": object("checkout.session.custom_text", json!({})),
        "expires_at": 0, "livemode": false, "metadata": {}, "mode": "subscription", "payment_method_collection": "always",
        "payment_method_options": {}, "payment_method_types": ["card"], "payment_status": "unpaid",
        "phone_number_collection": { "enabled": false }, "shipping_options": [], "status": "open",
        "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 }, "ui_mode": "hosted_page", "url": url,
    });
    object("checkout.session", fields)
}

fn line_item(call: &mut Call<'_>, line: &Line, amount: i64) -> Value {
    let price = call.world.store.prices.get(&line.price).cloned().unwrap_or_default();
    let product = price["product"].as_str().and_then(|id| call.world.store.products.get(id));
    let description = product.map_or(Value::Null, |product| product["name"].clone());
    let fields = json!({
        "id": call.mint(ids::LINE), "object": "item", "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0,
        "amount_total": amount, "currency": price["currency"], "description": description, "metadata": line.metadata,
        "price": line.price, "quantity": line.quantity,
    });
    object("item", fields)
}

/// A line as the API shows it: with its whole price.
pub fn render_line(store: &Store, line: &Value) -> Value {
    let mut shown = line.clone();
    shown["price"] =
        line["price"].as_str().and_then(|id| store.prices.get(id)).cloned().unwrap_or_default();
    shown
}

/// `GET /v1/checkout/sessions/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    expire_if_late(call, id);
    super::show(call, &call.world.store.sessions, "checkout.session", id, params)
}

/// `POST /v1/checkout/sessions/{id}`: its metadata.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    expire_if_late(call, id);
    let found = call.world.store.sessions.get(id).cloned();
    let mut session = found.ok_or_else(|| ApiError::not_found("checkout.session", id))?;
    merge_metadata(&mut session["metadata"], params.take("metadata"))?;
    params.finish()?;
    call.store().sessions.replace(session.clone());
    Ok(session)
}

/// `GET /v1/checkout/sessions`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let names = ["customer", "status", "subscription"];
    let wanted: Vec<(&str, Value)> =
        names.into_iter().filter_map(|name| Some((name, params.take(name)?))).collect();
    page(
        call.world,
        &call.world.store.sessions,
        "checkout.session",
        "/v1/checkout/sessions",
        params,
        |row| {
            created.contains(row["created"].as_i64().unwrap_or_default())
                && wanted.iter().all(|(name, value)| row[*name] == *value)
        },
    )
}

/// `GET /v1/checkout/sessions/{id}/line_items`.
pub fn line_items(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let page = Page::take(&mut params)?;
    params.finish()?;
    let rows = call
        .world
        .store
        .session_lines
        .get(id)
        .ok_or_else(|| ApiError::not_found("checkout.session", id))?;
    let (rows, has_more) = page.cut("item", rows.iter(), |_| true)?;
    let rows = rows.into_iter().map(|row| render(call.world, row)).collect();
    Ok(list::object(&format!("/v1/checkout/sessions/{id}/line_items"), rows, has_more))
}

/// `POST /v1/checkout/sessions/{id}/expire`.
pub fn expire(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let session = open_session(call, id)?;
    Ok(end(call, session))
}

fn expire_if_late(call: &mut Call<'_>, id: &str) {
    let now = call.now();
    let late = |row: &&Value| {
        row["status"] == "open" && row["expires_at"].as_i64().is_some_and(|at| at <= now)
    };
    if let Some(session) = call.world.store.sessions.get(id).filter(late).cloned() {
        end(call, session);
    }
}

fn end(call: &mut Call<'_>, mut session: Value) -> Value {
    session["status"] = json!("expired");
    session["url"] = Value::Null;
    call.store().sessions.replace(session.clone());
    call.emit("checkout.session.expired", &session, None);
    session
}

fn open_session(call: &mut Call<'_>, id: &str) -> Answer {
    expire_if_late(call, id);
    let session = call
        .world
        .store
        .sessions
        .get(id)
        .ok_or_else(|| ApiError::not_found("checkout.session", id))?;
    let status = session["status"].as_str().unwrap_or_default();
    if status == "open" {
        return Ok(session.clone());
    }
    let message = format!(
        "Only Checkout Sessions with a status in [\"open\"] can be changed. This Checkout Session has a status of {status}."
    );
    Err(ApiError::refused(None, "", message))
}

/// The buyer pays: makes a customer if none was named, opens the subscription, completes the session, and tells of all three.
///
/// # Errors
/// 404 without such a session, 400 when it is not open any more.
pub fn complete(call: &mut Call<'_>, id: &str, email: Option<&str>, name: Option<&str>) -> Answer {
    let mut session = open_session(call, id)?;
    let mut plan = call
        .world
        .store
        .session_plans
        .get(id)
        .cloned()
        .ok_or_else(|| ApiError::not_found("checkout.session", id))?;
    // Before the first effect: an anchor may have passed since, and a card that does not pay leaves the session open.
    plan.payment = Payment::Refuse;
    if !plan.customer.is_empty() {
        call.enter_clock_of_customer(&plan.customer, "customer")?;
    }
    open::check(call, &plan)?;
    if session["customer"].is_null() {
        let email = email.or(session["customer_email"].as_str());
        let made = customer::create_for_buyer(call, email, name);
        session["customer"] = made["id"].clone();
    }
    plan.customer = session["customer"].as_str().unwrap_or_default().to_owned();
    let customer = call.world.store.live_customer(&plan.customer).cloned();
    let customer =
        customer.ok_or_else(|| ApiError::no_such("customer", &plan.customer, "customer"))?;
    let opened = open::open(call, &plan)?;
    let details = json!({ "email": customer["email"], "name": customer["name"], "phone": customer["phone"], "tax_exempt": "none", "tax_ids": [] });
    session["customer_details"] = object("checkout.session.customer_details", details);
    session["invoice"] = json!(opened.invoice);
    session["payment_status"] =
        json!(if plan.has_trial() { "no_payment_required" } else { "paid" });
    session["status"] = json!("complete");
    session["subscription"] = json!(opened.id());
    session["url"] = Value::Null;
    call.store().sessions.replace(session.clone());
    call.emit("checkout.session.completed", &session, None);
    open::announce(call, &opened)?;
    Ok(session)
}
