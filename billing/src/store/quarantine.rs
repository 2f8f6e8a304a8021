//! What could not be worked on, with the reason; the message itself stays in its stream.

use schemas::Timestamp;
use sqlx::{PgPool, PgTransaction};

use super::{StoreError, big};

/// One message that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub stream: &'static str,
    pub seq: u64,
    /// A stable word: `unreadable`, `unknown_tenant`, ...
    pub reason: &'static str,
    /// For people; no secret, no payload.
    pub detail: String,
}

/// Sets messages aside, in the transaction that moves the checkpoint past them. Doing it again changes nothing.
///
/// # Errors
/// Any database error.
pub async fn add(
    tx: &mut PgTransaction<'_>,
    entries: &[Entry],
    at: Timestamp,
) -> Result<(), StoreError> {
    let sql =
        "insert into quarantine (stream, seq, reason, detail, at_ms) values ($1, $2, $3, $4, $5)
               on conflict do nothing";
    for entry in entries {
        sqlx::query(sql)
            .bind(entry.stream)
            .bind(big(entry.seq)?)
            .bind(entry.reason)
            .bind(&entry.detail)
            .bind(at.0)
            .execute(&mut **tx)
            .await?;
        tracing::error!(
            stream = entry.stream,
            stream.seq = entry.seq,
            reason = entry.reason,
            detail = entry.detail,
            "Quarantined a message"
        );
        metrics::counter!("billing_quarantined_total", "reason" => entry.reason).increment(1);
    }
    Ok(())
}

/// How many messages are set aside.
///
/// # Errors
/// Any database error.
pub async fn count(pool: &PgPool) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("select count(*) from quarantine").fetch_one(pool).await?)
}
