//! Provisionings that were begun, by the digest of their idempotency key.

use schemas::{TenantId, Timestamp};
use sqlx::PgPool;

use super::StoreError;

/// One that begins, or comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub key_digest: String,
    pub asked_digest: String,
    pub tenant: TenantId,
}

/// Remembers what a key was used for; `false` = it was used for another request.
///
/// # Errors
/// Any database error.
pub async fn begin(pool: &PgPool, begun: &Begun, now: Timestamp) -> Result<bool, StoreError> {
    let sql = "insert into provision (key_digest, asked_digest, tenant_id, begun_at_ms) values ($1, $2, $3, $4)
               on conflict (key_digest) do update set key_digest = provision.key_digest
               returning asked_digest";
    let asked: String = sqlx::query_scalar(sql)
        .bind(&begun.key_digest)
        .bind(&begun.asked_digest)
        .bind(begun.tenant.to_string())
        .bind(now.0)
        .fetch_one(pool)
        .await?;
    Ok(asked == begun.asked_digest)
}

/// Remembers that nothing of it is missing any more.
///
/// # Errors
/// Any database error.
pub async fn finish(pool: &PgPool, key_digest: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql =
        "update provision set finished_at_ms = coalesce(finished_at_ms, $2) where key_digest = $1";
    sqlx::query(sql).bind(key_digest).bind(now.0).execute(pool).await?;
    Ok(())
}
