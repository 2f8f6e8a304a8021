//! The sweep, on a schedule: fetches events that Stripe could not deliver, looks again at customers that nobody has
//! looked at for a day, compares the provider's sums of each period with what it took, and counts what is stuck.
//!
//! What it fetches goes into the log as a webhook would have put it there, so finding an event twice is nothing.

use std::{str::FromStr, sync::Arc, time::Duration};

use billing_core::report::State;
use bytes::Bytes;
use cron::Schedule;
use runtime::nats::Nats;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    clock::now,
    drift::{self, DriftError},
    fold::{FoldError, chain},
    provider::Provider,
    store::{StoreError, quarantine, report::outbox, subscribed},
    stripe::{self, StripeError, event},
    webhook::{self, Stored},
};

/// Milliseconds in a day.
const DAY_MS: i64 = 24 * 3_600_000;
/// Customers that one sweep looks at: reads are rationed, and the next sweep takes more.
const LOOKS: i64 = 200;

/// What a sweep needs.
pub struct Sweep<P> {
    pub pool: PgPool,
    /// See `Config::sweep_cron`.
    pub schedule: String,
    /// See `Config::stuck_after_ms`.
    pub stuck_after_ms: i64,
    /// `None` where Stripe does not bill.
    pub stripe: Option<AtStripe<P>>,
}

/// What is swept at Stripe.
pub struct AtStripe<P> {
    pub nats: Nats,
    pub stripe: stripe::Client,
    pub access: Access,
    pub provider: Arc<P>,
}

/// Why a sweep did not come to its end; the next one will.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("Stripe's events")]
    Stripe(#[from] StripeError),
    #[error("the log")]
    Log(#[from] runtime::nats::PublishError),
    #[error("PostgreSQL")]
    Store(#[from] StoreError),
    #[error("a look at a customer")]
    Look(#[from] FoldError),
    #[error("a comparison of sums")]
    Drift(#[from] DriftError),
}

impl<P: Provider> Sweep<P> {
    /// Sweeps at every time of the schedule until stopped.
    pub async fn run(&self, stop: CancellationToken) {
        let Ok(schedule) = Schedule::from_str(&self.schedule) else {
            tracing::error!(schedule = self.schedule, "Not a schedule: there will be no sweep");
            return;
        };
        while let Some(at) = schedule.after(&now().to_utc()).next() {
            let pause = (at - now().to_utc()).to_std().unwrap_or(Duration::ZERO);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if let Err(error) = self.once().await {
                tracing::warn!(error = %chain(&error), "A sweep failed");
                metrics::counter!("billing_sweeps_failed_total").increment(1);
            }
        }
    }

    /// One sweep.
    ///
    /// # Errors
    /// The first thing that failed; what was done before stays done.
    pub async fn once(&self) -> Result<(), SweepError> {
        self.count_stuck().await?;
        let Some(at) = &self.stripe else { return Ok(()) };
        at.fetch_undelivered().await?;
        let unseen = subscribed::unread_since(&self.pool, now().plus_ms(-DAY_MS), LOOKS).await?;
        for customer in unseen {
            at.access.look(&customer, None).await?;
        }
        drift::compare(&self.pool, &*at.provider, now()).await?;
        Ok(())
    }

    async fn count_stuck(&self) -> Result<(), StoreError> {
        let stuck = outbox::stuck(&self.pool, now().plus_ms(-self.stuck_after_ms)).await?;
        for (state, name) in
            [(State::Pending, "pending"), (State::Sent, "sent"), (State::Ambiguous, "ambiguous")]
        {
            let count =
                stuck.iter().find(|(found, _)| *found == state).map_or(0, |(_, count)| *count);
            if count > 0 {
                tracing::error!(state = name, count, "Reports are stuck");
            }
            set_gauge("billing_reports_stuck", name, count);
        }
        set_gauge("billing_quarantined", "all", quarantine::count(&self.pool).await?);
        Ok(())
    }
}

impl<P> AtStripe<P> {
    /// Takes in every event that Stripe could not deliver.
    async fn fetch_undelivered(&self) -> Result<(), SweepError> {
        let mut after: Option<String> = None;
        loop {
            let page = event::undelivered(&self.stripe, after.as_deref()).await?;
            for event in page.events {
                let body = Bytes::copy_from_slice(event.body.get().as_bytes());
                if webhook::store(&self.nats, &webhook::name(&body), body).await? == Stored::New {
                    tracing::warn!(
                        event.id = event.id,
                        "Fetched an event that was never delivered"
                    );
                    metrics::counter!("billing_events_swept_total").increment(1);
                }
            }
            after = page.more_after;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

fn set_gauge(gauge: &'static str, state: &'static str, count: i64) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge is a float, and shows a count well enough"
    )]
    metrics::gauge!(gauge, "state" => state).set(count as f64);
}
