//! Statements: one period of one subscription each; due when it has ended, closed once and for ever.

pub mod bill;
pub mod look;
pub mod usage;

use billing_core::tie::Tied;
use schemas::{Period, Quantity, TenantId, Timestamp};
use sqlx::{FromRow, PgPool};

use super::{
    StoreError, big, corrupt,
    subscribed::{Subscribed, next_end},
};

/// What names a statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub tenant: TenantId,
    pub subscription: String,
    pub from: Timestamp,
}

/// Where a statement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its period has ended.
    Due,
    /// Its bill is frozen, its fact is perhaps not published.
    Closing,
    /// It never changes any more.
    Closed,
}

/// A statement's frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub key: Key,
    pub to: Timestamp,
    pub customer: String,
    pub currency: String,
    pub state: State,
    /// The latest revision of its bill; `None` = it has none yet.
    pub revision: Option<u32>,
    pub invoice: Option<String>,
}

impl Frame {
    /// The period that it is of.
    #[must_use]
    pub fn period(&self) -> Period {
        Period { from: self.key.from, to: self.to }
    }
}

#[derive(FromRow)]
struct FrameRow {
    tenant_id: String,
    subscription: String,
    from_ms: i64,
    to_ms: i64,
    customer: String,
    currency: String,
    state: String,
    revision: i32,
    invoice: Option<String>,
}

impl TryFrom<FrameRow> for Frame {
    type Error = StoreError;

    fn try_from(row: FrameRow) -> Result<Self, StoreError> {
        Ok(Self {
            key: Key {
                tenant: row.tenant_id.parse().map_err(|e| corrupt("statement", "tenant_id", e))?,
                subscription: row.subscription,
                from: Timestamp(row.from_ms),
            },
            to: Timestamp(row.to_ms),
            customer: row.customer,
            currency: row.currency,
            state: match row.state.as_str() {
                "due" => State::Due,
                "closing" => State::Closing,
                "closed" => State::Closed,
                other => return Err(corrupt("statement", "state", other)),
            },
            revision: u32::try_from(row.revision).ok(),
            invoice: row.invoice,
        })
    }
}

/// Opens the statement of a period that has ended and moves its subscription on to the next; both or neither.
///
/// # Errors
/// Any database error.
pub async fn open(
    pool: &PgPool,
    of: &Subscribed,
    period: Period,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    let moved = "update subscribed set stated_to_ms = $3, next_end_ms = $4
                 where subscription = $1 and stated_to_ms = $2";
    let moved = sqlx::query(moved)
        .bind(&of.subscription)
        .bind(of.stated_to.0)
        .bind(period.to.0)
        .bind(next_end(of, period.to))
        .execute(&mut *tx)
        .await?;
    if moved.rows_affected() == 1 {
        let sql = "insert into statement (tenant_id, subscription, from_ms, to_ms, customer, currency, due_at_ms)
                   values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing";
        sqlx::query(sql)
            .bind(of.tenant.to_string())
            .bind(&of.subscription)
            .bind(period.from.0)
            .bind(period.to.0)
            .bind(&of.customer)
            .bind(&of.currency)
            .bind(now.0)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Statements that are not closed and are to be worked on by now, at most `most`.
///
/// # Errors
/// Any database error.
pub async fn due(pool: &PgPool, now: Timestamp, most: i64) -> Result<Vec<Frame>, StoreError> {
    let sql = "select * from statement where state <> 'closed' and due_at_ms <= $1 order by due_at_ms, from_ms limit $2";
    let rows: Vec<FrameRow> = sqlx::query_as(sql).bind(now.0).bind(most).fetch_all(pool).await?;
    rows.into_iter().map(Frame::try_from).collect()
}

/// Closed statements whose bill is newer than their tie-out, at most `most`: a process ended between the two.
///
/// # Errors
/// Any database error.
pub async fn untied(pool: &PgPool, most: i64) -> Result<Vec<Frame>, StoreError> {
    let sql = "select * from statement where state = 'closed' and verdict = 'open' order by from_ms limit $1";
    let rows: Vec<FrameRow> = sqlx::query_as(sql).bind(most).fetch_all(pool).await?;
    rows.into_iter().map(Frame::try_from).collect()
}

/// One statement's frame.
///
/// # Errors
/// Any database error; also when there is no such statement.
pub async fn frame(pool: &PgPool, key: &Key) -> Result<Frame, StoreError> {
    let sql = "select * from statement where tenant_id = $1 and subscription = $2 and from_ms = $3";
    let row: FrameRow = sqlx::query_as(sql)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .fetch_one(pool)
        .await?;
    row.try_into()
}

/// Wakes the statements of a subscription: there is an invoice to look at.
///
/// # Errors
/// Any database error.
pub async fn wake(pool: &PgPool, subscription: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql = "update statement set due_at_ms = least(due_at_ms, $2) where subscription = $1 and state <> 'closed'";
    sqlx::query(sql).bind(subscription).bind(now.0).execute(pool).await?;
    Ok(())
}

/// Puts a statement off.
///
/// # Errors
/// Any database error.
pub async fn put_off(
    pool: &PgPool,
    key: &Key,
    until: Timestamp,
    why: &str,
) -> Result<(), StoreError> {
    let sql = "update statement set due_at_ms = $4, detail = $5
               where tenant_id = $1 and subscription = $2 and from_ms = $3 and state <> 'closed'";
    sqlx::query(sql)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .bind(until.0)
        .bind(why)
        .execute(pool)
        .await?;
    Ok(())
}

/// Closed statements with lines that no bill holds, all of them settled and the last for `quiet_ms`, at most `most`.
///
/// # Errors
/// Any database error.
pub async fn late(
    pool: &PgPool,
    now: Timestamp,
    quiet_ms: i64,
    most: i64,
) -> Result<Vec<Frame>, StoreError> {
    let sql = "select s.* from statement s
               join meter_report r on r.tenant_id = s.tenant_id
                    and r.event_s * 1000 >= s.from_ms and r.event_s * 1000 < s.to_ms
               where s.state = 'closed' and r.billed_revision is null and r.state <> 'not_reportable'
               group by s.tenant_id, s.subscription, s.from_ms
               having bool_and(r.state not in ('pending', 'sent', 'ambiguous'))
                  and max(r.settled_at_ms) <= $1 and bool_or(r.state in ('accepted', 'carried'))
               order by s.from_ms limit $2";
    let rows: Vec<FrameRow> =
        sqlx::query_as(sql).bind(now.0 - quiet_ms).bind(most).fetch_all(pool).await?;
    rows.into_iter().map(Frame::try_from).collect()
}

/// The numbers of a tie-out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub ledger: Quantity,
    pub summary: Quantity,
    pub invoiced: Quantity,
    pub carried: Quantity,
    pub expected_minor: i64,
    pub invoiced_minor: i64,
}

/// Stores a tie-out.
///
/// # Errors
/// Any database error.
pub async fn set_tied(
    pool: &PgPool,
    key: &Key,
    numbers: &Numbers,
    tied: &Tied,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "update statement set ledger_units = $4, summary_units = $5, invoiced_units = $6, carried_units = $7,
                   expected_minor = $8, invoiced_minor = $9, verdict = $10, owner = $11, detail = $12, tied_at_ms = $13
               where tenant_id = $1 and subscription = $2 and from_ms = $3";
    let detail = if tied.differences.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&tied.differences).expect("differences have text keys and no floats")
    };
    sqlx::query(sql)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .bind(big(numbers.ledger.0)?)
        .bind(big(numbers.summary.0)?)
        .bind(big(numbers.invoiced.0)?)
        .bind(big(numbers.carried.0)?)
        .bind(numbers.expected_minor)
        .bind(numbers.invoiced_minor)
        .bind(tied.verdict.word())
        .bind(tied.owner.word())
        .bind(detail)
        .bind(now.0)
        .execute(pool)
        .await?;
    Ok(())
}
