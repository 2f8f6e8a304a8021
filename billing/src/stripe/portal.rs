//! Sessions of Stripe's customer portal, where a customer sees invoices, changes its card, or cancels.

use serde::{Deserialize, Serialize};
use stripe_client_core::{RequestBuilder, StripeMethod};

use super::{Client, StripeError};

#[derive(Serialize)]
struct New<'a> {
    customer: &'a str,
    return_url: &'a str,
}

#[derive(Deserialize)]
struct Session {
    url: String,
}

/// Makes a session and gives its address, which works for some minutes. Sessions are cheap: each asking makes one.
///
/// # Errors
/// See [`StripeError`].
pub async fn open(
    stripe: &Client,
    customer: &str,
    return_url: &str,
) -> Result<String, StripeError> {
    let request = RequestBuilder::new(StripeMethod::Post, "/billing_portal/sessions")
        .form(&New { customer, return_url });
    let key = format!("tb1:portal:{}", uuid::Uuid::now_v7().simple());
    let body = stripe.call(&request, Some(&key)).await?;
    let session: Session = serde_json::from_slice(&body)
        .map_err(|error| StripeError::Unreadable(error.to_string()))?;
    Ok(session.url)
}
