//! Meter events out, and the provider's sums back.

use std::collections::HashMap;

use schemas::{Hour, Period, Quantity};
use stripe_billing::{
    billing_meter_event::CreateBillingMeterEvent,
    billing_meter_event_summary::{
        ListIdBillingMeterEventSummary, ListIdBillingMeterEventSummaryValueGroupingWindow as Window,
    },
};
use stripe_client_core::{RequestBuilder, StripeMethod};

use super::{Client, StripeError, catalog::Meter};

/// The payload's entry that names the customer.
pub const CUSTOMER_KEY: &str = "stripe_customer_id";
/// The payload's entry that holds the value.
pub const VALUE_KEY: &str = "value";
/// The largest sum that is believed: above, Stripe's floating point no longer holds every whole number.
const LARGEST: f64 = 9_007_199_254_740_992.0;

/// One meter event.
pub struct Event<'a> {
    pub customer: &'a str,
    /// Unit: seconds since 1970.
    pub timestamp_s: i64,
    pub quantity: Quantity,
    /// At most 100 characters; Stripe refuses it twice within a day at least.
    pub identifier: &'a str,
}

/// Sends one event, once, under an idempotency key.
///
/// # Errors
/// See [`StripeError`].
pub async fn send(
    stripe: &Client,
    meter: &Meter,
    event: &Event<'_>,
    key: &str,
) -> Result<(), StripeError> {
    let payload = HashMap::from([
        (CUSTOMER_KEY.to_owned(), event.customer.to_owned()),
        (VALUE_KEY.to_owned(), event.quantity.0.to_string()),
    ]);
    let request = CreateBillingMeterEvent::new(&meter.event_name, payload)
        .identifier(event.identifier)
        .timestamp(event.timestamp_s);
    stripe.post(&request, key).await.map(|_| ())
}

/// Reads the meter, for what an answer shows beside it: that Stripe is there, and its clock.
///
/// # Errors
/// See [`StripeError`].
pub async fn touch(stripe: &Client, meter: &Meter) -> Result<(), StripeError> {
    let request = RequestBuilder::new(StripeMethod::Get, format!("/billing/meters/{}", meter.id));
    stripe.call(&request, None).await.map(drop)
}

/// What Stripe says that a customer used in one hour.
///
/// # Errors
/// See [`StripeError`]; a sum that is no whole number up to 2^53 is `Unreadable`.
pub async fn hour_total(
    stripe: &Client,
    meter: &Meter,
    customer: &str,
    hour: Hour,
) -> Result<Quantity, StripeError> {
    let (from, to) = (hour.start().0 / 1000, hour.end().0 / 1000);
    let request = ListIdBillingMeterEventSummary::new(meter.id.as_str(), customer, to, from)
        .value_grouping_window(Window::Hour)
        .limit(100);
    let page = stripe.get(&request).await?;
    // The end is documented both as in and out of the range: only the bucket that begins with the hour counts.
    let buckets = page.data.iter().filter(|bucket| bucket.start_time == from);
    buckets.map(|bucket| whole(bucket.aggregated_value)).try_fold(Quantity::ZERO, |sum, value| {
        sum.checked_add(value?).map_err(|error| StripeError::Unreadable(error.to_string()))
    })
}

/// What Stripe says that a customer used in a period, as one sum: a read costs the same for a month as for an hour.
///
/// Stripe sums whole minutes, so the edges are those of the minutes that hold the period's.
///
/// # Errors
/// See [`StripeError`]; a sum that is no whole number up to 2^53 is `Unreadable`.
pub async fn period_total(
    stripe: &Client,
    meter: &Meter,
    customer: &str,
    period: Period,
) -> Result<Quantity, StripeError> {
    const MINUTE_MS: i64 = 60_000;
    let from = period.from.0.div_euclid(MINUTE_MS) * 60;
    let to =
        (period.to.0.div_euclid(MINUTE_MS) + i64::from(period.to.0.rem_euclid(MINUTE_MS) > 0)) * 60;
    let request =
        ListIdBillingMeterEventSummary::new(meter.id.as_str(), customer, to, from).limit(100);
    let page = stripe.get(&request).await?;
    page.data.iter().map(|bucket| whole(bucket.aggregated_value)).try_fold(
        Quantity::ZERO,
        |sum, value| {
            sum.checked_add(value?).map_err(|error| StripeError::Unreadable(error.to_string()))
        },
    )
}

fn whole(value: f64) -> Result<Quantity, StripeError> {
    if !(0.0..=LARGEST).contains(&value) || value.fract() != 0.0 {
        return Err(StripeError::Unreadable(format!(
            "the sum {value} is not a whole number up to 2^53"
        )));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 0 to 2^53 fits exactly, as was just checked"
    )]
    Ok(Quantity(value as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_whole_numbers_or_nothing() {
        assert_eq!(whole(0.0).unwrap(), Quantity(0));
        assert_eq!(whole(12.0).unwrap(), Quantity(12));
        assert_eq!(whole(LARGEST).unwrap(), Quantity(1 << 53));
        for bad in [0.5, -1.0, LARGEST * 2.0, f64::NAN, f64::INFINITY] {
            assert!(whole(bad).is_err(), "{bad}");
        }
    }
}
