//! Customers that were made for a checkout, before anything links them.

use schemas::{TenantId, Timestamp};
use sqlx::PgPool;

use super::{StoreError, corrupt};

/// The customer that was made for a tenant, if one was.
///
/// # Errors
/// Any database error.
pub async fn made_for(pool: &PgPool, tenant: TenantId) -> Result<Option<String>, StoreError> {
    let sql = "select customer from made_customer where tenant_id = $1";
    Ok(sqlx::query_scalar(sql).bind(tenant.to_string()).fetch_optional(pool).await?)
}

/// The tenant that a customer was made for, if it was made here.
///
/// # Errors
/// Any database error.
pub async fn tenant_of(pool: &PgPool, customer: &str) -> Result<Option<TenantId>, StoreError> {
    let sql = "select tenant_id from made_customer where customer = $1";
    let found: Option<String> = sqlx::query_scalar(sql).bind(customer).fetch_optional(pool).await?;
    found
        .map(|id| id.parse().map_err(|error| corrupt("made_customer", "tenant_id", error)))
        .transpose()
}

/// Remembers the customer made for a tenant and gives the one that holds: the first to be remembered.
///
/// # Errors
/// Any database error.
pub async fn remember(
    pool: &PgPool,
    tenant: TenantId,
    customer: &str,
    at: Timestamp,
) -> Result<String, StoreError> {
    let sql = "insert into made_customer (tenant_id, customer, made_at_ms) values ($1, $2, $3)
               on conflict (tenant_id) do update set customer = made_customer.customer returning customer";
    Ok(sqlx::query_scalar(sql)
        .bind(tenant.to_string())
        .bind(customer)
        .bind(at.0)
        .fetch_one(pool)
        .await?)
}
