//! `/v1/customers`.
//!
//! A deleted customer keeps a stub, as at Stripe: it can be retrieved as deleted, is in no list, and its subscriptions end.
//! Absent on purpose: sources, tax, cash balances.

use super::{Answer, Call, object, page, payment_method, subscription};
use crate::error::ApiError;
use crate::ids;
use crate::list::Range;
use crate::params::{Params, merge_metadata};
use serde_json::{Value, json};

/// `POST /v1/customers`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let clock = params.text("test_clock");
    if let Some(id) = &clock {
        let found = call.world.store.test_clocks.get(id);
        let row =
            found.ok_or_else(|| ApiError::no_such("test_helpers.test_clock", id, "test_clock"))?;
        call.enter_clock_of(&json!({ "test_clock": row["id"] }));
    }
    let mut customer = blank(call);
    customer["test_clock"] = json!(clock);
    fill(&mut customer, &mut params)?;
    let method = params.text("payment_method");
    let mut default = read_invoice_settings(&mut customer, &mut params)?;
    params.finish()?;
    if method.is_none() && default.as_ref().is_some_and(|default| !default.is_null()) {
        let message = "A customer that is being created has no payment methods but the one in `payment_method`.";
        return Err(ApiError::invalid("invoice_settings[default_payment_method]", message));
    }
    let id = customer["id"].as_str().unwrap_or_default().to_owned();
    let Some(method) = method else { return Ok(add(call, customer)) };
    let attached = payment_method::attach_to(call, &method, &id)?;
    // The id of a test card stands for the payment method that was just made from it.
    if default.as_ref().is_some_and(|default| *default == method.as_str()) {
        default = Some(attached["id"].clone());
        customer["invoice_settings"]["default_payment_method"] = attached["id"].clone();
    }
    use_default(call, default.as_ref(), &id);
    Ok(add(call, customer))
}

/// Applies `invoice_settings`. Answers the default payment method, if that is named; null unsets it.
fn read_invoice_settings(
    customer: &mut Value,
    params: &mut Params,
) -> Result<Option<Value>, ApiError> {
    let Some(mut given) = params.hash("invoice_settings") else { return Ok(None) };
    let own = &mut customer["invoice_settings"];
    given.copy_into(own, &["custom_fields", "footer"]);
    let default = given.take_nullable("default_payment_method");
    if let Some(default) = &default {
        own["default_payment_method"] = default.clone();
    }
    given.finish()?;
    Ok(default)
}

fn use_default(call: &mut Call<'_>, default: Option<&Value>, customer: &str) {
    match default {
        None => {}
        Some(Value::String(id)) => payment_method::use_for(call, id, customer),
        Some(_) => call.world.cards.forget_default(customer),
    }
}

/// A customer as checkout makes it for a buyer that has none.
pub fn create_for_buyer(call: &mut Call<'_>, email: Option<&str>, name: Option<&str>) -> Value {
    let mut customer = blank(call);
    customer["email"] = json!(email);
    customer["name"] = json!(name);
    add(call, customer)
}

fn add(call: &mut Call<'_>, customer: Value) -> Value {
    call.store().customers.insert(customer.clone());
    call.emit("customer.created", &customer, None);
    customer
}

fn blank(call: &mut Call<'_>) -> Value {
    let prefix = call.mint(ids::INVOICE_PREFIX).to_uppercase();
    let fields = json!({
        "id": call.mint(ids::CUSTOMER), "object": "customer", "address": null, "balance": 0, "created": call.now(),
        "currency": null, "delinquent": false, "discount": null, "invoice_prefix": prefix,
        "invoice_settings": object("customer.invoice_settings", json!({})), "livemode": false, "metadata": {}, "name": null,
        "next_invoice_sequence": 1, "phone": null, "preferred_locales": [], "tax_exempt": "none", "test_clock": null,
    });
    object("customer", fields)
}

/// Applies the parameters that creation and update share.
fn fill(customer: &mut Value, params: &mut Params) -> Result<(), ApiError> {
    if let Some(email) = params.take_nullable("email") {
        if email.as_str().is_some_and(|email| !email.contains('@')) {
            let message = format!("Invalid email address: {}", email.as_str().unwrap_or_default());
            return Err(ApiError::invalid_code("email_invalid", "email", message));
        }
        customer["email"] = email;
    }
    params.copy_into(
        customer,
        &[
            "balance",
            "description",
            "invoice_prefix",
            "name",
            "next_invoice_sequence",
            "phone",
            "preferred_locales",
        ],
    );
    for name in ["business_name", "individual_name"] {
        match params.take_nullable(name) {
            Some(Value::Null) => {
                customer.as_object_mut().map(|fields| fields.remove(name));
            }
            Some(text) => customer[name] = text,
            None => {}
        }
    }
    if let Some(exempt) = params.take("tax_exempt") {
        customer["tax_exempt"] = if exempt == "" { json!("none") } else { exempt };
    }
    if let Some(address) = params.take_nullable("address") {
        merge_hash(&mut customer["address"], address, "address");
    }
    if let Some(mut shipping) = params.take_nullable("shipping") {
        if shipping.is_object() {
            shipping["address"] = object("address", shipping["address"].take());
        }
        customer["shipping"] = shipping;
    }
    merge_metadata(&mut customer["metadata"], params.take("metadata"))
}

fn merge_hash(current: &mut Value, change: Value, component: &str) {
    if let Value::Object(fields) = change {
        let mut merged = object(component, json!({}));
        for (name, value) in
            current.as_object().cloned().unwrap_or_default().into_iter().chain(fields)
        {
            merged[name] = if value == "" { Value::Null } else { value };
        }
        *current = merged;
    } else {
        *current = Value::Null;
    }
}

/// `GET /v1/customers/{id}`: deleted ones too.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.customers, "customer", id, params)
}

/// `POST /v1/customers/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.live_customer(id).cloned();
    let mut customer = found.ok_or_else(|| ApiError::not_found("customer", id))?;
    call.enter_clock_of(&customer);
    fill(&mut customer, &mut params)?;
    let default = read_invoice_settings(&mut customer, &mut params)?;
    if let Some(Value::String(method)) = &default {
        payment_method::check(call, method, id, "invoice_settings[default_payment_method]")?;
    }
    params.finish()?;
    use_default(call, default.as_ref(), id);
    Ok(call.save(|store| &mut store.customers, customer, "customer.updated"))
}

/// `DELETE /v1/customers/{id}`: ends the subscriptions as well.
pub fn delete(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let found = call.world.store.live_customer(id).cloned();
    let customer = found.ok_or_else(|| ApiError::not_found("customer", id))?;
    call.enter_clock_of(&customer);
    Ok(remove(call, &customer))
}

/// Ends a customer and all its subscriptions. Answers the stub that stays.
pub fn remove(call: &mut Call<'_>, customer: &Value) -> Value {
    let stub = json!({ "id": customer["id"], "object": "customer", "deleted": true });
    if customer["deleted"].is_null() {
        subscription::cancel_all_of(call, customer["id"].as_str().unwrap_or_default());
        call.store().customers.replace(stub.clone());
        call.emit("customer.deleted", customer, None);
    }
    stub
}

/// `GET /v1/customers`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let email = params.text("email");
    let clock = params.text("test_clock"); // Without it, customers on a test clock do not show.
    page(call.world, &call.world.store.customers, "customer", "/v1/customers", params, |row| {
        row["deleted"].is_null()
            && created.contains(row["created"].as_i64().unwrap_or_default())
            && row["test_clock"].as_str() == clock.as_deref()
            && email.as_ref().is_none_or(|email| row["email"] == email.as_str())
    })
}
