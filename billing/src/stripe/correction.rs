//! Corrections at Stripe: an invoice item where more is owed, a credit note where money goes back; each made once.
//!
//! Both carry the correction's key in their metadata. Within a day Stripe knows the idempotency key; after that what
//! was made is looked for by the metadata before anything is made anew.

use std::collections::HashMap;

use billing_core::money::Minor;
use schemas::Period;
use serde::{Deserialize, Serialize};
use stripe_client_core::{RequestBuilder, StripeMethod};

use super::{Client, StripeError, invoice::CORRECTION};

/// What is owed more.
#[derive(Serialize)]
struct Item<'a> {
    customer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<&'a str>,
    amount: i64,
    currency: &'a str,
    description: &'a str,
    period: Span,
    metadata: HashMap<&'static str, &'a str>,
}

#[derive(Serialize)]
struct Span {
    start: i64,
    end: i64,
}

/// What is given back of a final invoice.
#[derive(Serialize)]
struct Note<'a> {
    invoice: &'a str,
    amount: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    credit_amount: Option<i64>,
    memo: &'a str,
    metadata: HashMap<&'static str, &'a str>,
}

/// A correction as it is told.
pub struct Told<'a> {
    /// The correction's key: also its idempotency key.
    pub key: &'a str,
    pub customer: &'a str,
    /// The subscription on whose next invoice it goes; `None` = on the customer's next one.
    pub subscription: Option<&'a str>,
    pub currency: &'a str,
    /// The period that is corrected.
    pub period: Period,
    pub description: &'a str,
}

#[derive(Deserialize)]
struct Made {
    id: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

#[derive(Serialize)]
struct Of<'a> {
    customer: &'a str,
    limit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_after: Option<&'a str>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Made>,
    has_more: bool,
}

/// Puts an amount, of either sign, on the next invoice. Gives the item's id.
///
/// # Errors
/// See [`StripeError`].
pub async fn add_item(
    stripe: &Client,
    told: &Told<'_>,
    amount: Minor,
) -> Result<String, StripeError> {
    let seconds = |at: schemas::Timestamp| at.0.div_euclid(1000);
    let item = Item {
        customer: told.customer,
        subscription: told.subscription,
        amount: amount.units(),
        currency: told.currency,
        description: told.description,
        period: Span { start: seconds(told.period.from), end: seconds(told.period.to) },
        metadata: HashMap::from([(CORRECTION, told.key)]),
    };
    let request = RequestBuilder::new(StripeMethod::Post, "/invoiceitems").form(&item);
    made(&stripe.call(&request, Some(told.key)).await?)
}

/// Gives an amount back: of an open invoice off what is due, of a paid one to the customer's balance. Gives the note's id.
///
/// # Errors
/// See [`StripeError`].
pub async fn give_back(
    stripe: &Client,
    told: &Told<'_>,
    invoice: &str,
    is_paid: bool,
    amount: Minor,
) -> Result<String, StripeError> {
    let amount = amount.units();
    let note = Note {
        invoice,
        amount,
        credit_amount: is_paid.then_some(amount),
        memo: told.description,
        metadata: HashMap::from([(CORRECTION, told.key)]),
    };
    let request = RequestBuilder::new(StripeMethod::Post, "/credit_notes").form(&note);
    made(&stripe.call(&request, Some(told.key)).await?)
}

/// The item or note of a correction, if one was ever made.
///
/// # Errors
/// See [`StripeError`].
pub async fn find(stripe: &Client, told: &Told<'_>) -> Result<Option<String>, StripeError> {
    for path in ["/invoiceitems", "/credit_notes"] {
        let mut after: Option<String> = None;
        loop {
            let query =
                Of { customer: told.customer, limit: 100, starting_after: after.as_deref() };
            let request = RequestBuilder::new(StripeMethod::Get, path).query(&query);
            let body = stripe.call(&request, None).await?;
            let page: Page = parse(&body)?;
            let ours =
                |one: &&Made| one.metadata.get(CORRECTION).is_some_and(|key| key == told.key);
            if let Some(found) = page.data.iter().find(ours) {
                return Ok(Some(found.id.clone()));
            }
            after = page.data.last().map(|last| last.id.clone());
            if !page.has_more || after.is_none() {
                break;
            }
        }
    }
    Ok(None)
}

fn made(body: &[u8]) -> Result<String, StripeError> {
    parse::<Made>(body).map(|made| made.id)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StripeError> {
    serde_json::from_slice(body).map_err(|error| StripeError::Unreadable(error.to_string()))
}
