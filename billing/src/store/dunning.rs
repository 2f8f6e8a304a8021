//! How far each overdue customer was told, and when to look at it again though nothing happens.

use billing_core::dunning::Stage;
use schemas::{TenantId, Timestamp};
use sqlx::PgPool;

use super::{StoreError, corrupt};

/// The overdue spell that was last acted on, and how many of its notices were told.
///
/// # Errors
/// Any database error.
pub async fn read(pool: &PgPool, tenant: TenantId) -> Result<Option<Stage>, StoreError> {
    let sql = "select overdue_since_ms, notices from dunning where tenant_id = $1";
    let row: Option<(Option<i64>, i32)> =
        sqlx::query_as(sql).bind(tenant.to_string()).fetch_optional(pool).await?;
    let Some((since, notices)) = row else { return Ok(None) };
    let notices = usize::try_from(notices).map_err(|e| corrupt("dunning", "notices", e))?;
    Ok(Some(match since {
        Some(since) => Stage::Overdue { since: Timestamp(since), notices },
        None => Stage::Serving,
    }))
}

/// Remembers where a customer stands and when to look again.
///
/// # Errors
/// Any database error.
pub async fn remember(
    pool: &PgPool,
    tenant: TenantId,
    customer: &str,
    stage: &Stage,
    look_again_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    let (since, notices) = match stage {
        Stage::Overdue { since, notices } => (Some(since.0), *notices),
        Stage::Serving | Stage::Suspended { .. } => (None, 0),
    };
    let sql = "insert into dunning (tenant_id, customer, overdue_since_ms, notices, look_again_at_ms)
               values ($1, $2, $3, $4, $5)
               on conflict (tenant_id) do update set customer = $2, overdue_since_ms = $3, notices = $4, look_again_at_ms = $5";
    sqlx::query(sql)
        .bind(tenant.to_string())
        .bind(customer)
        .bind(since)
        .bind(i32::try_from(notices).unwrap_or(i32::MAX))
        .bind(look_again_at.map(|at| at.0))
        .execute(pool)
        .await?;
    Ok(())
}

/// Customers for whom the time has come.
///
/// # Errors
/// Any database error.
pub async fn due(pool: &PgPool, now: Timestamp, max: i64) -> Result<Vec<String>, StoreError> {
    let sql = "select customer from dunning where look_again_at_ms <= $1 order by look_again_at_ms limit $2";
    Ok(sqlx::query_scalar(sql).bind(now.0).bind(max).fetch_all(pool).await?)
}
