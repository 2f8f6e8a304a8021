//! What was reported of a tenant, in units, by where the reports stand.

use std::collections::BTreeMap;

use schemas::{Quantity, TenantId};
use serde::Serialize;
use sqlx::PgPool;

use crate::store::{StoreError, corrupt};

/// Units of one tenant, all meters and hours; their sum is all that was sealed of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// The provider has them.
    pub accepted: Quantity,
    /// They wait, or are on their way.
    pub pending: Quantity,
    /// They may have arrived.
    pub ambiguous: Quantity,
    /// The provider refused them.
    pub rejected: Quantity,
    /// The provider's books explain neither their arrival nor their loss.
    pub disputed: Quantity,
    /// Too old to be reported.
    pub carried: Quantity,
    /// Billed to nobody.
    pub not_reportable: Quantity,
}

/// The totals of a tenant; zeros for one that is not known. Also the sequence of LOG that they are true of.
///
/// # Errors
/// Any database error.
pub async fn of_tenant(pool: &PgPool, tenant: TenantId) -> Result<(Totals, u64), StoreError> {
    let sql = "select state, coalesce(sum(quantity), 0)::bigint from meter_report where tenant_id = $1 group by state";
    let mut tx = pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *tx).await?;
    let as_of: i64 = sqlx::query_scalar("select seq from checkpoint where projection = 'log'")
        .fetch_one(&mut *tx)
        .await?;
    let rows: Vec<(String, i64)> =
        sqlx::query_as(sql).bind(tenant.to_string()).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let mut sums = BTreeMap::new();
    for (state, units) in rows {
        let units =
            u64::try_from(units).map_err(|error| corrupt("meter_report", "quantity", error))?;
        sums.insert(state, units);
    }
    let of = |states: &[&str]| Quantity(states.iter().filter_map(|state| sums.get(*state)).sum());
    let totals = Totals {
        accepted: of(&["accepted"]),
        pending: of(&["pending", "sent"]),
        ambiguous: of(&["ambiguous"]),
        rejected: of(&["rejected"]),
        disputed: of(&["disputed"]),
        carried: of(&["carried"]),
        not_reportable: of(&["not_reportable"]),
    };
    Ok((totals, u64::try_from(as_of).map_err(|error| corrupt("checkpoint", "seq", error))?))
}
