//! Statements as people read them.

use schemas::TenantId;
use serde::Serialize;
use sqlx::{FromRow, PgPool};

use crate::store::StoreError;

/// One statement with the numbers of its tie-out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Shown {
    pub tenant_id: String,
    pub subscription: String,
    /// Unit of all times: milliseconds since 1970.
    pub from_ms: i64,
    pub to_ms: i64,
    pub currency: String,
    /// `due`, `closing`, `closed`.
    pub state: String,
    /// -1 = there is no bill yet.
    pub revision: i32,
    pub invoice: Option<String>,
    pub closed_at_ms: Option<i64>,
    pub ledger_units: i64,
    pub summary_units: i64,
    pub invoiced_units: i64,
    pub carried_units: i64,
    pub expected_minor: i64,
    pub invoiced_minor: i64,
    /// What the corrections come to, together.
    pub corrected_minor: i64,
    pub verdict: String,
    pub owner: String,
    pub detail: String,
    pub tied_at_ms: Option<i64>,
}

const SHOWN: &str = "select s.tenant_id, s.subscription, s.from_ms, s.to_ms, s.currency, s.state, s.revision, s.invoice,
    s.closed_at_ms, s.ledger_units, s.summary_units, s.invoiced_units, s.carried_units, s.expected_minor, s.invoiced_minor,
    coalesce((select sum(b.difference_minor) from bill b where b.tenant_id = s.tenant_id
              and b.subscription = s.subscription and b.from_ms = s.from_ms and b.revision > 0), 0)::bigint as corrected_minor,
    s.verdict, s.owner, s.detail, s.tied_at_ms from statement s";

/// The statements of a tenant that begin in a span of time, the oldest first. Unit: milliseconds since 1970.
///
/// # Errors
/// Any database error.
pub async fn of_tenant(
    pool: &PgPool,
    tenant: TenantId,
    from_ms: i64,
    to_ms: i64,
) -> Result<Vec<Shown>, StoreError> {
    let sql = format!(
        "{SHOWN} where s.tenant_id = $1 and s.from_ms >= $2 and s.from_ms < $3 order by s.from_ms, s.subscription"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(tenant.to_string())
        .bind(from_ms)
        .bind(to_ms)
        .fetch_all(pool)
        .await?)
}

/// All statements behind a place in their order (by beginning, tenant, subscription), at most `max`.
///
/// # Errors
/// Any database error.
pub async fn all(
    pool: &PgPool,
    after: (i64, &str, &str),
    max: i64,
) -> Result<Vec<Shown>, StoreError> {
    let sql = format!(
        "{SHOWN} where (s.from_ms, s.tenant_id, s.subscription) > ($1, $2, $3)
         order by s.from_ms, s.tenant_id, s.subscription limit $4"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(after.0)
        .bind(after.1)
        .bind(after.2)
        .bind(max)
        .fetch_all(pool)
        .await?)
}

/// Statements on which somebody has to act, at most 1,000, the oldest first; of one owner, or of all.
///
/// # Errors
/// Any database error.
pub async fn apart(pool: &PgPool, owner: Option<&str>) -> Result<Vec<Shown>, StoreError> {
    let sql = format!(
        "{SHOWN} where s.owner <> 'nobody' and ($1::text is null or s.owner = $1) order by s.from_ms, s.tenant_id limit 1000"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(owner).fetch_all(pool).await?)
}

/// How many statements somebody has to act on, by verdict.
///
/// # Errors
/// Any database error.
pub async fn count_apart(pool: &PgPool) -> Result<Vec<(String, i64)>, StoreError> {
    let sql = "select verdict, count(*) from statement where owner <> 'nobody' group by verdict";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}
