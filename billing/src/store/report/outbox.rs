//! The outbox: which reports are due, and every step of one of them, guarded against a second sender.
//!
//! Each step says which state it found; if the row has moved since, nothing is written and the sender lets go.

use billing_core::report::{Books, Progress, Row, State};
use schemas::{Quantity, Timestamp};
use sqlx::PgPool;

use super::{Report, ReportRow, word};
use crate::store::{StoreError, big, corrupt};

/// A customer and a meter: of one lane, one report at most is on its way.
pub type Lane = (String, String);

/// The first unsettled report of each lane that is not `busy`, of those that are due, at most `max`.
///
/// A report that has left before comes before those that have not, so a lane has one in doubt at most. Costs a look
/// into the index for each lane, however long the lanes are.
///
/// # Errors
/// Any database error.
pub async fn due(
    pool: &PgPool,
    busy: &[Lane],
    now: Timestamp,
    max: usize,
) -> Result<Vec<Report>, StoreError> {
    let sql = "with recursive lane as (
                   (select customer, meter from meter_report
                    where state in ('pending', 'sent', 'ambiguous') and customer is not null
                    order by customer, meter limit 1)
                   union all
                   select following.customer, following.meter from lane cross join lateral (
                       select customer, meter from meter_report
                       where state in ('pending', 'sent', 'ambiguous') and customer is not null
                         and (customer, meter) > (lane.customer, lane.meter)
                       order by customer, meter limit 1) following
               )
               select head.* from lane cross join lateral (
                   select * from meter_report
                   where state in ('pending', 'sent', 'ambiguous') and customer is not null
                     and customer = lane.customer and meter = lane.meter
                   order by (state = 'pending'), hour, segment, revision limit 1) head
               where head.due_at_ms <= $1
                 and not exists (select from unnest($2::text[], $3::text[]) as busy (customer, meter)
                                 where busy.customer = lane.customer and busy.meter = lane.meter)
               order by head.due_at_ms limit $4";
    let rows: Vec<ReportRow> = sqlx::query_as(sql)
        .bind(now.0)
        .bind(busy.iter().map(|(customer, _)| customer.clone()).collect::<Vec<_>>())
        .bind(busy.iter().map(|(_, meter)| meter.clone()).collect::<Vec<_>>())
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(Report::try_from).collect()
}

/// The first unsettled report of one lane, if it is due.
///
/// # Errors
/// Any database error.
pub async fn head(
    pool: &PgPool,
    lane: &Lane,
    now: Timestamp,
) -> Result<Option<Report>, StoreError> {
    let sql = "select * from (
                   select * from meter_report
                   where state in ('pending', 'sent', 'ambiguous') and customer is not null
                     and customer = $2 and meter = $3
                   order by (state = 'pending'), hour, segment, revision limit 1) head
               where due_at_ms <= $1";
    let row: Option<ReportRow> =
        sqlx::query_as(sql).bind(now.0).bind(&lane.0).bind(&lane.1).fetch_optional(pool).await?;
    row.map(Report::try_from).transpose()
}

/// Moves a report on; `false` = it is no longer where `from` says, and nothing was written. `said` = the provider's
/// words, `None` = leave what stands there.
///
/// # Errors
/// Any database error; the write may have happened.
pub async fn step(
    pool: &PgPool,
    row: &Row,
    from: &Progress,
    to: &Progress,
    said: Option<&str>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "update meter_report
               set state = $8, first_sent_at_ms = $9, last_sent_at_ms = $10, attempts = $11, server_errors = $12,
                   due_at_ms = $13, said = coalesce($14, said), settled_at_ms = $15,
                   accepted_no = case when $8 = 'accepted' then nextval('report_accepted') else accepted_no end
               where tenant_id = $1 and meter = $2 and hour = $3 and segment = $4 and revision = $5
                 and state = $6 and attempts = $7";
    let done = sqlx::query(sql)
        .bind(row.tenant.to_string())
        .bind(row.meter.to_string())
        .bind(row.hour.0)
        .bind(i32::from(row.segment.index))
        .bind(big(row.revision)?)
        .bind(word(from.state))
        .bind(i64::from(from.attempts))
        .bind(word(to.state))
        .bind(to.first_sent_at.map(|at| at.0))
        .bind(to.last_sent_at.map(|at| at.0))
        .bind(i64::from(to.attempts))
        .bind(i64::from(to.server_errors))
        .bind(to.due_at.0)
        .bind(said)
        .bind(to.state.is_settled().then_some(now.0))
        .execute(pool)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Marks a report as refused that the provider had taken; `false` = there is no such report.
///
/// # Errors
/// Any database error.
pub async fn refuse_accepted(
    pool: &PgPool,
    identifier: &str,
    code: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let sql = "update meter_report set state = 'rejected', said = 'refused later: ' || $2, settled_at_ms = $3
               where identifier = $1 and state = 'accepted'";
    let done = sqlx::query(sql).bind(identifier).bind(code).bind(now.0).execute(pool).await?;
    Ok(done.rows_affected() == 1)
}

/// Our side of the books of a report's hour, against what the provider told.
///
/// # Errors
/// Any database error.
pub async fn books(pool: &PgPool, row: &Row, told: Quantity) -> Result<Books, StoreError> {
    let sql = "select coalesce(sum(quantity) filter (where state = 'accepted'), 0)::bigint,
                      count(*) filter (where state in ('sent', 'ambiguous', 'disputed')
                                         and not (tenant_id = $4 and segment = $5 and revision = $6))
               from meter_report where customer = $1 and meter = $2 and hour = $3";
    let (accepted, others): (i64, i64) = sqlx::query_as(sql)
        .bind(&row.customer)
        .bind(row.meter.to_string())
        .bind(row.hour.0)
        .bind(row.tenant.to_string())
        .bind(i32::from(row.segment.index))
        .bind(big(row.revision)?)
        .fetch_one(pool)
        .await?;
    let accepted =
        u64::try_from(accepted).map_err(|error| corrupt("meter_report", "quantity", error))?;
    Ok(Books { accepted: Quantity(accepted), clouded: others > 0, told })
}

/// How many reports are unsettled and sealed before `since`, by state.
///
/// # Errors
/// Any database error.
pub async fn stuck(pool: &PgPool, since: Timestamp) -> Result<Vec<(State, i64)>, StoreError> {
    let sql = "select state, count(*) from meter_report
               where state in ('pending', 'sent', 'ambiguous') and customer is not null
                 and (hour + 1) * 3600000 < $1
               group by state";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql).bind(since.0).fetch_all(pool).await?;
    let known = rows.into_iter().map(|(word, count)| {
        super::state(&word)
            .map(|state| (state, count))
            .ok_or_else(|| corrupt("meter_report", "state", word))
    });
    known.collect()
}
