//! Where subscriptions' periods are counted from: an anchor must stand at the edge of an hour.
//!
//! Use is reported by the hour, so a period that begins inside one would take a part of another period's use. What is
//! known to be so keeps billing from starting, unless Stripe has it otherwise by now.

use schemas::{Timestamp, time::HOUR_MS};
use sqlx::PgPool;

use super::{Client, catalog::CatalogError, subscription};
use crate::store::subscribed;

/// Whether an anchor stands at the edge of an hour.
#[must_use]
pub fn is_at_an_edge(anchor: Timestamp) -> bool {
    anchor.0.rem_euclid(HOUR_MS) == 0
}

/// Looks whether a living subscription's anchor stands inside an hour.
///
/// # Errors
/// `Anchor` for the first that does; else what may pass.
pub async fn check(stripe: &Client, pool: &PgPool) -> Result<(), CatalogError> {
    for (customer, known) in subscribed::anchored_inside_an_hour(pool).await? {
        // What is mended there, or over, was perhaps not told yet.
        let all = subscription::all_of(stripe, &customer).await?;
        let living = all.into_iter().find(|one| one.core.id == known && one.ended_at.is_none());
        if let Some(found) = living.filter(|one| !is_at_an_edge(one.anchor)) {
            return Err(CatalogError::Anchor { subscription: known, anchor: found.anchor });
        }
    }
    Ok(())
}
