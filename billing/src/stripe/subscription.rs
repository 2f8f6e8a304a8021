//! Subscriptions: all of a customer's, as they stand now, with the plans that their prices name; and making one.

use std::collections::HashMap;

use billing_core::{
    access::{Status, Subscription},
    plan::PlanRef,
};
use schemas::{TenantId, Timestamp};
use stripe_billing::subscription::{
    CreateSubscription, CreateSubscriptionBillingCycleAnchorConfig as Anchor,
    CreateSubscriptionBillingMode, CreateSubscriptionBillingModeType as Mode,
    CreateSubscriptionItems, ListSubscription, ListSubscriptionStatus,
};
use stripe_shared::{PriceType, RecurringInterval, SubscriptionCollectionMethod, SubscriptionItem};

use super::{Client, StripeError, customer::TENANT, sale::Sold};
use crate::{
    plans::{named, written},
    store::price::Price,
};

/// A subscription with what its statements follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub core: Subscription,
    /// Where its periods are counted from.
    pub anchor: Timestamp,
    /// Months of a period; `None` = it is billed by days or weeks, which no statement covers.
    pub months: Option<u8>,
    pub currency: String,
    pub trial_until: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// When its present period began.
    pub current_from: Timestamp,
    pub prices: Vec<Price>,
}

impl Found {
    /// The plan that it is on: the one that its prices name.
    #[must_use]
    pub fn plan(&self) -> Option<PlanRef> {
        one_plan(&self.prices)
    }
}

/// The plan that prices name, if all that name one name the same.
#[must_use]
pub fn one_plan(prices: &[Price]) -> Option<PlanRef> {
    let mut plans =
        prices.iter().filter_map(|price| price.stands_for.as_ref().map(|(plan, _)| plan));
    let first = plans.next()?;
    plans.all(|plan| plan == first).then(|| first.clone())
}

/// Every subscription of a customer, ended ones too, all pages.
///
/// # Errors
/// See [`StripeError`].
pub async fn all_of(stripe: &Client, customer: &str) -> Result<Vec<Found>, StripeError> {
    let mut all: Vec<Found> = Vec::new();
    loop {
        let mut request = ListSubscription::new()
            .customer(customer)
            .status(ListSubscriptionStatus::All)
            .limit(100);
        if let Some(last) = all.last() {
            request = request.starting_after(last.core.id.clone());
        }
        let page = stripe.get(&request).await?;
        let nothing = page.data.is_empty();
        all.extend(page.data.iter().map(found));
        if !page.has_more || nothing {
            return Ok(all);
        }
    }
}

/// What a subscription is made of.
pub struct Wanted<'a> {
    pub tenant: TenantId,
    pub customer: &'a str,
    /// What is subscribed to: each price once.
    pub prices: &'a [Sold],
    /// How long an invoice may stay unpaid before it is overdue. Unit: days.
    pub due_days: u32,
}

/// Makes a subscription whose invoices are sent; the same `key` gives the same one for a day.
///
/// # Errors
/// See [`StripeError`].
pub async fn create(
    stripe: &Client,
    wanted: &Wanted<'_>,
    key: &str,
) -> Result<String, StripeError> {
    let items = wanted.prices.iter().map(|sold| {
        let mut item = CreateSubscriptionItems::new();
        item.price = Some(sold.price.clone());
        item.quantity = (!sold.metered).then_some(1);
        item
    });
    let request = CreateSubscription::new()
        .customer(wanted.customer)
        .items(items.collect::<Vec<_>>())
        .metadata(HashMap::from([(TENANT.to_owned(), wanted.tenant.to_string())]))
        .billing_mode(CreateSubscriptionBillingMode::new(Mode::Flexible))
        .billing_cycle_anchor_config(first_of_the_month())
        .collection_method(SubscriptionCollectionMethod::SendInvoice)
        .days_until_due(wanted.due_days);
    Ok(stripe.post(&request, key).await?.id.to_string())
}

/// Midnight UTC, as checkout anchors too: periods begin and end at the edges of hours.
fn first_of_the_month() -> Anchor {
    let mut anchor = Anchor::new(1);
    anchor.hour = Some(0);
    anchor.minute = Some(0);
    anchor.second = Some(0);
    anchor
}

fn found(found: &stripe_shared::Subscription) -> Found {
    let at = |seconds: i64| Timestamp(seconds.saturating_mul(1000));
    let prices: Vec<Price> = found.items.data.iter().map(price).collect();
    Found {
        core: Subscription {
            id: found.id.to_string(),
            status: Status::of(found.status.as_str()),
            created: at(found.created),
            collection_paused: found.pause_collection.is_some(),
            plan: one_plan(&prices).as_ref().map(written),
        },
        anchor: at(found.billing_cycle_anchor),
        months: found.items.data.first().and_then(months),
        currency: found.currency.to_string(),
        trial_until: found.trial_end.map(at),
        ended_at: found.ended_at.map(at),
        current_from: at(found
            .items
            .data
            .first()
            .map_or(found.created, |item| item.current_period_start)),
        prices,
    }
}

fn months(item: &SubscriptionItem) -> Option<u8> {
    let recurring = item.price.recurring.as_ref()?;
    let of_one = match recurring.interval {
        RecurringInterval::Month => 1,
        RecurringInterval::Year => 12,
        _ => return None,
    };
    u8::try_from(recurring.interval_count).ok()?.checked_mul(of_one).filter(|months| *months <= 120)
}

fn price(item: &SubscriptionItem) -> Price {
    let price = &item.price;
    let recurring = price.type_ == PriceType::Recurring;
    let usage = price.recurring.as_ref().filter(|_| recurring);
    Price {
        price: price.id.to_string(),
        metered: usage.is_some_and(|usage| usage.usage_type.as_str() == "metered"),
        stands_for: named(&price.metadata, price.lookup_key.as_deref()),
    }
}
