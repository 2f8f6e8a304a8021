//! What other rules would have billed, beside each bill.

use schemas::TenantId;
use serde::Serialize;
use sqlx::{FromRow, PgPool};

use super::{
    StoreError,
    statement::bill::{self, Stored},
};

/// One bill by other rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Row {
    pub rules: String,
    pub tenant_id: String,
    pub subscription: String,
    /// Unit of all times: milliseconds since 1970.
    pub from_ms: i64,
    pub to_ms: i64,
    pub revision: i32,
    pub currency: String,
    /// Unit of all amounts: minor units of the currency. `None` = the rules cannot rate the period.
    pub total_minor: Option<i64>,
    pub was_minor: i64,
    pub difference_minor: Option<i64>,
    /// Whether it is the same bill to the last byte.
    pub same: bool,
    pub why_not: String,
    pub made_at_ms: i64,
}

/// Published bills that these rules have not rated yet, the oldest first, at most `max`.
///
/// # Errors
/// Any database error.
pub async fn unseen(pool: &PgPool, rules: &str, max: i64) -> Result<Vec<Stored>, StoreError> {
    let sql = "select b.* from bill b where b.published and not exists (
                   select from shadow s where s.rules = $1 and s.tenant_id = b.tenant_id
                     and s.subscription = b.subscription and s.from_ms = b.from_ms and s.revision = b.revision)
               order by b.made_at_ms, b.from_ms, b.revision limit $2";
    bill::read(sqlx::query_as(sql).bind(rules).bind(max).fetch_all(pool).await?)
}

/// Remembers a row; one that is there stays.
///
/// # Errors
/// Any database error.
pub async fn remember(pool: &PgPool, row: &Row) -> Result<(), StoreError> {
    let sql = "insert into shadow (rules, tenant_id, subscription, from_ms, to_ms, revision, currency, total_minor,
                   was_minor, difference_minor, same, why_not, made_at_ms)
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) on conflict do nothing";
    sqlx::query(sql)
        .bind(&row.rules)
        .bind(&row.tenant_id)
        .bind(&row.subscription)
        .bind(row.from_ms)
        .bind(row.to_ms)
        .bind(row.revision)
        .bind(&row.currency)
        .bind(row.total_minor)
        .bind(row.was_minor)
        .bind(row.difference_minor)
        .bind(row.same)
        .bind(&row.why_not)
        .bind(row.made_at_ms)
        .execute(pool)
        .await?;
    Ok(())
}

/// Rows that differ, or all of them; of one tenant or of all, of one set of rules or of all. The newest periods first.
///
/// # Errors
/// Any database error.
pub async fn rows(
    pool: &PgPool,
    tenant: Option<TenantId>,
    rules: Option<&str>,
    all: bool,
) -> Result<Vec<Row>, StoreError> {
    let sql = "select * from shadow where ($1::text is null or tenant_id = $1) and ($2::text is null or rules = $2)
                 and ($3 or not same)
               order by from_ms desc, tenant_id, subscription, revision, rules limit 1000";
    Ok(sqlx::query_as(sql)
        .bind(tenant.map(|tenant| tenant.to_string()))
        .bind(rules)
        .bind(all)
        .fetch_all(pool)
        .await?)
}
