//! Prices of a plan's charges at Stripe: made where they are missing, by their lookup keys, and found again.
//!
//! A charge becomes one price. Fees are licensed (charged ahead), use of the meter is metered: per unit, in tiers, or in
//! packages. What Stripe cannot collect as a price is refused here rather than billed otherwise: free units of a
//! package, and a plan's or charge's minimum and maximum. Use of a meter that Stripe is not told of is not sold.

use std::collections::HashMap;

use billing_core::{
    currency::Currency,
    money::Exact,
    plan::{Book, Charge, PlanRef},
    price::{Begun, Price, Tier},
};
use schemas::{AmountError, Quantity, TOOL_CALLS};
use serde::{Deserialize, Serialize};
use stripe_client_core::{RequestBuilder, StripeMethod};

use super::{Client, StripeError, catalog::Meter};
use crate::plans::{CHARGE, PLAN, lookup_key, written};

/// Why a plan cannot be sold by Stripe.
#[derive(Debug, thiserror::Error)]
pub enum SaleError {
    #[error("plan {0} is not in the book, or not in this currency")]
    NoPlan(String),
    #[error("plan {plan}: {why}")]
    Unsellable { plan: String, why: &'static str },
    #[error("plan {plan}, charge `{charge}` has no price at Stripe: run `billing setup`")]
    NoPrice { plan: String, charge: String },
    #[error("a price out of range")]
    Amount(#[from] AmountError),
    #[error("Stripe's prices")]
    Stripe(#[from] StripeError),
}

/// A price of a plan at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sold {
    pub price: String,
    pub metered: bool,
}

#[derive(Serialize)]
struct NewPrice<'a> {
    currency: &'a str,
    product: &'a str,
    lookup_key: &'a str,
    nickname: &'a str,
    metadata: HashMap<&'static str, &'a str>,
    recurring: Recurring<'a>,
    billing_scheme: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_amount_decimal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tiers_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tiers: Option<Vec<NewTier>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transform_quantity: Option<Transform>,
}

#[derive(Serialize)]
struct Recurring<'a> {
    interval: &'static str,
    usage_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    meter: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct NewTier {
    up_to: String,
    unit_amount_decimal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    flat_amount_decimal: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Transform {
    divide_by: u64,
    round: &'static str,
}

/// How a price is written at Stripe.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Unit(String),
    Tiers(&'static str, Vec<NewTier>),
    Packages(String, Transform),
}

#[derive(Serialize)]
struct ByKey<'a> {
    lookup_keys: [&'a str; 1],
    active: bool,
    limit: u8,
}

#[derive(Deserialize)]
struct Found {
    data: Vec<Made>,
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

/// The prices of a plan in a currency; made where they are missing, if they may be.
///
/// # Errors
/// See [`SaleError`].
pub async fn prices(
    stripe: &Client,
    book: &Book,
    plan: &PlanRef,
    currency: Currency,
    meter: &Meter,
    product: Option<&str>,
) -> Result<Vec<Sold>, SaleError> {
    let name = written(plan);
    let entry = book.get(plan).ok_or_else(|| SaleError::NoPlan(name.clone()))?;
    let list = entry.plan.prices.get(&currency).ok_or_else(|| SaleError::NoPlan(name.clone()))?;
    let unsellable = |why| SaleError::Unsellable { plan: name.clone(), why };
    if list.minimum.is_some() || list.maximum.is_some() {
        return Err(unsellable("Stripe knows no minimum or maximum of a plan"));
    }
    let mut sold = Vec::new();
    for charge in &list.charges {
        if charge.meter.as_ref().is_some_and(|meter| meter.as_str() != TOOL_CALLS) {
            continue;
        }
        if charge.minimum.is_some() || charge.maximum.is_some() {
            return Err(unsellable("Stripe knows no minimum or maximum of a charge"));
        }
        let form = form(&charge.price, currency)?
            .ok_or_else(|| unsellable("Stripe has no free units of a package"))?;
        let key = lookup_key(plan, &charge.charge, currency.code());
        let price = match (find(stripe, &key).await?, product) {
            (Some(found), _) => found,
            (None, Some(product)) => {
                create(stripe, &name, charge, currency, meter, product, form).await?
            }
            (None, None) => {
                return Err(SaleError::NoPrice { plan: name, charge: charge.charge.clone() });
            }
        };
        sold.push(Sold { price, metered: charge.meter.is_some() });
    }
    Ok(sold)
}

async fn find(stripe: &Client, key: &str) -> Result<Option<String>, StripeError> {
    let query = ByKey { lookup_keys: [key], active: true, limit: 1 };
    let request = RequestBuilder::new(StripeMethod::Get, "/prices").query(&query);
    let found: Found = parse(&stripe.call(&request, None).await?)?;
    Ok(found.data.into_iter().next().map(|made| made.id))
}

async fn create(
    stripe: &Client,
    name: &str,
    charge: &Charge,
    currency: Currency,
    meter: &Meter,
    product: &str,
    form: Form,
) -> Result<String, StripeError> {
    let metered = charge.meter.is_some();
    let key = format!("{name}/{}/{}", charge.charge, currency.code());
    let mut price = NewPrice {
        currency: currency.code(),
        product,
        lookup_key: &key,
        nickname: &key,
        metadata: HashMap::from([(PLAN, name), (CHARGE, charge.charge.as_str())]),
        recurring: Recurring {
            interval: "month",
            usage_type: if metered { "metered" } else { "licensed" },
            meter: metered.then_some(meter.id.as_str()),
        },
        billing_scheme: "per_unit",
        unit_amount_decimal: None,
        tiers_mode: None,
        tiers: None,
        transform_quantity: None,
    };
    match form {
        Form::Unit(amount) => price.unit_amount_decimal = Some(amount),
        Form::Packages(amount, transform) => {
            (price.unit_amount_decimal, price.transform_quantity) = (Some(amount), Some(transform));
        }
        Form::Tiers(mode, tiers) => {
            (price.billing_scheme, price.tiers_mode, price.tiers) =
                ("tiered", Some(mode), Some(tiers));
        }
    }
    let request = RequestBuilder::new(StripeMethod::Post, "/prices").form(&price);
    let once = format!("tb1:setup:{}", uuid::Uuid::now_v7().simple());
    let made: Made = parse(&stripe.call(&request, Some(&once)).await?)?;
    tracing::info!(price.id = made.id, key, "Made a price");
    Ok(made.id)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StripeError> {
    serde_json::from_slice(body).map_err(|error| StripeError::Unreadable(error.to_string()))
}

/// How a price is written at Stripe; `None` = it cannot be.
fn form(price: &Price, currency: Currency) -> Result<Option<Form>, AmountError> {
    let minor = |amount: Exact, per: u64| minor(amount, per, currency);
    Ok(Some(match price {
        Price::Flat { amount } => Form::Unit(minor(*amount, 1)?),
        Price::PerUnit { amount, per, included: Quantity::ZERO } => {
            Form::Unit(minor(*amount, *per)?)
        }
        Price::PerUnit { amount, per, included } => {
            let tier = |up_to: String, unit| NewTier {
                up_to,
                unit_amount_decimal: unit,
                flat_amount_decimal: None,
            };
            let included = tier(included.0.to_string(), "0".to_owned());
            Form::Tiers("graduated", vec![included, tier("inf".to_owned(), minor(*amount, *per)?)])
        }
        Price::Graduated { tiers, .. } => Form::Tiers("graduated", written_tiers(tiers, minor)?),
        Price::Volume { tiers, .. } => Form::Tiers("volume", written_tiers(tiers, minor)?),
        Price::Package { amount, size, free: Quantity::ZERO, begun } => {
            let round = if *begun == Begun::Up { "up" } else { "down" };
            Form::Packages(minor(*amount, 1)?, Transform { divide_by: *size, round })
        }
        Price::Package { .. } => return Ok(None),
    }))
}

fn written_tiers(
    tiers: &[Tier],
    minor: impl Fn(Exact, u64) -> Result<String, AmountError>,
) -> Result<Vec<NewTier>, AmountError> {
    let write = |tier: &Tier| {
        let flat = (tier.flat != Exact::ZERO).then(|| minor(tier.flat, 1)).transpose()?;
        Ok(NewTier {
            up_to: tier.up_to.map_or_else(|| "inf".to_owned(), |end| end.0.to_string()),
            unit_amount_decimal: minor(tier.unit, tier.per)?,
            flat_amount_decimal: flat,
        })
    };
    tiers.iter().map(write).collect()
}

/// The price of one unit as a decimal of minor units, exactly.
fn minor(amount: Exact, per: u64, currency: Currency) -> Result<String, AmountError> {
    let units = 10u64.pow(u32::from(currency.decimals()));
    let text = String::from(amount.times(units)?.divided_exactly(per)?);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_written_exactly() {
        #[track_caller]
        fn check(price: &str, currency: &str, form_then: Option<Form>) {
            let price: Price = serde_json::from_str(price).unwrap();
            assert_eq!(form(&price, currency.parse().unwrap()), Ok(form_then), "{price:?}");
        }
        let tier = |up_to: &str, unit: &str, flat: Option<&str>| NewTier {
            up_to: up_to.to_owned(),
            unit_amount_decimal: unit.to_owned(),
            flat_amount_decimal: flat.map(str::to_owned),
        };
        check(r#"{"model":"flat","amount":"19.50"}"#, "usd", Some(Form::Unit("1950".into())));
        check(r#"{"model":"flat","amount":"75000"}"#, "jpy", Some(Form::Unit("75000".into())));
        check(
            r#"{"model":"per_unit","amount":"1.2","per":1000}"#,
            "usd",
            Some(Form::Unit("0.12".into())),
        );
        check(
            r#"{"model":"per_unit","amount":"1.2","per":1000,"included":10000}"#,
            "usd",
            Some(Form::Tiers(
                "graduated",
                vec![tier("10000", "0", None), tier("inf", "0.12", None)],
            )),
        );
        check(
            r#"{"model":"volume","tiers":[{"up_to":5,"flat":"1"},{"unit":"0.6","per":1000}]}"#,
            "usd",
            Some(Form::Tiers(
                "volume",
                vec![tier("5", "0", Some("100")), tier("inf", "0.06", None)],
            )),
        );
        check(
            r#"{"model":"package","amount":"15","size":10}"#,
            "usd",
            Some(Form::Packages("1500".into(), Transform { divide_by: 10, round: "up" })),
        );
        check(r#"{"model":"package","amount":"15","size":10,"free":5}"#, "usd", None);
    }
}
