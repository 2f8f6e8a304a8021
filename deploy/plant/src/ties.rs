//! The four numbers that must agree: calls that were answered, and what ledger, ClickHouse and Stripe know of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemas::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    Plant, PlantError,
    api::{count, text},
};

/// Units of `tool_calls` of one tenant, as each place has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ties {
    pub ledger: u64,
    pub clickhouse: u64,
    pub stripe: u64,
    /// Refused calls, as ClickHouse has them.
    pub refused: u64,
}

impl Ties {
    /// Whether all three say `calls`.
    #[must_use]
    pub fn are(&self, calls: u64) -> bool {
        [self.ledger, self.clickhouse, self.stripe] == [calls; 3]
    }
}

/// Asks all three.
///
/// # Errors
/// One of them does not answer.
pub async fn ties(plant: &Plant, tenant: &str) -> Result<Ties, PlantError> {
    let path = format!("/admin/usage?tenant_id={tenant}&since={}", a_week_ago());
    let usage = plant.admin_api().get(&path).await?;
    let totals = plant.stripe_control().get("/_sim/meters/totals").await?;
    Ok(Ties {
        ledger: count(&usage, "/ledger/calls")?,
        clickhouse: count(&usage, "/totals/calls")?,
        refused: count(&usage, "/totals/refused")?,
        stripe: stripe_total(&totals)?,
    })
}

fn a_week_ago() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(now.as_millis()).unwrap_or(i64::MAX)).plus_ms(-7 * 24 * 3_600_000)
}

/// What Stripe took in, all customers together: the simulator's own ledger. It sums in decimals; ours are whole.
fn stripe_total(totals: &Value) -> Result<u64, PlantError> {
    let sum = text(totals, "/grand_total/sum")?;
    sum.parse().map_err(|_| {
        PlantError::Unexpected(format!("Stripe's total is {sum}: not a whole number of calls"))
    })
}

/// Waits until all three say `calls` and ClickHouse has the `refused` ones (it may have more: what was turned away
/// while the keys still waited for their subscription); else says what they said last.
///
/// # Errors
/// They do not agree within `timeout`.
pub async fn wait_for_ties(
    plant: &Plant,
    tenant: &str,
    (calls, refused): (u64, u64),
    timeout: Duration,
) -> Result<Ties, PlantError> {
    let deadline = Instant::now() + timeout;
    loop {
        let found = ties(plant, tenant).await;
        if let Ok(found) = &found
            && found.are(calls)
            && found.refused >= refused
        {
            return Ok(*found);
        }
        if Instant::now() > deadline {
            let text = format!(
                "{calls} calls were answered and {refused} refused; after {timeout:?}: {found:?}"
            );
            return Err(PlantError::Unexpected(text));
        }
        sleep(Duration::from_millis(100)).await;
    }
}
