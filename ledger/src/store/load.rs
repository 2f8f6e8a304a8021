//! Reads a shard's state back.

use futures::TryStreamExt;
use ledger_core::{KeyRow, Row, ShardState, Use, UseKey};
use schemas::{Hour, KeyId, KeyState, Period, Scope, Shard, Timestamp};
use sqlx::{PgConnection, PgPool, Row as _};

use super::{StoreError, big, unsigned};

/// How long after its end a period's counters are still held in memory. Unit: milliseconds; 40 days, as `LOG` keeps.
const PERIODS_KEPT_MS: i64 = 40 * 24 * 3_600_000;

/// The state at the shard's checkpoint, and up to which sequence its key states were published. A shard that has
/// none yet begins at nothing.
///
/// # Errors
/// A checkpoint of another `LOG`, a row that cannot be read, or PostgreSQL.
pub async fn load(
    pool: &PgPool,
    shard: Shard,
    log_created_ms: i64,
) -> Result<(ShardState, u64), StoreError> {
    let mut tx = pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *tx)
        .await?;
    let mut state = ShardState::new(shard);
    let found = sqlx::query("select * from checkpoint where shard = $1")
        .bind(i32::from(shard.0))
        .fetch_optional(&mut *tx)
        .await?;
    let Some(row) = found else { return Ok((state, 0)) };
    let created: i64 = row.get("log_created_ms");
    if created != log_created_ms {
        return Err(StoreError::OtherLog { checkpoint: created, found: log_created_ms });
    }
    state.seq = unsigned(row.get("seq"));
    state.ledger_seq = unsigned(row.get("ledger_seq"));
    state.control_seq = unsigned(row.get("control_seq"));
    state.at = Timestamp(row.get("at_ms"));
    state.closed_through = row.get::<Option<i64>, _>("closed_through").map(Hour);
    state.seals = unsigned(row.get("seals"));
    state.sealed_at = Timestamp(row.get("sealed_at_ms"));
    let published = unsigned(row.get("published_seq"));
    load_rows(&mut tx, &mut state).await?;
    load_keys(&mut tx, &mut state).await?;
    load_uses(&mut tx, &mut state).await?;
    tx.commit().await?;
    Ok((state, published))
}

async fn load_rows(tx: &mut PgConnection, state: &mut ShardState) -> Result<(), StoreError> {
    let mut rows =
        sqlx::query_scalar::<_, String>("select body::text from fold_state where shard = $1")
            .bind(i32::from(state.shard.0))
            .fetch(tx);
    while let Some(body) = rows.try_next().await? {
        state.restore(
            serde_json::from_str::<Row>(&body)
                .map_err(|error| StoreError::Row(error.to_string()))?,
        );
    }
    Ok(())
}

async fn load_keys(tx: &mut PgConnection, state: &mut ShardState) -> Result<(), StoreError> {
    let mut rows = sqlx::query_as::<_, (String, String)>(
        "select key_id, body::text from key_state where shard = $1",
    )
    .bind(i32::from(state.shard.0))
    .fetch(tx);
    while let Some((key, body)) = rows.try_next().await? {
        let key: KeyId = parse(&key)?;
        let row: KeyRow =
            serde_json::from_str(&body).map_err(|error| StoreError::Row(error.to_string()))?;
        state.restore_key(key, row);
    }
    Ok(())
}

async fn load_uses(tx: &mut PgConnection, state: &mut ShardState) -> Result<(), StoreError> {
    const USES: &str =
        "select scope, meter, rule, period_from, period_to, consumed, outstanding from meter_use
        where shard = $1 and (period_to > $2 or outstanding <> 0)";
    let mut rows = sqlx::query_as::<_, (String, String, String, i64, i64, i64, i64)>(USES)
        .bind(i32::from(state.shard.0))
        .bind(state.at.0.saturating_sub(PERIODS_KEPT_MS))
        .fetch(tx);
    while let Some((scope, meter, rule, from, to, consumed, outstanding)) = rows.try_next().await? {
        let period = Period { from: Timestamp(from), to: Timestamp(to) };
        let key =
            UseKey { scope: scope_of(&scope)?, meter: parse(&meter)?, rule: parse(&rule)?, period };
        state.restore_use(
            key,
            Use { consumed: unsigned(consumed), outstanding: unsigned(outstanding) },
        );
    }
    Ok(())
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: T::Err| StoreError::Row(format!("{text}: {error}")))
}

fn scope_of(text: &str) -> Result<Scope, StoreError> {
    match text.split('_').next() {
        Some("tnt") => Ok(Scope::Tenant(parse(text)?)),
        Some("prj") => Ok(Scope::Project(parse(text)?)),
        _ => Ok(Scope::Key(parse(text)?)),
    }
}

/// The key states that changed after `published`: a process that died between its commit and the bucket left them.
///
/// # Errors
/// PostgreSQL.
pub async fn unpublished_keys(
    pool: &PgPool,
    state: &ShardState,
    published: u64,
) -> Result<Vec<KeyState>, StoreError> {
    let keys: Vec<String> =
        sqlx::query_scalar("select key_id from key_state where shard = $1 and as_of > $2")
            .bind(i32::from(state.shard.0))
            .bind(big(published))
            .fetch_all(pool)
            .await?;
    let mut views = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some((row, view)) = state.key(parse(&key)?) {
            views.extend(row.views_of_former(&view));
            views.push(view);
        }
    }
    Ok(views)
}
