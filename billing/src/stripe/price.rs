//! What a price stands for.

use std::collections::HashMap;

use serde::Deserialize;
use stripe_client_core::{RequestBuilder, StripeMethod};

use super::{Client, StripeError};
use crate::{plans::named, store::price::Price};

#[derive(Deserialize)]
struct Raw {
    id: String,
    lookup_key: Option<String>,
    #[serde(default)]
    metadata: HashMap<String, String>,
    recurring: Option<Recurring>,
}

#[derive(Deserialize)]
struct Recurring {
    usage_type: String,
}

/// Reads a price; `None` = there is none by this id.
///
/// # Errors
/// See [`StripeError`].
pub async fn read(stripe: &Client, id: &str) -> Result<Option<Price>, StripeError> {
    let request = RequestBuilder::new(StripeMethod::Get, format!("/prices/{id}"));
    let body = match stripe.call(&request, None).await {
        Ok(body) => body,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    let raw: Raw = serde_json::from_slice(&body)
        .map_err(|error| StripeError::Unreadable(error.to_string()))?;
    let metered = raw.recurring.is_some_and(|recurring| recurring.usage_type == "metered");
    let stands_for = named(&raw.metadata, raw.lookup_key.as_deref());
    Ok(Some(Price { price: raw.id, metered, stands_for }))
}
