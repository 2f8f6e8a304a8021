//! `add_invoice_items`: one-time prices that go on a subscription's next invoice beside its items.
//!
//! Absent on purpose: periods and discounts of their own.

use super::super::invoice::line;
use super::super::invoice_item::{self, Item};
use super::super::{Call, price};
use super::roll;
use crate::error::ApiError;
use crate::params::{Params, merge_metadata};
use crate::rating::{self, Part};
use crate::store::table::id_of;
use rust_decimal::Decimal;
use serde_json::{Value, json};

/// How many of them a request may have.
const LIMIT: usize = 20;

/// One of them, rated.
#[derive(Clone, Debug)]
pub struct Extra {
    price: Value,
    part: Part,
    metadata: Value,
    is_discountable: bool,
}

impl Extra {
    /// What it adds to the invoice, in minor units.
    pub fn amount(&self) -> i64 {
        self.part.amount
    }
}

/// Takes `add_invoice_items`.
///
/// # Errors
/// 400 for what Stripe refuses, 501 for what is not simulated.
pub fn take(
    call: &mut Call<'_>,
    params: &mut Params,
    currency: &str,
) -> Result<Vec<Extra>, ApiError> {
    let given = params.hashes("add_invoice_items").unwrap_or_default();
    if given.len() > LIMIT {
        let message = format!("You may pass up to {LIMIT} items.");
        return Err(ApiError::invalid("add_invoice_items", message));
    }
    given.into_iter().map(|given| read(call, given, currency)).collect()
}

fn read(call: &mut Call<'_>, mut given: Params, currency: &str) -> Result<Extra, ApiError> {
    let path = given.path_of("price");
    let id = match (given.text("price"), given.hash("price_data")) {
        (Some(id), None) => id,
        (None, Some(data)) => price::inline(call, data)?,
        (Some(_), Some(_)) => return Err(ApiError::only_one_of("price", "price_data", &path)),
        (None, None) => return Err(ApiError::missing(&path)),
    };
    let found = call.world.store.prices.get(&id).cloned();
    let price = found.ok_or_else(|| ApiError::no_such("price", &id, &path))?;
    if !price["recurring"].is_null() {
        let message = "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`.";
        return Err(ApiError::invalid(&path, message));
    }
    if price["currency"] != currency {
        let message = format!("The price is not in {currency}, the currency of the subscription.");
        return Err(ApiError::invalid(&path, message));
    }
    let quantity = Decimal::from(given.int("quantity").unwrap_or(1));
    let is_discountable = given.flag("discountable").unwrap_or(true);
    let mut metadata = json!({});
    merge_metadata(&mut metadata, given.take("metadata"))?;
    given.finish()?;
    let amount = line::rate(call, &price, quantity)?.iter().map(|part| part.amount).sum();
    let unit = rating::decimal(&price["unit_amount_decimal"]);
    let part = Part { quantity, unit, amount, tier: None };
    Ok(Extra { price, part, metadata, is_discountable })
}

/// The invoice items that they become, without ids and kept nowhere; each is for the subscription's period.
pub fn items(call: &Call<'_>, extras: &[Extra], subscription: &Value) -> Vec<Value> {
    let item = |extra: &Extra| {
        let made = Item {
            customer: subscription["customer"].as_str().unwrap_or_default(),
            currency: subscription["currency"].as_str().unwrap_or_default(),
            description: line::describe(call, &extra.price, &extra.part),
            is_proration: false,
            part: extra.part.clone(),
            price: Some(&extra.price),
            period: roll::span_of(subscription),
            subscription: Some(id_of(subscription)),
            item: None,
        };
        let mut row = invoice_item::document(call, &made);
        row["metadata"] = extra.metadata.clone();
        row["discountable"] = json!(extra.is_discountable);
        row
    };
    extras.iter().map(item).collect()
}
