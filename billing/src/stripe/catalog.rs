//! Meter, product and price: found, or made, or refused for being other than the settings say.
//!
//! A meter can never be changed, and one that counts otherwise than we report bills wrongly in silence. So the
//! process does not start before it has seen that the meter and the price are what they must be.

use std::collections::{BTreeMap, HashMap};

use billing_core::{
    currency::{Currency, CurrencyError},
    plan::{Book, PlanRef},
};
use schemas::Timestamp;
use stripe_billing::{
    BillingMeterStatus,
    billing_meter::{
        CreateBillingMeter, CreateBillingMeterCustomerMapping,
        CreateBillingMeterCustomerMappingType, CreateBillingMeterDefaultAggregation,
        CreateBillingMeterDefaultAggregationFormula, CreateBillingMeterValueSettings,
        ListBillingMeter,
    },
};
use stripe_product::{
    price::{
        CreatePrice, CreatePriceRecurring, CreatePriceRecurringInterval,
        CreatePriceRecurringUsageType, ListPrice,
    },
    product::{CreateProduct, RetrieveProduct},
};
use stripe_shared::{Price, RecurringUsageType};

use super::{
    Client, StripeError,
    meter::{CUSTOMER_KEY, VALUE_KEY},
    sale::{self, SaleError, Sold},
};
use crate::{
    config::{Config, ConfigError},
    plans::{CALLS, CHARGE, PLAN, own_plan, written},
    store::StoreError,
};

/// The meter as Stripe has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    pub id: String,
    pub event_name: String,
}

/// What reports and checkouts need of Stripe's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    pub meter: Meter,
    /// The metered price of the settings.
    pub price: Sold,
    /// The prices of each plan on sale.
    pub plans: BTreeMap<PlanRef, Vec<Sold>>,
}

/// Why billing cannot start on this account.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("Stripe has no active meter for events named `{0}`: run `billing setup`")]
    NoMeter(String),
    #[error("Stripe has no active price with the lookup key `{0}`: run `billing setup`")]
    NoPrice(String),
    #[error(
        "{thing}: {field} is `{found}` at Stripe, but must be `{wanted}`; it cannot be changed there"
    )]
    Differs { thing: &'static str, field: &'static str, found: String, wanted: String },
    #[error(
        "the periods of subscription {subscription} are counted from {anchor}, inside an hour: use is reported by the hour, \
         so anchor it at a full hour (or end it and begin another)"
    )]
    Anchor { subscription: String, anchor: Timestamp },
    #[error("PostgreSQL")]
    Store(#[from] StoreError),
    #[error("Stripe's catalog")]
    Stripe(#[from] StripeError),
    #[error("plans on sale")]
    Sale(#[from] SaleError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Currency(#[from] CurrencyError),
}

impl CatalogError {
    /// Whether asking again may help; otherwise a person must act.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Stripe(error) | Self::Sale(SaleError::Stripe(error)) => error.may_be_retried(),
            Self::Store(error) => error.is_transient(),
            _ => false,
        }
    }
}

/// Reads the meter and the price, and checks them against the settings.
///
/// # Errors
/// See [`CatalogError`].
pub async fn check(stripe: &Client, config: &Config, book: &Book) -> Result<Catalog, CatalogError> {
    look(stripe, config, book, None).await
}

/// Reads all of it; `product` = what to make missing prices of plans under.
async fn look(
    stripe: &Client,
    config: &Config,
    book: &Book,
    product: Option<&str>,
) -> Result<Catalog, CatalogError> {
    let name = &config.meter_event_name;
    let meter =
        find_meter(stripe, name).await?.ok_or_else(|| CatalogError::NoMeter(name.clone()))?;
    let key = &config.price_lookup_key;
    let price = find_price(stripe, key).await?.ok_or_else(|| CatalogError::NoPrice(key.clone()))?;
    check_price(&price, &meter, config)?;
    let currency: Currency = config.price_currency.parse()?;
    let mut plans = BTreeMap::new();
    for plan in config.plans_on_sale()? {
        let prices = sale::prices(stripe, book, &plan, currency, &meter, product).await?;
        plans.insert(plan, prices);
    }
    Ok(Catalog { meter, price: Sold { price: price.id.to_string(), metered: true }, plans })
}

/// Makes what is missing of meter, product and price, then checks all of it. Running it again changes nothing.
///
/// # Errors
/// See [`CatalogError`].
pub async fn set_up(
    stripe: &Client,
    config: &Config,
    book: &Book,
) -> Result<Catalog, CatalogError> {
    let meter = match find_meter(stripe, &config.meter_event_name).await? {
        Some(meter) => meter,
        None => create_meter(stripe, config).await?,
    };
    let product = product(stripe, config).await?;
    if find_price(stripe, &config.price_lookup_key).await?.is_none() {
        create_price(stripe, config, &meter, &product).await?;
    }
    look(stripe, config, book, Some(&product)).await
}

async fn find_meter(stripe: &Client, event_name: &str) -> Result<Option<Meter>, CatalogError> {
    let mut after: Option<String> = None;
    loop {
        let mut request = ListBillingMeter::new().status(BillingMeterStatus::Active).limit(100);
        if let Some(after) = after {
            request = request.starting_after(after);
        }
        let page = stripe.get(&request).await?;
        after = page.data.last().map(|meter| meter.id.to_string());
        if let Some(meter) = page.data.into_iter().find(|meter| meter.event_name == event_name) {
            let id = meter.id.to_string();
            same(
                "meter",
                "default_aggregation.formula",
                meter.default_aggregation.formula.as_str(),
                "sum",
            )?;
            same("meter", "customer_mapping.type", meter.customer_mapping.type_.as_str(), "by_id")?;
            let mapping = &meter.customer_mapping.event_payload_key;
            same("meter", "customer_mapping.event_payload_key", mapping, CUSTOMER_KEY)?;
            same(
                "meter",
                "value_settings.event_payload_key",
                &meter.value_settings.event_payload_key,
                VALUE_KEY,
            )?;
            let window = meter.event_time_window.as_ref().map_or("none", |window| window.as_str());
            same("meter", "event_time_window", window, "none")?;
            return Ok(Some(Meter { id, event_name: event_name.to_owned() }));
        }
        if !page.has_more || after.is_none() {
            return Ok(None);
        }
    }
}

async fn find_price(stripe: &Client, lookup_key: &str) -> Result<Option<Price>, CatalogError> {
    let request = ListPrice::new().active(true).lookup_keys(vec![lookup_key.to_owned()]).limit(1);
    Ok(stripe.get(&request).await?.data.into_iter().next())
}

fn check_price(price: &Price, meter: &Meter, config: &Config) -> Result<(), CatalogError> {
    let recurring = price.recurring.as_ref();
    let usage = recurring.map_or("none", |recurring| recurring.usage_type.as_str());
    same("price", "recurring.usage_type", usage, RecurringUsageType::Metered.as_str())?;
    let metered = recurring.and_then(|recurring| recurring.meter.as_deref()).unwrap_or("none");
    same("price", "recurring.meter", metered, &meter.id)?;
    same("price", "currency", &price.currency.to_string(), &config.price_currency)
}

fn same(
    thing: &'static str,
    field: &'static str,
    found: &str,
    wanted: &str,
) -> Result<(), CatalogError> {
    if found == wanted {
        return Ok(());
    }
    Err(CatalogError::Differs { thing, field, found: found.to_owned(), wanted: wanted.to_owned() })
}

async fn create_meter(stripe: &Client, config: &Config) -> Result<Meter, CatalogError> {
    let formula = CreateBillingMeterDefaultAggregationFormula::Sum;
    let by_id = CreateBillingMeterCustomerMappingType::ById;
    let request = CreateBillingMeter::new(
        CreateBillingMeterDefaultAggregation::new(formula),
        &config.product_name,
        &config.meter_event_name,
    )
    .customer_mapping(CreateBillingMeterCustomerMapping::new(CUSTOMER_KEY, by_id))
    .value_settings(CreateBillingMeterValueSettings::new(VALUE_KEY));
    let meter = stripe.post(&request, &once()).await?;
    tracing::info!(meter.id = %meter.id, "Made the meter");
    Ok(Meter { id: meter.id.to_string(), event_name: meter.event_name })
}

/// The product has an id of our choosing, so that two who set up at once make one.
async fn product(stripe: &Client, config: &Config) -> Result<String, CatalogError> {
    let id = format!("tollbook_{}", config.price_lookup_key);
    match stripe.get(&RetrieveProduct::new(id.as_str())).await {
        Ok(found) => return Ok(found.id.to_string()),
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error.into()),
    }
    let made = stripe.post(&CreateProduct::new(&config.product_name).id(id), &once()).await?;
    tracing::info!(product.id = %made.id, "Made the product");
    Ok(made.id.to_string())
}

async fn create_price(
    stripe: &Client,
    config: &Config,
    meter: &Meter,
    product: &str,
) -> Result<(), CatalogError> {
    let mut recurring = CreatePriceRecurring::new(CreatePriceRecurringInterval::Month);
    recurring.usage_type = Some(CreatePriceRecurringUsageType::Metered);
    recurring.meter = Some(meter.id.clone());
    let Ok(currency) = config.price_currency.parse::<stripe_types::Currency>();
    let request = CreatePrice::new(currency)
        .product(product)
        .recurring(recurring)
        .lookup_key(&config.price_lookup_key)
        .metadata(HashMap::from([
            (PLAN.to_owned(), written(&own_plan(config))),
            (CHARGE.to_owned(), CALLS.to_owned()),
        ]))
        .unit_amount_decimal(per_unit(config.price_per_1000_minor));
    let price = stripe.post(&request, &once()).await?;
    tracing::info!(price.id = %price.id, "Made the price");
    Ok(())
}

/// The price of one call as a decimal of minor units, exactly.
fn per_unit(per_1000: u32) -> String {
    let decimal = format!("{}.{:03}", per_1000 / 1000, per_1000 % 1000);
    decimal.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A key for one making: its own tries find each other, later makings do not find it.
fn once() -> String {
    format!("tb1:setup:{}", uuid::Uuid::now_v7().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_price_is_exact() {
        for (per_1000, decimal) in
            [(100, "0.1"), (1, "0.001"), (1_000, "1"), (12_345, "12.345"), (20_000, "20")]
        {
            assert_eq!(per_unit(per_1000), decimal);
        }
    }
}
