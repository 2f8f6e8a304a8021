//! What a subscription will be: read and checked from parameters, before anything is made.
//!
//! A plan is read once and opened later ([`super::open`]), so that a checkout session can hold one.

use super::super::{Call, discount, payment_method, price};
use super::{extra, period, threshold};
use crate::currency;
use crate::error::ApiError;
use crate::params::{Params, merge_metadata};
use serde_json::{Value, json};

/// One item of a subscription to be.
#[derive(Clone, Debug)]
pub struct Line {
    pub price: String,
    /// None for a metered price.
    pub quantity: Option<i64>,
    pub metadata: Value,
    /// The item's `billing_thresholds`, or null.
    pub thresholds: Value,
}

/// All that is known of a subscription before it is opened.
#[derive(Clone, Debug)]
pub struct Plan {
    pub customer: String,
    pub currency: String,
    pub lines: Vec<Line>,
    pub metadata: Value,
    pub description: Value,
    pub anchor: Anchor,
    pub trial: Trial,
    pub is_flexible: bool,
    pub prorates: bool,
    pub cancel_at_period_end: bool,
    /// A Unix second at which it ends.
    pub cancel_at: Option<i64>,
    pub collection_method: String,
    pub days_until_due: Option<i64>,
    pub payment: Payment,
    /// What a trial's end does without a card: `create_invoice`, `cancel` or `pause`.
    pub trial_without_card: String,
    pub default_payment_method: Option<String>,
    pub payment_settings: Value,
    pub discounts: discount::Wanted,
    /// The subscription's `billing_thresholds`, or null.
    pub thresholds: Value,
    pub extras: Vec<extra::Extra>,
}

/// What becomes of a first invoice with something due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payment {
    /// Charged at once; a card that does not pay leaves the subscription incomplete.
    Try,
    /// Not charged: somebody pays it within 23 hours.
    Wait,
    /// Charged at once; a card that does not pay refuses the request.
    Refuse,
}

/// Where the billing cycle is anchored. Seconds are Unix seconds.
#[derive(Clone, Debug)]
pub enum Anchor {
    Now,
    At(i64),
    /// A `billing_cycle_anchor_config` that some date fits.
    Config(Value),
}

/// The free time before the first period.
#[derive(Clone, Debug)]
pub enum Trial {
    None,
    Days(i64),
    Until(i64),
}

impl Plan {
    /// Reads the parameters of `POST /v1/subscriptions`.
    ///
    /// # Errors
    /// 400 for what Stripe refuses, 501 for what is not simulated.
    pub fn from_subscription(call: &mut Call<'_>, params: &mut Params) -> Result<Self, ApiError> {
        let customer = params.required_text("customer")?;
        call.enter_clock_of_customer(&customer, "customer")?;
        let lines = read_lines(call, params.hashes("items").unwrap_or_default(), "items")?;
        let mut plan = Self::read(call, params, customer, lines)?;
        plan.cancel_at_period_end = params.flag("cancel_at_period_end").unwrap_or(false);
        match params.take("cancel_at") {
            None => {}
            // All items share one period, so its end is the first and the last.
            Some(Value::String(_)) => plan.cancel_at_period_end = true,
            Some(at) => plan.cancel_at = at.as_i64(),
        }
        if plan.cancel_at.is_some_and(|at| at <= call.now()) {
            return Err(ApiError::invalid("cancel_at", "The `cancel_at` must be in the future."));
        }
        plan.collection_method = params.text("collection_method").unwrap_or(plan.collection_method);
        plan.days_until_due = params.int("days_until_due");
        if plan.collection_method == "send_invoice" && plan.days_until_due.is_none() {
            return Err(ApiError::missing("days_until_due"));
        }
        plan.payment = match params.text("payment_behavior").as_deref() {
            Some("default_incomplete") => Payment::Wait,
            Some("error_if_incomplete") => Payment::Refuse,
            _ => Payment::Try,
        };
        if currency::take(params)?.is_some_and(|currency| currency != plan.currency) {
            return Err(ApiError::invalid(
                "currency",
                format!("The prices are in {}.", plan.currency),
            ));
        }
        if let Some(id) = params.text("default_payment_method") {
            payment_method::check(call, &id, &plan.customer, "default_payment_method")?;
            plan.default_payment_method = Some(id);
        }
        read_payment_settings(params, &mut plan.payment_settings)?;
        plan.discounts = discount::take(call, params, &plan.customer)?.unwrap_or_default();
        plan.thresholds = threshold::take(params)?.unwrap_or_default();
        plan.extras = extra::take(call, params, &plan.currency)?;
        params.ignore_if_off("automatic_tax", "enabled");
        params.ignore(&["off_session"]);
        Ok(plan)
    }

    /// Reads what `POST /v1/subscriptions` and a checkout session's `subscription_data` have in common.
    ///
    /// # Errors
    /// As [`Plan::from_subscription`].
    pub fn read(
        call: &Call<'_>,
        params: &mut Params,
        customer: String,
        lines: Vec<Line>,
    ) -> Result<Self, ApiError> {
        let currency = check_together(call, &lines)?;
        let mut metadata = json!({});
        merge_metadata(&mut metadata, params.take("metadata"))?;
        let trial = read_trial(call, params)?;
        let anchor = read_anchor(call, params)?;
        if !matches!((&trial, &anchor), (Trial::None, _) | (_, Anchor::Now)) {
            return Err(ApiError::not_simulated("a trial together with a billing cycle anchor"));
        }
        let mode = params.hash("billing_mode");
        let is_flexible = match mode {
            Some(mut mode) => {
                let kind = mode.text("type");
                mode.finish()?;
                kind.as_deref() != Some("classic")
            }
            None => true,
        };
        Ok(Self {
            customer,
            currency,
            lines,
            metadata,
            description: params.take_nullable("description").unwrap_or_default(),
            anchor,
            trial,
            is_flexible,
            prorates: params.text("proration_behavior").as_deref() != Some("none"),
            cancel_at_period_end: false,
            cancel_at: None,
            collection_method: "charge_automatically".to_owned(),
            days_until_due: None,
            payment: Payment::Try,
            trial_without_card: read_trial_settings(params)?,
            default_payment_method: None,
            payment_settings: json!({ "save_default_payment_method": "off" }),
            discounts: discount::Wanted::default(),
            thresholds: Value::Null,
            extras: Vec::new(),
        })
    }

    /// True when invoices are paid by card without anybody's doing.
    pub fn is_charged(&self) -> bool {
        self.collection_method == "charge_automatically"
    }

    /// True when the first period is free.
    pub fn has_trial(&self) -> bool {
        !matches!(self.trial, Trial::None)
    }
}

/// Reads items or checkout lines: prices that exist, with a quantity where the price is licensed and none where it is metered.
///
/// # Errors
/// 400 for what Stripe refuses, 501 for what is not simulated.
pub fn read_lines(
    call: &mut Call<'_>,
    given: Vec<Params>,
    param: &str,
) -> Result<Vec<Line>, ApiError> {
    if given.is_empty() {
        return Err(ApiError::missing(param));
    }
    given.into_iter().map(|line| read_line(call, line, param)).collect()
}

fn read_line(call: &mut Call<'_>, mut given: Params, param: &str) -> Result<Line, ApiError> {
    let (price_path, quantity_path) = (given.path_of("price"), given.path_of("quantity"));
    let id = match (given.text("price"), given.hash("price_data")) {
        (Some(id), None) => id,
        (None, Some(data)) => price::inline(call, data)?,
        (Some(_), Some(_)) => {
            return Err(ApiError::only_one_of("price", "price_data", &price_path));
        }
        (None, None) => {
            given.finish()?; // A line by `plan` ends here, named.
            return Err(ApiError::missing(&price_path));
        }
    };
    let price = call
        .world
        .store
        .prices
        .get(&id)
        .ok_or_else(|| ApiError::no_such("price", &id, &price_path))?;
    if price["active"] != true {
        let message = "The price specified is inactive. This field only accepts active prices.";
        return Err(ApiError::refused(None, &price_path, message));
    }
    if price["recurring"].is_null() {
        return Err(ApiError::invalid(
            &price_path,
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
        ));
    }
    let is_metered = price["recurring"]["usage_type"] == "metered";
    let quantity = match (is_metered, given.int("quantity")) {
        (true, None) => None,
        (true, Some(_)) => {
            let place = quantity_path.trim_end_matches("[quantity]");
            let message = format!(
                "Quantity should not be specified where usage_type is `metered`. Remove quantity from `{place}`"
            );
            return Err(ApiError::invalid(&quantity_path, message));
        }
        (false, None) if param == "line_items" => {
            let place = quantity_path.trim_end_matches("[quantity]");
            return Err(ApiError::invalid(
                &quantity_path,
                format!("Quantity is required. Add `quantity` to `{place}`"),
            ));
        }
        (false, quantity) => Some(quantity.unwrap_or(1)),
    };
    let mut metadata = json!({});
    merge_metadata(&mut metadata, given.take("metadata"))?;
    let thresholds = threshold::take_usage(&mut given, is_metered)?.unwrap_or_default();
    given.finish()?;
    Ok(Line { price: id, quantity, metadata, thresholds })
}

/// The currency of all lines, which must agree, as must their intervals.
fn check_together(call: &Call<'_>, lines: &[Line]) -> Result<String, ApiError> {
    let prices: Vec<&Value> =
        lines.iter().filter_map(|line| call.world.store.prices.get(&line.price)).collect();
    let currency =
        prices.first().and_then(|price| price["currency"].as_str()).unwrap_or_default().to_owned();
    if prices.iter().any(|price| price["currency"] != currency.as_str()) {
        return Err(ApiError::invalid(
            "items",
            "All prices of a subscription must have the same currency.",
        ));
    }
    let interval = |price: &Value| {
        (price["recurring"]["interval"].clone(), price["recurring"]["interval_count"].clone())
    };
    if prices.iter().any(|price| interval(price) != interval(prices[0])) {
        return Err(ApiError::not_simulated("a subscription of prices with different intervals"));
    }
    let ids: std::collections::BTreeSet<&str> =
        lines.iter().map(|line| line.price.as_str()).collect();
    if ids.len() != lines.len() {
        return Err(ApiError::invalid("items", "A price may appear once in a subscription."));
    }
    Ok(currency)
}

fn read_trial(call: &Call<'_>, params: &mut Params) -> Result<Trial, ApiError> {
    match (params.take("trial_end"), params.int("trial_period_days")) {
        (None, None | Some(0)) => Ok(Trial::None),
        (None, Some(days)) if (1..=730).contains(&days) => Ok(Trial::Days(days)),
        (None, Some(_)) => {
            Err(ApiError::invalid("trial_period_days", "The trial can be at most 730 days."))
        }
        (Some(Value::String(_)), None) => Ok(Trial::None), // `now`
        (Some(end), None) => match end.as_i64().filter(|end| *end > call.now()) {
            Some(end) => Ok(Trial::Until(end)),
            None => Err(ApiError::invalid("trial_end", "The trial end must be in the future.")),
        },
        (Some(_), Some(_)) => {
            Err(ApiError::only_one_of("trial_end", "trial_period_days", "trial_end"))
        }
    }
}

/// Keeps which kinds of payment are wanted and whether to keep the one that paid; neither changes what happens here.
///
/// # Errors
/// 501 for options of a kind.
pub fn read_payment_settings(params: &mut Params, own: &mut Value) -> Result<(), ApiError> {
    let Some(mut given) = params.hash("payment_settings") else { return Ok(()) };
    given.copy_into(own, &["payment_method_types", "save_default_payment_method"]);
    given.finish()
}

fn read_trial_settings(params: &mut Params) -> Result<String, ApiError> {
    let default = "create_invoice".to_owned();
    let Some(mut settings) = params.hash("trial_settings") else { return Ok(default) };
    let mut end = settings.hash("end_behavior").unwrap_or_default();
    let without_card = end.text("missing_payment_method").unwrap_or(default);
    end.finish()?;
    settings.finish()?;
    Ok(without_card)
}

fn read_anchor(call: &Call<'_>, params: &mut Params) -> Result<Anchor, ApiError> {
    match (params.int("billing_cycle_anchor"), params.take("billing_cycle_anchor_config")) {
        (None, None) => Ok(Anchor::Now),
        (Some(at), None) if at > call.now() => Ok(Anchor::At(at)),
        (Some(_), None) => Err(ApiError::invalid(
            "billing_cycle_anchor",
            "The billing cycle anchor must be in the future.",
        )),
        (None, Some(config)) => match period::next_anchor(call.now(), &config) {
            Some(_) => Ok(Anchor::Config(config)),
            None => Err(ApiError::invalid(
                "billing_cycle_anchor_config",
                "No date fits this configuration.",
            )),
        },
        (Some(_), Some(_)) => {
            let (at, config) = ("billing_cycle_anchor", "billing_cycle_anchor_config");
            Err(ApiError::only_one_of(at, config, config))
        }
    }
}
