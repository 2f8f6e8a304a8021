//! What the provider holds of a period beside what it took from us.

use schemas::{MeterName, Period, Quantity, Timestamp};
use serde::Serialize;
use sqlx::{FromRow, PgPool};

use super::{StoreError, big, corrupt};

/// How long after the last report of a period its sums are compared: the provider's come late. Unit: milliseconds.
const QUIET_MS: i64 = 15 * 60_000;
/// How long after a period's end its sums may still change. Unit: milliseconds.
const CHANGES_FOR_MS: i64 = 35 * 24 * 3_600_000;

/// A period whose sums are to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub tenant_id: String,
    pub subscription: String,
    pub customer: String,
    pub period: Period,
    /// What the provider took of each meter.
    pub taken: Vec<(MeterName, Quantity)>,
}

#[derive(FromRow)]
struct DueRow {
    tenant_id: String,
    subscription: String,
    customer: String,
    from_ms: i64,
    to_ms: i64,
}

/// Running periods, and closed ones of the past 35 days, that nobody has compared since a moment; at most `max`.
///
/// Those with a report on its way, in doubt or just settled are left for later.
///
/// # Errors
/// Any database error.
pub async fn due(
    pool: &PgPool,
    since: Timestamp,
    now: Timestamp,
    max: i64,
) -> Result<Vec<Due>, StoreError> {
    let sql = "select * from (
                   select tenant_id, subscription, customer, stated_to_ms as from_ms, next_end_ms as to_ms from subscribed
                   where ended_at_ms is null and next_end_ms < 9223372036854775807
                   union all
                   select tenant_id, subscription, customer, from_ms, to_ms from statement
                   where state = 'closed' and to_ms > $3) period
               where not exists (select from drift d where d.subscription = period.subscription
                                   and d.from_ms = period.from_ms and d.compared_at_ms > $1)
                 and exists (select from meter_report r where r.tenant_id = period.tenant_id
                               and r.event_s >= period.from_ms / 1000 and r.event_s < period.to_ms / 1000
                               and r.state = 'accepted')
                 and not exists (select from meter_report r where r.tenant_id = period.tenant_id
                                   and r.event_s >= period.from_ms / 1000 and r.event_s < period.to_ms / 1000
                                   and (r.state in ('sent', 'ambiguous') or r.settled_at_ms > $2))
               order by from_ms, subscription limit $4";
    let rows: Vec<DueRow> = sqlx::query_as(sql)
        .bind(since.0)
        .bind(now.0 - QUIET_MS)
        .bind(now.0 - CHANGES_FOR_MS)
        .bind(max)
        .fetch_all(pool)
        .await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in rows {
        due.push(Due {
            taken: taken(pool, &row).await?,
            period: Period { from: Timestamp(row.from_ms), to: Timestamp(row.to_ms) },
            tenant_id: row.tenant_id,
            subscription: row.subscription,
            customer: row.customer,
        });
    }
    Ok(due)
}

async fn taken(pool: &PgPool, of: &DueRow) -> Result<Vec<(MeterName, Quantity)>, StoreError> {
    let sql = "select meter, coalesce(sum(quantity) filter (where state = 'accepted'), 0)::bigint from meter_report
               where tenant_id = $1 and event_s >= $2 and event_s < $3 and state <> 'not_reportable'
               group by meter";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql)
        .bind(&of.tenant_id)
        .bind(of.from_ms.div_euclid(1000))
        .bind(of.to_ms.div_euclid(1000))
        .fetch_all(pool)
        .await?;
    let sums = rows.into_iter().map(|(meter, units)| {
        let units = u64::try_from(units).map_err(|e| corrupt("meter_report", "quantity", e))?;
        let meter = meter.parse().map_err(|e| corrupt("meter_report", "meter", e))?;
        Ok((meter, Quantity(units)))
    });
    sums.collect()
}

/// Remembers what the provider told of one meter of a period.
///
/// # Errors
/// Any database error.
pub async fn remember(
    pool: &PgPool,
    of: &Due,
    (meter, taken): &(MeterName, Quantity),
    told: Quantity,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "insert into drift (tenant_id, subscription, meter, from_ms, to_ms, taken_units, told_units, since_ms,
                   compared_at_ms)
               values ($1, $2, $3, $4, $5, $6, $7, case when $6 <> $7 then $8::bigint end, $8)
               on conflict (subscription, meter, from_ms) do update set to_ms = $5, taken_units = $6, told_units = $7,
                   compared_at_ms = $8, since_ms = case when $6 <> $7 then coalesce(drift.since_ms, $8) end";
    sqlx::query(sql)
        .bind(&of.tenant_id)
        .bind(&of.subscription)
        .bind(meter.as_str())
        .bind(of.period.from.0)
        .bind(of.period.to.0)
        .bind(big(taken.0)?)
        .bind(big(told.0)?)
        .bind(now.0)
        .execute(pool)
        .await?;
    Ok(())
}

/// A period of which the provider holds something else than it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow)]
pub struct Apart {
    pub tenant_id: String,
    pub subscription: String,
    pub meter: String,
    /// Unit of all times: milliseconds since 1970.
    pub from_ms: i64,
    pub to_ms: i64,
    pub taken_units: i64,
    pub told_units: i64,
    pub since_ms: i64,
    pub compared_at_ms: i64,
}

/// Every period that differs, the oldest difference first, at most 1,000.
///
/// # Errors
/// Any database error.
pub async fn apart(pool: &PgPool) -> Result<Vec<Apart>, StoreError> {
    let sql = "select * from drift where since_ms is not null order by since_ms, subscription, meter limit 1000";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}
