//! Subscriptions: all of a customer's, as they stand now.

use billing_core::access::{Status, Subscription};
use schemas::Timestamp;
use stripe_billing::subscription::{ListSubscription, ListSubscriptionStatus};

use super::{Client, StripeError};

/// Every subscription of a customer, ended ones too, all pages.
///
/// # Errors
/// See [`StripeError`].
pub async fn all_of(stripe: &Client, customer: &str) -> Result<Vec<Subscription>, StripeError> {
    let mut all: Vec<Subscription> = Vec::new();
    loop {
        let mut request = ListSubscription::new()
            .customer(customer)
            .status(ListSubscriptionStatus::All)
            .limit(100);
        if let Some(last) = all.last() {
            request = request.starting_after(last.id.clone());
        }
        let page = stripe.get(&request).await?;
        let nothing = page.data.is_empty();
        all.extend(page.data.into_iter().map(|found| Subscription {
            id: found.id.to_string(),
            status: Status::of(found.status.as_str()),
            created: Timestamp(found.created.saturating_mul(1000)),
            collection_paused: found.pause_collection.is_some(),
        }));
        if !page.has_more || nothing {
            return Ok(all);
        }
    }
}
