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
    /// How often it was woken: who puts it off must not have missed a time.
    pub woken: i64,
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
    woken: i64,
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
            woken: row.woken,
        })
    }
}

/// Opens the statements of periods that have ended and moves their subscriptions on to the next; gives how many.
///
/// All of it or nothing; a subscription that has been moved on meanwhile is left out.
///
/// # Errors
/// Any database error.
pub async fn open(
    pool: &PgPool,
    ended: &[(&Subscribed, Period)],
    now: Timestamp,
) -> Result<u64, StoreError> {
    let sql = "with moved as (
                   update subscribed s set stated_to_ms = ended.to_ms, next_end_ms = ended.next_end_ms
                   from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
                        as ended (subscription, stated_to_ms, from_ms, to_ms, next_end_ms)
                   where s.subscription = ended.subscription and s.stated_to_ms = ended.stated_to_ms
                   returning s.tenant_id, s.subscription, ended.from_ms, ended.to_ms, s.customer, s.currency)
               insert into statement (tenant_id, subscription, from_ms, to_ms, customer, currency, due_at_ms)
               select tenant_id, subscription, from_ms, to_ms, customer, currency, $6 from moved
               on conflict do nothing";
    let done = sqlx::query(sql)
        .bind(ended.iter().map(|(of, _)| of.subscription.clone()).collect::<Vec<_>>())
        .bind(ended.iter().map(|(of, _)| of.stated_to.0).collect::<Vec<_>>())
        .bind(ended.iter().map(|(_, period)| period.from.0).collect::<Vec<_>>())
        .bind(ended.iter().map(|(_, period)| period.to.0).collect::<Vec<_>>())
        .bind(ended.iter().map(|(of, period)| next_end(of, period.to)).collect::<Vec<_>>())
        .bind(now.0)
        .execute(pool)
        .await?;
    Ok(done.rows_affected())
}

/// Statements that are not closed and are to be worked on by now, at most `max`.
///
/// # Errors
/// Any database error.
pub async fn due(pool: &PgPool, now: Timestamp, max: i64) -> Result<Vec<Frame>, StoreError> {
    let sql = "select * from statement where state <> 'closed' and due_at_ms <= $1 order by due_at_ms, from_ms limit $2";
    let rows: Vec<FrameRow> = sqlx::query_as(sql).bind(now.0).bind(max).fetch_all(pool).await?;
    rows.into_iter().map(Frame::try_from).collect()
}

/// Closed statements whose bill is newer than their tie-out, at most `max`: a process ended between the two.
///
/// # Errors
/// Any database error.
pub async fn untied(pool: &PgPool, max: i64) -> Result<Vec<Frame>, StoreError> {
    let sql = "select * from statement where state = 'closed' and verdict = 'open' order by from_ms limit $1";
    let rows: Vec<FrameRow> = sqlx::query_as(sql).bind(max).fetch_all(pool).await?;
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

/// Many statements' frames, in no order; those that are not there are left out.
///
/// # Errors
/// Any database error.
pub async fn frames(pool: &PgPool, keys: &[&Key]) -> Result<Vec<Frame>, StoreError> {
    let sql = "select s.* from statement s
               join unnest($1::text[], $2::text[], $3::bigint[]) as of (tenant_id, subscription, from_ms)
                    using (tenant_id, subscription, from_ms)";
    let (tenants, subscriptions, from) = columns(keys.iter().copied());
    let rows: Vec<FrameRow> =
        sqlx::query_as(sql).bind(tenants).bind(subscriptions).bind(from).fetch_all(pool).await?;
    rows.into_iter().map(Frame::try_from).collect()
}

/// Keys as the three columns that `unnest` takes.
fn columns<'a>(keys: impl Iterator<Item = &'a Key>) -> (Vec<String>, Vec<String>, Vec<i64>) {
    let rows = keys.map(|key| (key.tenant.to_string(), key.subscription.clone(), key.from.0));
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (tenant, subscription, from) in rows {
        columns.0.push(tenant);
        columns.1.push(subscription);
        columns.2.push(from);
    }
    columns
}

/// Wakes the statements of a subscription: there is an invoice to look at.
///
/// # Errors
/// Any database error.
pub async fn wake(pool: &PgPool, subscription: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql = "update statement set due_at_ms = least(due_at_ms, $2), woken = woken + 1
               where subscription = $1 and state <> 'closed'";
    sqlx::query(sql).bind(subscription).bind(now.0).execute(pool).await?;
    Ok(())
}

/// Puts statements off, each with its reason.
///
/// Those that were woken since their frames were read stay due: what they wait for may have come.
///
/// # Errors
/// Any database error.
pub async fn put_off(
    pool: &PgPool,
    waiting: &[(&Frame, &'static str)],
    until: Timestamp,
) -> Result<(), StoreError> {
    let sql = "update statement s set due_at_ms = $5, detail = waiting.why
               from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $6::bigint[])
                    as waiting (tenant_id, subscription, from_ms, why, woken)
               where s.tenant_id = waiting.tenant_id and s.subscription = waiting.subscription
                 and s.from_ms = waiting.from_ms and s.woken = waiting.woken and s.state <> 'closed'";
    let (tenants, subscriptions, from) = columns(waiting.iter().map(|(frame, _)| &frame.key));
    sqlx::query(sql)
        .bind(tenants)
        .bind(subscriptions)
        .bind(from)
        .bind(waiting.iter().map(|(_, why)| (*why).to_owned()).collect::<Vec<_>>())
        .bind(until.0)
        .bind(waiting.iter().map(|(frame, _)| frame.woken).collect::<Vec<_>>())
        .execute(pool)
        .await?;
    Ok(())
}

/// Closed statements with lines that no bill holds, all of them settled and the last for `quiet_ms`, at most `max`.
///
/// # Errors
/// Any database error.
pub async fn late(
    pool: &PgPool,
    now: Timestamp,
    quiet_ms: i64,
    max: i64,
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
        sqlx::query_as(sql).bind(now.0 - quiet_ms).bind(max).fetch_all(pool).await?;
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

/// Stores tie-outs.
///
/// # Errors
/// Any database error.
pub async fn set_tied(
    pool: &PgPool,
    all: &[(&Key, Numbers, Tied)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "update statement s set ledger_units = t.ledger, summary_units = t.summary, invoiced_units = t.invoiced,
                   carried_units = t.carried, expected_minor = t.expected, invoiced_minor = t.asked,
                   verdict = t.verdict, owner = t.owner, detail = t.detail, tied_at_ms = $13
               from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                           $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::text[])
                    as t (tenant_id, subscription, from_ms, ledger, summary, invoiced, carried, expected, asked, verdict,
                          owner, detail)
               where s.tenant_id = t.tenant_id and s.subscription = t.subscription and s.from_ms = t.from_ms";
    let units = |of: fn(&Numbers) -> Quantity| {
        all.iter().map(|(_, numbers, _)| big(of(numbers).0)).collect::<Result<Vec<_>, _>>()
    };
    let (tenants, subscriptions, from) = columns(all.iter().map(|(key, ..)| *key));
    sqlx::query(sql)
        .bind(tenants)
        .bind(subscriptions)
        .bind(from)
        .bind(units(|numbers| numbers.ledger)?)
        .bind(units(|numbers| numbers.summary)?)
        .bind(units(|numbers| numbers.invoiced)?)
        .bind(units(|numbers| numbers.carried)?)
        .bind(all.iter().map(|(_, numbers, _)| numbers.expected_minor).collect::<Vec<_>>())
        .bind(all.iter().map(|(_, numbers, _)| numbers.invoiced_minor).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., tied)| tied.verdict.word().to_owned()).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., tied)| tied.owner.word().to_owned()).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., tied)| detail(tied)).collect::<Vec<_>>())
        .bind(now.0)
        .execute(pool)
        .await?;
    Ok(())
}

fn detail(tied: &Tied) -> String {
    if tied.differences.is_empty() {
        return String::new();
    }
    serde_json::to_string(&tied.differences).expect("differences have text keys and no floats")
}
