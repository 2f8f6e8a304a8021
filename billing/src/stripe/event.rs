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

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StripeError> {
    serde_json::from_slice(body).map_err(|error| StripeError::Unreadable(error.to_string()))
}
