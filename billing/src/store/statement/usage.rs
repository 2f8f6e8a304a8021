//! The sealed lines of a statement's period, in the order in which the provider took them.

use billing_core::invoice::UsageLine;
use schemas::{MeterName, Period, Quantity, TenantId, Timestamp};
use sqlx::{FromRow, PgPool};

use crate::store::{StoreError, corrupt, place};

/// One sealed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    pub meter: MeterName,
    pub hour: i64,
    pub segment: i32,
    pub revision: i64,
    pub quantity: Quantity,
    /// The moment that the provider counts it in.
    pub at: Timestamp,
    pub log_seq: u64,
    pub stands: Stands,
    /// The revision of the bill that holds it, if one does.
    pub billed: Option<u32>,
}

/// Where a line stands with the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It has not left.
    Waiting,
    /// It is on its way or in doubt: it may be on an invoice.
    InDoubt,
    Accepted,
    /// Never sent, too old: owed by another way.
    Carried,
    /// A person must decide.
    Stuck,
}

impl Used {
    /// As rating sees it.
    #[must_use]
    pub fn line(&self) -> UsageLine {
        UsageLine { meter: self.meter.clone(), at: self.at, quantity: self.quantity }
    }
}

#[derive(FromRow)]
struct UsedRow {
    meter: String,
    hour: i64,
    segment: i32,
    revision: i64,
    quantity: i64,
    event_s: i64,
    log_seq: i64,
    state: String,
    billed_revision: Option<i32>,
}

impl TryFrom<UsedRow> for Used {
    type Error = StoreError;

    fn try_from(row: UsedRow) -> Result<Self, StoreError> {
        let unsigned = |number: i64, column| {
            u64::try_from(number).map_err(|error| corrupt("meter_report", column, error))
        };
        let revision = row.billed_revision.map(u32::try_from).transpose();
        Ok(Self {
            meter: row.meter.parse().map_err(|error| corrupt("meter_report", "meter", error))?,
            hour: row.hour,
            segment: row.segment,
            revision: row.revision,
            quantity: Quantity(unsigned(row.quantity, "quantity")?),
            at: Timestamp(row.event_s.saturating_mul(1000)),
            log_seq: unsigned(row.log_seq, "log_seq")?,
            stands: match row.state.as_str() {
                "pending" => Stands::Waiting,
                "sent" | "ambiguous" => Stands::InDoubt,
                "accepted" => Stands::Accepted,
                "carried" => Stands::Carried,
                "rejected" | "disputed" => Stands::Stuck,
                other => return Err(corrupt("meter_report", "state", other)),
            },
            billed: revision.map_err(|error| corrupt("meter_report", "billed_revision", error))?,
        })
    }
}

/// All lines of a tenant's period that the provider is told of: first what it took, in that order.
///
/// # Errors
/// Any database error.
pub async fn of_period(
    pool: &PgPool,
    tenant: TenantId,
    period: Period,
) -> Result<Vec<Used>, StoreError> {
    Ok(of_periods(pool, &[(tenant, period)]).await?.pop().unwrap_or_default())
}

#[derive(FromRow)]
struct PlacedRow {
    place: i64,
    #[sqlx(flatten)]
    used: UsedRow,
}

/// The same of many tenants' periods, in one round trip: a list for each, in the order in which they were asked for.
///
/// # Errors
/// Any database error.
pub async fn of_periods(
    pool: &PgPool,
    of: &[(TenantId, Period)],
) -> Result<Vec<Vec<Used>>, StoreError> {
    let sql = "select place, meter, hour, segment, revision, quantity, event_s, log_seq, state, billed_revision
               from unnest($1::text[], $2::bigint[], $3::bigint[]) with ordinality
                    as asked (tenant_id, from_s, to_s, place)
               join meter_report r on r.tenant_id = asked.tenant_id
                    and r.event_s >= asked.from_s and r.event_s < asked.to_s
               where state <> 'not_reportable'
               order by place, accepted_no nulls last, hour, meter, segment, revision";
    let seconds = |at: Timestamp| at.0.div_euclid(1000) + i64::from(at.0.rem_euclid(1000) > 0);
    let rows: Vec<PlacedRow> = sqlx::query_as(sql)
        .bind(of.iter().map(|(tenant, _)| tenant.to_string()).collect::<Vec<_>>())
        .bind(of.iter().map(|(_, period)| period.from.0.div_euclid(1000)).collect::<Vec<_>>())
        .bind(of.iter().map(|(_, period)| seconds(period.to)).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    let mut lists = vec![Vec::new(); of.len()];
    for row in rows {
        lists[place(row.place)?].push(Used::try_from(row.used)?);
    }
    Ok(lists)
}
