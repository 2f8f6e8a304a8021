//! Events that Stripe could not deliver, fetched instead: raw, as a webhook would have brought them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use stripe_client_core::{RequestBuilder, StripeMethod};

use super::{Client, StripeError};

/// One event.
#[derive(Clone, Debug)]
pub struct Raw {
    pub id: String,
    pub body: Box<RawValue>,
}

/// Some events, newest first.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<Raw>,
    /// The event to ask behind for more; `None` = that was all.
    pub more_after: Option<String>,
}

#[derive(Serialize)]
struct Query<'a> {
    delivery_success: bool,
    limit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_after: Option<&'a str>,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Box<RawValue>>,
    has_more: bool,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

/// A page of the events of the past 30 days of which some delivery failed, behind the event `after`.
///
/// # Errors
/// See [`StripeError`].
pub async fn undelivered(stripe: &Client, after: Option<&str>) -> Result<Page, StripeError> {
    let query = Query { delivery_success: false, limit: 100, starting_after: after };
    let request = RequestBuilder::new(StripeMethod::Get, "/events").query(&query);
    let body = stripe.call(&request, None).await?;
    let list: List = read(&body)?;
    let named = list.data.into_iter().map(|body| {
        let Named { id } = read(body.get().as_bytes())?;
        Ok(Raw { id, body })
    });
    let events = named.collect::<Result<Vec<Raw>, StripeError>>()?;
    let more_after = events.last().filter(|_| list.has_more).map(|last| last.id.clone());
    Ok(Page { events, more_after })
}

/// One report that Stripe took and could not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The idempotency key that it was sent under, which begins with its identifier.
    pub key: String,
    pub code: String,
}

#[derive(Deserialize)]
struct Thin {
    data: Option<ThinData>,
}

#[derive(Deserialize)]
struct ThinData {
    reason: Option<ThinReason>,
}

#[derive(Deserialize)]
struct ThinReason {
    #[serde(default)]
    error_types: Vec<ThinErrors>,
}

#[derive(Deserialize)]
struct ThinErrors {
    code: String,
    #[serde(default)]
    sample_errors: Vec<ThinSample>,
}

#[derive(Deserialize)]
struct ThinSample {
    request: Option<ThinRequest>,
}

#[derive(Deserialize)]
struct ThinRequest {
    identifier: Option<String>,
}

/// Fetches a thin event about meter events and gives those that it names: samples, not all of them.
///
/// # Errors
/// See [`StripeError`].
pub async fn unusable(stripe: &Client, id: &str) -> Result<Vec<Unusable>, StripeError> {
    let request = RequestBuilder::new(StripeMethod::Get, format!("/v2/core/events/{id}"));
    let thin: Thin = read(&stripe.call(&request, None).await?)?;
    let types = thin.data.and_then(|data| data.reason).map(|reason| reason.error_types);
    let mut found = Vec::new();
    for ThinErrors { code, sample_errors } in types.unwrap_or_default() {
        let keys = sample_errors.into_iter().filter_map(|sample| sample.request?.identifier);
        found.extend(keys.map(|key| Unusable { key, code: code.clone() }));
    }
    Ok(found)
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StripeError> {
    serde_json::from_slice(body).map_err(|error| StripeError::Unreadable(error.to_string()))
}
