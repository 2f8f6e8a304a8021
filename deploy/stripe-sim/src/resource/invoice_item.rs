//! `/v1/invoiceitems`: what the customer's next invoice takes in.
//!
//! An item belongs to a subscription, to a draft, or to the next invoice of any kind in its currency. Items of an invoice that is no
//! draft any more are fixed. Absent on purpose: discounts, taxes.

use super::invoice::{draft, line};
use super::{Answer, Call, object, page, price};
use crate::currency;
use crate::error::ApiError;
use crate::ids;
use crate::list::Range;
use crate::params::{Params, merge_metadata};
use crate::rating::{self, Part};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde_json::{Value, json};

/// An item to be made.
pub struct Item<'a> {
    pub customer: &'a str,
    pub currency: &'a str,
    pub description: String,
    pub is_proration: bool,
    pub part: Part,
    /// None for an item that is only an amount.
    pub price: Option<&'a Value>,
    pub period: (i64, i64),
    pub subscription: Option<&'a str>,
    pub item: Option<&'a str>,
}

impl<'a> Item<'a> {
    /// An item of a subscription's item.
    pub fn of(
        subscription: &'a Value,
        item: &'a Value,
        price: &'a Value,
        part: &Part,
        period: (i64, i64),
    ) -> Self {
        Self {
            customer: subscription["customer"].as_str().unwrap_or_default(),
            currency: subscription["currency"].as_str().unwrap_or_default(),
            description: String::new(),
            is_proration: false,
            part: part.clone(),
            price: Some(price),
            period,
            subscription: subscription["id"].as_str(),
            item: item["id"].as_str(),
        }
    }
}

/// The item's document, without an id and kept nowhere.
pub fn document(call: &Call<'_>, item: &Item<'_>) -> Value {
    let customer = call.world.store.customers.get(item.customer);
    let clock = customer.map_or(Value::Null, |row| row["test_clock"].clone());
    let parent = item.subscription.map_or(Value::Null, |subscription| {
        let mut details = json!({ "subscription": subscription });
        if let Some(item) = item.item {
            details["subscription_item"] = json!(item);
        }
        object(
            "invoice_item.parent",
            json!({ "type": "subscription_details", "subscription_details": details }),
        )
    });
    let pricing = item.price.map_or(Value::Null, |price| line::pricing(price, &item.part));
    let fields = json!({
        "id": "", "object": "invoiceitem", "amount": item.part.amount, "currency": item.currency, "customer": item.customer,
        "date": call.now(), "description": item.description, "discountable": !item.is_proration, "discounts": [],
        "livemode": false, "metadata": {}, "net_amount": item.part.amount, "parent": parent,
        "period": { "start": item.period.0, "end": item.period.1 }, "pricing": pricing, "proration": item.is_proration,
        "quantity": item.part.quantity.trunc().to_i64().unwrap_or(i64::MAX),
        "quantity_decimal": item.part.quantity.normalize().to_string(), "tax_rates": [], "test_clock": clock,
    });
    object("invoiceitem", fields)
}

/// `POST /v1/invoiceitems`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let customer = params.required_text("customer")?;
    call.enter_clock_of_customer(&customer, "customer")?;
    let subscription = params.text("subscription");
    if let Some(id) = &subscription
        && call.world.store.subscriptions.get(id).is_none()
    {
        return Err(ApiError::no_such("subscription", id, "subscription"));
    }
    let invoice = draft_of(call, params.text("invoice"))?;
    let (part, price, currency) = amount(call, &mut params, None)?;
    let description = params.text("description");
    let mut metadata = json!({});
    merge_metadata(&mut metadata, params.take("metadata"))?;
    let period = period(call, &mut params)?;
    let discountable = params.flag("discountable");
    params.ignore(&["tax_behavior", "tax_code"]); // Nothing is taxed here.
    params.finish()?;
    let made = Item {
        customer: &customer,
        currency: &currency,
        description: String::new(),
        is_proration: false,
        part,
        price: price.as_ref(),
        period,
        subscription: subscription.as_deref(),
        item: None,
    };
    let mut row = document(call, &made);
    row["id"] = json!(call.mint(ids::INVOICE_ITEM));
    row["description"] = json!(description);
    row["discountable"] = json!(discountable.unwrap_or(true));
    row["metadata"] = metadata;
    if let Some(mut invoice) = invoice {
        row["invoice"] = invoice["id"].clone();
        let mut line = line::of_invoice_item(call, &row);
        line["invoice"] = invoice["id"].clone();
        if let Some(lines) = invoice["lines"]["data"].as_array_mut() {
            lines.push(line);
        }
        draft::reckon(call, &mut invoice);
        call.store().invoices.replace(invoice);
    }
    call.store().invoice_items.insert(row.clone());
    call.emit("invoiceitem.created", &row, None);
    Ok(row)
}

fn draft_of(call: &Call<'_>, id: Option<String>) -> Result<Option<Value>, ApiError> {
    let Some(id) = id else { return Ok(None) };
    let found = call.world.store.invoices.get(&id).cloned();
    let invoice = found.ok_or_else(|| ApiError::no_such("invoice", &id, "invoice"))?;
    if invoice["status"] != "draft" {
        return Err(ApiError::refused(
            Some("invoice_not_editable"),
            "invoice",
            "The invoice is not a draft: no items can be added.",
        ));
    }
    Ok(Some(invoice))
}

/// Takes the money of an item: an amount, or a quantity at a price or unit amount; and its currency, which may be known.
///
/// # Errors
/// 400 for what Stripe refuses.
pub fn amount(
    call: &mut Call<'_>,
    params: &mut Params,
    known_currency: Option<&str>,
) -> Result<(Part, Option<Value>, String), ApiError> {
    let data = params.hash("price_data");
    let price_id = match (params.text("price"), params.hash("pricing")) {
        (Some(id), _) => Some(id), // As previews spell it.
        (None, None) => data.map(|data| price::inline(call, data)).transpose()?,
        (None, Some(mut pricing)) => {
            let id = pricing.text("price");
            pricing.finish()?;
            id
        }
    };
    let quantity = match (params.int("quantity"), params.text("quantity_decimal")) {
        (None, None) => Decimal::ONE,
        (Some(whole), None) => Decimal::from(whole),
        (None, Some(text)) => Decimal::from_str_exact(&text).map_err(|_| {
            ApiError::invalid("quantity_decimal", format!("Invalid decimal: {text}"))
        })?,
        (Some(_), Some(_)) => {
            return Err(ApiError::only_one_of("quantity", "quantity_decimal", "quantity_decimal"));
        }
    };
    let fixed = params.int("amount");
    let whole = params.int("unit_amount").map(|unit| unit.to_string());
    let unit = params.text("unit_amount_decimal").or(whole);
    let currency = currency::take(params)?.or(known_currency.map(str::to_owned));
    if let Some(id) = price_id {
        let found = call.world.store.prices.get(&id).cloned();
        let price = found.ok_or_else(|| ApiError::no_such("price", &id, "pricing[price]"))?;
        let amount = line::rate(call, &price, quantity)?.iter().map(|part| part.amount).sum();
        let currency = price["currency"].as_str().unwrap_or_default().to_owned();
        let unit = rating::decimal(&price["unit_amount_decimal"]);
        return Ok((Part { quantity, unit, amount, tier: None }, Some(price), currency));
    }
    let currency = currency.ok_or_else(|| ApiError::missing("currency"))?;
    match (fixed, unit) {
        (Some(amount), None) => {
            Ok((Part { quantity, unit: None, amount, tier: None }, None, currency))
        }
        (None, Some(text)) => {
            let unit = Decimal::from_str_exact(&text).ok().filter(|unit| unit.scale() <= 12);
            let bad =
                || ApiError::invalid("unit_amount_decimal", format!("Invalid decimal: {text}"));
            let unit = unit.ok_or_else(bad)?;
            let amount = rating::round(unit.checked_mul(quantity).ok_or_else(bad)?)?;
            Ok((Part { quantity, unit: Some(unit), amount, tier: None }, None, currency))
        }
        (None, None) => Err(ApiError::missing("amount")),
        (Some(_), Some(_)) => {
            Err(ApiError::only_one_of("amount", "unit_amount_decimal", "unit_amount_decimal"))
        }
    }
}

/// Takes the time that an item is for: now, unless said.
///
/// # Errors
/// 400 for an end before the start.
pub fn period(call: &Call<'_>, params: &mut Params) -> Result<(i64, i64), ApiError> {
    let Some(mut given) = params.hash("period") else { return Ok((call.now(), call.now())) };
    let bounds = (given.int("start").unwrap_or_default(), given.int("end").unwrap_or_default());
    given.finish()?;
    if bounds.0 > bounds.1 {
        return Err(ApiError::invalid("period[end]", "The period must not end before it starts."));
    }
    Ok(bounds)
}

/// `GET /v1/invoiceitems/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.invoice_items, "invoiceitem", id, params)
}

/// `GET /v1/invoiceitems`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let names = ["customer", "invoice"];
    let wanted: Vec<(&str, Value)> =
        names.into_iter().filter_map(|name| Some((name, params.take(name)?))).collect();
    let pending = params.flag("pending");
    let rows = &call.world.store.invoice_items;
    page(call.world, rows, "invoiceitem", "/v1/invoiceitems", params, |row| {
        created.contains(row["date"].as_i64().unwrap_or_default())
            && wanted.iter().all(|(name, value)| row[*name] == *value)
            && pending.is_none_or(|pending| row["invoice"].is_null() == pending)
    })
}

/// `POST /v1/invoiceitems/{id}`: words of any item, the amount of one without a price. A draft that has it counts again.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.invoice_items.get(id).cloned();
    let mut row = found.ok_or_else(|| ApiError::not_found("invoiceitem", id))?;
    let invoice = draft_of(call, row["invoice"].as_str().map(str::to_owned))?;
    if let Some(amount) = params.int("amount") {
        if row["pricing"]["price_details"].is_object() {
            return Err(ApiError::invalid(
                "amount",
                "The amount of an item with a price follows from it.",
            ));
        }
        row["amount"] = json!(amount);
        row["net_amount"] = json!(amount);
        if row["pricing"].is_object() {
            row["pricing"]["unit_amount_decimal"] = json!(amount.to_string());
        }
    }
    params.copy_into(&mut row, &["description", "discountable"]);
    merge_metadata(&mut row["metadata"], params.take("metadata"))?;
    params.finish()?;
    call.store().invoice_items.replace(row.clone()); // Stripe has no event for it any more.
    if let Some(mut invoice) = invoice {
        let mut new = line::of_invoice_item(call, &row);
        new["invoice"] = invoice["id"].clone();
        for own in invoice["lines"]["data"].as_array_mut().into_iter().flatten() {
            if own["parent"]["invoice_item_details"]["invoice_item"] == id {
                new["id"] = own["id"].clone();
                *own = new.clone();
            }
        }
        draft::reckon(call, &mut invoice);
        call.store().invoices.replace(invoice);
    }
    Ok(row)
}

/// `DELETE /v1/invoiceitems/{id}`: pending ones, and those of a draft.
pub fn delete(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let found = call.world.store.invoice_items.get(id).cloned();
    let row = found.ok_or_else(|| ApiError::not_found("invoiceitem", id))?;
    if let Some(invoice) = row["invoice"].as_str() {
        let invoice = draft_of(call, Some(invoice.to_owned()))?;
        if let Some(mut invoice) = invoice {
            if let Some(lines) = invoice["lines"]["data"].as_array_mut() {
                lines.retain(|line| line["parent"]["invoice_item_details"]["invoice_item"] != id);
            }
            draft::reckon(call, &mut invoice);
            call.store().invoices.replace(invoice);
        }
    }
    call.store().invoice_items.remove(id);
    call.emit("invoiceitem.deleted", &row, None);
    Ok(json!({ "id": id, "object": "invoiceitem", "deleted": true }))
}
