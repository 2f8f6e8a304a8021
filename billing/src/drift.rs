//! Drift: what the provider holds of each period beside what it took from us, compared daily, kept as rows.
//!
//! A running period is compared as it goes, a closed one for as long as its sums may change, so that a report that the
//! provider took and lost is found though no event tells of it. Absent on purpose: mending it, which a person decides.

use axum::{Json, extract::State, http::HeaderMap};
use schemas::Timestamp;
use sqlx::PgPool;

use crate::{
    problem::Problem,
    provider::{Provider, Unread},
    router::{Desk, authorize},
    store::{StoreError, drift},
};

/// How often each period is compared. Unit: milliseconds.
const EVERY_MS: i64 = 24 * 3_600_000;
/// Periods of one sweep: reads are rationed, and the next sweep takes more.
const MAX: i64 = 200;

/// Why a comparison did not come to its end; the next sweep goes on.
#[derive(Debug, thiserror::Error)]
pub enum DriftError {
    #[error("PostgreSQL")]
    Store(#[from] StoreError),
    #[error("the provider's sums")]
    Unread(#[from] Unread),
}

/// Compares what is due, and shows how much differs.
///
/// # Errors
/// See [`DriftError`].
pub async fn compare(
    pool: &PgPool,
    provider: &impl Provider,
    now: Timestamp,
) -> Result<(), DriftError> {
    for due in drift::due(pool, now.plus_ms(-EVERY_MS), now, MAX).await? {
        for sum in &due.taken {
            let (meter, taken) = sum;
            let told = provider.period_total(&due.customer, meter, due.period).await?;
            drift::remember(pool, &due, sum, told, now).await?;
            if told != *taken {
                tracing::error!(
                    tenant.id = due.tenant_id,
                    subscription = due.subscription,
                    meter = meter.as_str(),
                    taken = taken.0,
                    told = told.0,
                    "The provider holds another sum than it took"
                );
            }
        }
    }
    let apart = drift::apart(pool).await?;
    let units: u64 = apart.iter().map(|one| one.taken_units.abs_diff(one.told_units)).sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge is a float, and shows a count well enough"
    )]
    {
        metrics::gauge!("billing_drift_periods").set(apart.len() as f64);
        metrics::gauge!("billing_drift_units").set(units as f64);
    }
    Ok(())
}

/// `GET /billing/drift`: the periods of which the provider holds something else than it took.
pub async fn read(
    State(desk): State<Desk>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    authorize(&desk, &headers)?;
    let rows =
        drift::apart(&desk.pool).await.map_err(|error| Problem::dependency("PostgreSQL", error))?;
    Ok(Json(serde_json::json!({ "drift": rows })))
}
