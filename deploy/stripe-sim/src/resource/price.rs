//! `/v1/prices`: per-unit and tiered, one-time, licensed and metered.
//!
//! Since API 2025-03-31.basil every metered price has a meter behind it, and only metered prices have one. Amounts never change:
//! an update touches names and activity only. Tiers are kept and shown when expanded; rating them is not this file's matter.
//! Absent on purpose: further currencies and customer-chosen amounts.

use super::{Answer, Call, object, page, product};
use crate::currency;
use crate::error::ApiError;
use crate::ids;
use crate::list::Range;
use crate::params::{Params, merge_metadata};
use crate::store::World;
use crate::store::table::id_of;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::{Map, Value, json};

/// `POST /v1/prices`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    if params.take("custom_unit_amount").is_some() {
        return Err(ApiError::not_simulated("a price that its buyer chooses"));
    }
    let currency = currency::required(&mut params)?;
    let recurring = recurring(call, &mut params)?;
    let scheme = params.text("billing_scheme").unwrap_or_else(|| "per_unit".to_owned());
    let (unit_amount, unit_amount_decimal) = amount(&mut params, "unit_amount")?;
    let tiers = tiers(&mut params)?;
    let tiers_mode = params.text("tiers_mode");
    let transform = params.take("transform_quantity");
    check_scheme(
        &scheme,
        &unit_amount_decimal,
        tiers.as_ref(),
        tiers_mode.as_ref(),
        transform.is_some(),
    )?;
    let kind = if recurring.is_null() { "one_time" } else { "recurring" };
    let fields = json!({
        "id": call.mint(ids::PRICE), "object": "price", "active": params.flag("active").unwrap_or(true),
        "billing_scheme": scheme, "created": call.now(), "currency": currency, "livemode": false,
        "lookup_key": params.text("lookup_key"), "metadata": {}, "nickname": params.text("nickname"), "product": "",
        "recurring": recurring, "tax_behavior": params.text("tax_behavior").unwrap_or_else(|| "unspecified".to_owned()),
        "tiers_mode": tiers_mode, "transform_quantity": transform, "type": kind, "unit_amount": unit_amount,
        "unit_amount_decimal": unit_amount_decimal,
    });
    let mut price = object("price", fields);
    merge_metadata(&mut price["metadata"], params.take("metadata"))?;
    let transfer = params.flag("transfer_lookup_key").unwrap_or(false);
    let holder = lookup_key_holder(call, &price, transfer)?;
    let (product_id, new_product) = product_of(call, &mut params)?;
    params.finish()?;
    price["product"] = json!(product_id);
    add(call, price, tiers, holder, new_product)
}

fn add(
    call: &mut Call<'_>,
    price: Value,
    tiers: Option<Value>,
    holder: Option<String>,
    new_product: Option<Value>,
) -> Answer {
    if let Some(new_product) = new_product {
        product::add(call, new_product);
    }
    move_lookup_key(call, holder);
    if let Some(tiers) = tiers {
        let id = id_of(&price).to_owned();
        call.store().price_tiers.insert(id, tiers);
    }
    call.store().prices.insert(price.clone());
    call.emit("price.created", &price, None);
    Ok(price)
}

/// The price of `default_price_data` or `price_data`: for each unit, of a product that is known. Stored by the caller.
///
/// # Errors
/// 400 for what Stripe refuses, 501 for what is not simulated.
pub fn of_product(call: &mut Call<'_>, mut data: Params, product: &str) -> Answer {
    let currency = currency::required(&mut data)?;
    let recurring = recurring(call, &mut data)?;
    let path = data.path_of("unit_amount");
    let (unit_amount, unit_amount_decimal) = amount(&mut data, "unit_amount")?;
    if unit_amount_decimal.is_null() {
        return Err(ApiError::missing(&path));
    }
    let mut metadata = json!({});
    merge_metadata(&mut metadata, data.take("metadata"))?;
    let tax_behavior = data.text("tax_behavior").unwrap_or_else(|| "unspecified".to_owned());
    data.finish()?;
    let kind = if recurring.is_null() { "one_time" } else { "recurring" };
    let fields = json!({
        "id": call.mint(ids::PRICE), "object": "price", "active": true, "billing_scheme": "per_unit", "created": call.now(),
        "currency": currency, "livemode": false, "metadata": metadata, "product": product, "recurring": recurring,
        "tax_behavior": tax_behavior, "type": kind, "unit_amount": unit_amount, "unit_amount_decimal": unit_amount_decimal,
    });
    Ok(object("price", fields))
}

/// The price of a line's `price_data`, stored with it and told to nobody. Answers its id.
///
/// # Errors
/// As [`of_product`]; 400 for an unknown product.
pub fn inline(call: &mut Call<'_>, mut data: Params) -> Result<String, ApiError> {
    let path = data.path_of("product");
    let (product, new_product) = match (data.text("product"), data.hash("product_data")) {
        (None, Some(own)) => {
            let made = product::from_price_data(call, own)?;
            (id_of(&made).to_owned(), Some(made))
        }
        (Some(id), None) if call.world.store.products.get(&id).is_some() => (id, None),
        (Some(id), _) => return Err(ApiError::no_such("product", &id, &path)),
        (None, None) => return Err(ApiError::missing(&path)),
    };
    let price = of_product(call, data, &product)?;
    let id = id_of(&price).to_owned();
    if let Some(new_product) = new_product {
        product::add(call, new_product);
    }
    call.store().prices.insert(price);
    Ok(id)
}

/// `currency_options`: the price's own currency, as it is the only one here.
pub fn currency_options(world: &World, price: &Value) -> Value {
    let names = ["tax_behavior", "unit_amount", "unit_amount_decimal"];
    let mut own: Map<String, Value> =
        names.into_iter().map(|name| (name.to_owned(), price[name].clone())).collect();
    own.insert("custom_unit_amount".to_owned(), Value::Null);
    if let Some(tiers) = world.store.price_tiers.get(id_of(price)) {
        own.insert("tiers".to_owned(), tiers.clone());
    }
    let currency = price["currency"].as_str().unwrap_or_default().to_owned();
    Value::Object(Map::from_iter([(currency, Value::Object(own))]))
}

fn recurring(call: &Call<'_>, params: &mut Params) -> Answer {
    let Some(mut given) = params.hash("recurring") else { return Ok(Value::Null) };
    let usage_type = given.text("usage_type").unwrap_or_else(|| "licensed".to_owned());
    let meter = given.text("meter");
    match (&meter, usage_type.as_str()) {
        (None, "metered") => {
            let message =
                "Metered prices must be backed by a billing meter: pass `recurring[meter]`."
                    .to_owned();
            return Err(ApiError::invalid_code("parameter_missing", "recurring[meter]", message));
        }
        (Some(_), "licensed") => {
            let message =
                "`recurring[meter]` can only be set with `recurring[usage_type]=metered`."
                    .to_owned();
            return Err(ApiError::invalid("recurring[meter]", message));
        }
        _ => {}
    }
    if let Some(id) = &meter {
        let found = call
            .world
            .store
            .meters
            .get(id)
            .ok_or_else(|| ApiError::no_such("billing meter", id, "recurring[meter]"))?;
        if found["status"] != "active" {
            return Err(ApiError::refused(
                None,
                "recurring[meter]",
                format!("The meter {id} is not active."),
            ));
        }
    }
    let interval_count = given.int("interval_count").unwrap_or(1);
    if !(1..=36).contains(&interval_count) {
        return Err(ApiError::invalid(
            "recurring[interval_count]",
            "The interval must be between 1 and 36.",
        ));
    }
    let fields = json!({
        "interval": given.required_text("interval")?, "interval_count": interval_count, "meter": meter,
        "trial_period_days": given.int("trial_period_days"), "usage_type": usage_type,
    });
    given.finish()?;
    Ok(object("price.recurring", fields))
}

/// `name` as an integer or `name_decimal` as a decimal text: both forms of the one amount, or nulls.
fn amount(params: &mut Params, name: &str) -> Result<(Value, Value), ApiError> {
    let decimal_name = format!("{name}_decimal");
    let path = params.path_of(&decimal_name);
    match (params.int(name), params.text(&decimal_name)) {
        (None, None) => Ok((Value::Null, Value::Null)),
        (Some(_), Some(_)) => Err(ApiError::only_one_of(name, &decimal_name, &path)),
        (Some(whole), None) if whole < 0 => {
            Err(ApiError::invalid(&path, "An amount cannot be negative."))
        }
        (Some(whole), None) => Ok((json!(whole), json!(whole.to_string()))),
        (None, Some(text)) => {
            let exact = Decimal::from_str_exact(&text)
                .ok()
                .filter(|amount| amount.scale() <= 12 && !amount.is_sign_negative());
            let exact = exact
                .ok_or_else(|| ApiError::invalid(&path, format!("Invalid decimal: {text}")))?
                .normalize();
            let whole = exact.is_integer().then(|| exact.to_i64()).flatten();
            Ok((json!(whole), json!(exact.to_string())))
        }
    }
}

fn tiers(params: &mut Params) -> Result<Option<Value>, ApiError> {
    let Some(given) = params.hashes("tiers") else { return Ok(None) };
    let (mut rows, mut floor, count) = (Vec::new(), 0, given.len());
    for (index, mut tier) in given.into_iter().enumerate() {
        let path = tier.path_of("up_to");
        let is_last = index + 1 == count;
        let up_to = match tier.take("up_to") {
            Some(Value::Number(bound)) if !is_last => json!(bound),
            Some(Value::String(_)) if is_last => Value::Null,
            _ => {
                return Err(ApiError::invalid(
                    &path,
                    "`up_to` of the last tier, and only of the last, must be `inf`.",
                ));
            }
        };
        if up_to.as_i64().is_some_and(|bound| bound <= floor) {
            return Err(ApiError::invalid(&path, "`up_to` must grow from tier to tier."));
        }
        floor = up_to.as_i64().unwrap_or(floor);
        let (unit, unit_decimal) = amount(&mut tier, "unit_amount")?;
        let (flat, flat_decimal) = amount(&mut tier, "flat_amount")?;
        tier.finish()?;
        rows.push(json!({
            "up_to": up_to, "unit_amount": unit, "unit_amount_decimal": unit_decimal, "flat_amount": flat, "flat_amount_decimal": flat_decimal,
        }));
    }
    Ok(Some(Value::Array(rows)))
}

fn check_scheme(
    scheme: &str,
    unit: &Value,
    tiers: Option<&Value>,
    mode: Option<&String>,
    transforms: bool,
) -> Result<(), ApiError> {
    if scheme == "tiered" {
        return match (tiers, mode) {
            (None, _) => Err(ApiError::missing("tiers")),
            (_, None) => Err(ApiError::missing("tiers_mode")),
            _ if !unit.is_null() => {
                Err(ApiError::invalid("unit_amount", "A tiered price has no `unit_amount`."))
            }
            _ if transforms => Err(ApiError::invalid(
                "transform_quantity",
                "`transform_quantity` cannot be combined with tiers.",
            )),
            _ => Ok(()),
        };
    }
    if tiers.is_some() || mode.is_some() {
        return Err(ApiError::invalid("tiers", "Tiers require `billing_scheme=tiered`."));
    }
    if unit.is_null() { Err(ApiError::missing("unit_amount")) } else { Ok(()) }
}

fn product_of(
    call: &mut Call<'_>,
    params: &mut Params,
) -> Result<(String, Option<Value>), ApiError> {
    match (params.text("product"), params.hash("product_data")) {
        (Some(id), None) if call.world.store.products.get(&id).is_some() => Ok((id, None)),
        (Some(id), None) => Err(ApiError::no_such("product", &id, "product")),
        (None, Some(data)) => {
            let product = product::from_price_data(call, data)?;
            Ok((id_of(&product).to_owned(), Some(product)))
        }
        (None, None) => Err(ApiError::missing("product")),
        (Some(_), Some(_)) => Err(ApiError::only_one_of("product", "product_data", "product_data")),
    }
}

/// The other active price with this price's lookup key, when the key may move.
fn lookup_key_holder(
    call: &Call<'_>,
    price: &Value,
    transfer: bool,
) -> Result<Option<String>, ApiError> {
    let Some(key) = price["lookup_key"].as_str() else { return Ok(None) };
    let holds = |row: &&Value| row["lookup_key"] == key && row["id"] != price["id"];
    let Some(holder) = call.world.store.prices.newest_first().find(holds) else { return Ok(None) };
    let id = id_of(holder).to_owned();
    if transfer {
        return Ok(Some(id));
    }
    Err(ApiError::refused(
        None,
        "lookup_key",
        format!("A price (`{id}`) already uses that lookup key."),
    ))
}

fn move_lookup_key(call: &mut Call<'_>, holder: Option<String>) {
    if let Some(mut old) = holder.and_then(|id| call.world.store.prices.get(&id).cloned()) {
        old["lookup_key"] = Value::Null;
        call.save(|store| &mut store.prices, old, "price.updated");
    }
}

/// `GET /v1/prices/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.prices, "price", id, params)
}

/// `POST /v1/prices/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.prices.get(id).cloned();
    let mut price = found.ok_or_else(|| ApiError::not_found("price", id))?;
    params.copy_into(&mut price, &["active", "lookup_key", "nickname", "tax_behavior"]);
    merge_metadata(&mut price["metadata"], params.take("metadata"))?;
    let transfer = params.flag("transfer_lookup_key").unwrap_or(false);
    let holder = lookup_key_holder(call, &price, transfer)?;
    params.finish()?;
    move_lookup_key(call, holder);
    Ok(call.save(|store| &mut store.prices, price, "price.updated"))
}

/// `GET /v1/prices`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let names = ["active", "currency", "product", "type"];
    let wanted: Vec<(&str, Value)> =
        names.into_iter().filter_map(|name| Some((name, params.take(name)?))).collect();
    let lookup_keys = params.texts("lookup_keys");
    let recurring = params.take("recurring");
    page(call.world, &call.world.store.prices, "price", "/v1/prices", params, |row| {
        created.contains(row["created"].as_i64().unwrap_or_default())
            && wanted.iter().all(|(name, value)| row[*name] == *value)
            && lookup_keys
                .as_ref()
                .is_none_or(|keys| keys.iter().any(|key| row["lookup_key"] == key.as_str()))
            && recurring
                .iter()
                .filter_map(Value::as_object)
                .flatten()
                .all(|(name, value)| row["recurring"][name] == *value)
    })
}
