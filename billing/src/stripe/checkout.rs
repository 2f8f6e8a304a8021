//! Checkout sessions: where a tenant's owner subscribes.

use std::collections::HashMap;

use schemas::TenantId;
use stripe_checkout::checkout_session::{
    CreateCheckoutSession, CreateCheckoutSessionLineItems, CreateCheckoutSessionSubscriptionData,
    CreateCheckoutSessionSubscriptionDataBillingCycleAnchorConfig as Anchor,
    CreateCheckoutSessionSubscriptionDataBillingMode as BillingMode,
    CreateCheckoutSessionSubscriptionDataBillingModeType as BillingModeType,
};
use stripe_shared::CheckoutSessionMode;

use super::{Client, StripeError, customer::TENANT, sale::Sold};

/// What a session is made of.
pub struct Wanted<'a> {
    pub tenant: TenantId,
    pub customer: &'a str,
    /// What is subscribed to: each price once.
    pub prices: &'a [Sold],
    pub success_url: &'a str,
    pub cancel_url: Option<&'a str>,
}

/// A session that waits for its visitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: String,
    pub url: Option<String>,
}

/// Makes a session for a subscription to the metered price; the same `key` gives the same session for a day.
///
/// # Errors
/// See [`StripeError`].
pub async fn create(
    stripe: &Client,
    wanted: &Wanted<'_>,
    key: &str,
) -> Result<Session, StripeError> {
    let tenant = wanted.tenant.to_string();
    let metadata = HashMap::from([(TENANT.to_owned(), tenant.clone())]);
    let mut subscription = CreateCheckoutSessionSubscriptionData::new();
    subscription.metadata = Some(metadata.clone());
    subscription.billing_mode = Some(BillingMode::new(BillingModeType::Flexible));
    subscription.billing_cycle_anchor_config = Some(first_of_the_month());
    let items = wanted.prices.iter().map(|sold| {
        let mut item = CreateCheckoutSessionLineItems::new();
        item.price = Some(sold.price.clone());
        item.quantity = (!sold.metered).then_some(1);
        item
    });
    let mut request = CreateCheckoutSession::new()
        .mode(CheckoutSessionMode::Subscription)
        .customer(wanted.customer)
        .client_reference_id(tenant)
        .line_items(items.collect::<Vec<_>>())
        .metadata(metadata)
        .subscription_data(subscription)
        .success_url(wanted.success_url);
    if let Some(url) = wanted.cancel_url {
        request = request.cancel_url(url);
    }
    let session = stripe.post(&request, key).await?;
    Ok(Session { id: session.id.to_string(), url: session.url })
}

/// Midnight UTC, so that billing periods begin and end at the edges of the hours that usage is reported in.
fn first_of_the_month() -> Anchor {
    let mut anchor = Anchor::new(1);
    anchor.hour = Some(0);
    anchor.minute = Some(0);
    anchor.second = Some(0);
    anchor
}
