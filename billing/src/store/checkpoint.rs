//! How far each fold has come.

use sqlx::{PgPool, PgTransaction};

use super::{StoreError, big, corrupt};

/// A fold that keeps a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    Control,
    Log,
    Stripe,
}

impl Projection {
    fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Log => "log",
            Self::Stripe => "stripe",
        }
    }
}

/// The sequence that a fold has reached, and the birth of the stream it reads (once that is known).
///
/// # Errors
/// Any database error.
pub async fn read(pool: &PgPool, projection: Projection) -> Result<(u64, Option<i64>), StoreError> {
    let sql = "select seq, stream_born_ms from checkpoint where projection = $1";
    let (seq, born): (i64, Option<i64>) =
        sqlx::query_as(sql).bind(projection.name()).fetch_one(pool).await?;
    Ok((unsigned(seq)?, born))
}

/// Remembers which stream it is that a fold reads. Unit: milliseconds since 1970.
///
/// # Errors
/// Any database error.
pub async fn set_birth(
    pool: &PgPool,
    projection: Projection,
    born_ms: i64,
) -> Result<(), StoreError> {
    let sql = "update checkpoint set stream_born_ms = $2 where projection = $1";
    sqlx::query(sql).bind(projection.name()).bind(born_ms).execute(pool).await?;
    Ok(())
}

/// Locks a fold's checkpoint for the transaction and reads it: two folders of one stream take turns.
///
/// # Errors
/// Any database error.
pub async fn lock(tx: &mut PgTransaction<'_>, projection: Projection) -> Result<u64, StoreError> {
    let sql = "select seq from checkpoint where projection = $1 for update";
    unsigned(sqlx::query_scalar(sql).bind(projection.name()).fetch_one(&mut **tx).await?)
}

/// Holds a fold still for the transaction without moving it: what it has written stays true until the commit.
///
/// # Errors
/// Any database error.
pub async fn hold(tx: &mut PgTransaction<'_>, projection: Projection) -> Result<u64, StoreError> {
    let sql = "select seq from checkpoint where projection = $1 for share";
    unsigned(sqlx::query_scalar(sql).bind(projection.name()).fetch_one(&mut **tx).await?)
}

/// Moves a checkpoint that [`lock`] holds.
///
/// # Errors
/// Any database error.
pub async fn advance(
    tx: &mut PgTransaction<'_>,
    projection: Projection,
    seq: u64,
) -> Result<(), StoreError> {
    let sql = "update checkpoint set seq = $2 where projection = $1";
    sqlx::query(sql).bind(projection.name()).bind(big(seq)?).execute(&mut **tx).await?;
    Ok(())
}

fn unsigned(seq: i64) -> Result<u64, StoreError> {
    u64::try_from(seq).map_err(|_| corrupt("checkpoint", "seq", seq))
}
