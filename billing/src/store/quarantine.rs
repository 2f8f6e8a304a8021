//! What could not be worked on, with the reason, and what was decided of it; the message itself stays in its stream.

use schemas::Timestamp;
use sqlx::{FromRow, PgPool, PgTransaction};

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

/// Sets messages aside, in the transaction that moves the checkpoint past them.
///
/// One that is here already was read again in vain: its reason is what holds now, and it is counted. What a person
/// discarded stays so.
///
/// # Errors
/// Any database error.
pub async fn add(
    tx: &mut PgTransaction<'_>,
    entries: &[Entry],
    at: Timestamp,
) -> Result<(), StoreError> {
    let sql = "insert into quarantine (stream, seq, reason, detail, at_ms) values ($1, $2, $3, $4, $5)
               on conflict (stream, seq) do update set reason = $3, detail = $4, tries = quarantine.tries + 1,
                   resolution = nullif(quarantine.resolution, 'replayed'),
                   resolved_at_ms = case when quarantine.resolution = 'discarded' then quarantine.resolved_at_ms end";
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

/// How many messages wait for a person.
///
/// # Errors
/// Any database error.
pub async fn count(pool: &PgPool) -> Result<i64, StoreError> {
    let sql = "select count(*) from quarantine where resolution is null";
    Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
}

/// One message as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Kept {
    pub stream: String,
    pub seq: i64,
    pub reason: String,
    pub detail: String,
    /// When it was set aside first. Unit: milliseconds since 1970.
    pub at_ms: i64,
    /// How often it was read again in vain.
    pub tries: i32,
    /// `replayed`, `discarded`; `None` = it waits for a person.
    pub resolution: Option<String>,
    pub why: String,
}

/// What waits for a person, the oldest first; with `resolved`, also what does not any more.
///
/// # Errors
/// Any database error.
pub async fn kept(pool: &PgPool, resolved: bool) -> Result<Vec<Kept>, StoreError> {
    let sql = "select * from quarantine where $1 or resolution is null order by at_ms, stream, seq";
    Ok(sqlx::query_as(sql).bind(resolved).fetch_all(pool).await?)
}

/// One of them.
///
/// # Errors
/// Any database error.
pub async fn at(pool: &PgPool, stream: &str, seq: u64) -> Result<Option<Kept>, StoreError> {
    let sql = "select * from quarantine where stream = $1 and seq = $2";
    Ok(sqlx::query_as(sql).bind(stream).bind(big(seq)?).fetch_optional(pool).await?)
}

/// What a person decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    Replayed,
    Discarded { why: String },
}

/// Keeps what was decided; `false` = it was decided before, or it was set aside again since it was looked at.
///
/// # Errors
/// Any database error.
pub async fn resolve(
    pool: &PgPool,
    kept: &Kept,
    resolution: &Resolution,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let (word, why) = match resolution {
        Resolution::Replayed => ("replayed", ""),
        Resolution::Discarded { why } => ("discarded", why.as_str()),
    };
    let sql = "update quarantine set resolution = $4, why = $5, resolved_at_ms = $6
               where stream = $1 and seq = $2 and tries = $3 and resolution is null";
    let done = sqlx::query(sql)
        .bind(&kept.stream)
        .bind(kept.seq)
        .bind(kept.tries)
        .bind(word)
        .bind(why)
        .bind(at.0)
        .execute(pool)
        .await?;
    Ok(done.rows_affected() == 1)
}
