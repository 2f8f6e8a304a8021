//! Sealed lines become rows: once each, whatever is replayed.

use billing_core::report::{Account, Row, Segment};
use schemas::{Hour, MeterName, Quantity, TenantId, Timestamp};
use sqlx::{PgTransaction, Postgres, QueryBuilder};

use crate::store::{StoreError, big, corrupt};

/// One sealed line as it is first written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub tenant: TenantId,
    pub meter: MeterName,
    pub hour: Hour,
    pub revision: u64,
    pub quantity: Quantity,
    /// Where it stands on LOG.
    pub log_seq: u64,
    pub billed: Billed,
}

/// To whom a line is billed, as far as is known when it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Billed {
    /// To this customer, whose subscription began then.
    To { customer: String, from: Option<Timestamp> },
    /// To the tenant's customer, once it has one.
    Later,
    /// To nobody, and why.
    Nobody(&'static str),
}

/// A line came again with another amount: the log or this table is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub tenant: String,
    pub meter: String,
    pub hour: i64,
    pub revision: i64,
    pub written: i64,
    pub came: i64,
}

/// How many rows go into one statement.
const CHUNK: usize = 1_000;

/// Writes lines that are not there yet and gives the first that is there with another amount.
///
/// # Errors
/// Any database error.
pub async fn insert(
    tx: &mut PgTransaction<'_>,
    account: &Account,
    lines: &[Sealed],
    at: Timestamp,
) -> Result<Option<Conflict>, StoreError> {
    for chunk in lines.chunks(CHUNK) {
        insert_chunk(tx, account, chunk, at).await?;
        if let Some(conflict) = find_conflict(tx, chunk).await? {
            return Ok(Some(conflict));
        }
    }
    Ok(None)
}

async fn insert_chunk(
    tx: &mut PgTransaction<'_>,
    account: &Account,
    lines: &[Sealed],
    at: Timestamp,
) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(lines.len());
    for line in lines {
        let (customer, from, state, said) = match &line.billed {
            Billed::To { customer, from } => (Some(customer.clone()), *from, "pending", ""),
            Billed::Later => (None, None, "pending", ""),
            Billed::Nobody(why) => (None, None, "not_reportable", *why),
        };
        let segment = Segment::first(line.hour, from);
        let row = frozen(line, segment, customer.clone().unwrap_or_default());
        let identifier = customer.is_some().then(|| row.identifier(account));
        rows.push((
            row,
            big(line.revision)?,
            big(line.quantity.0)?,
            big(line.log_seq)?,
            customer,
            identifier,
            state,
            said,
        ));
    }
    let mut sql = QueryBuilder::<Postgres>::new(
        "insert into meter_report (tenant_id, meter, hour, segment, revision, quantity, log_seq, event_s,
         customer, identifier, state, said, due_at_ms) ",
    );
    sql.push_values(
        rows,
        |mut to, (row, revision, quantity, log_seq, customer, identifier, state, said)| {
            to.push_bind(row.tenant.to_string())
                .push_bind(row.meter.to_string())
                .push_bind(row.hour.0)
                .push_bind(i32::from(row.segment.index))
                .push_bind(revision)
                .push_bind(quantity)
                .push_bind(log_seq)
                .push_bind(row.timestamp_s())
                .push_bind(customer)
                .push_bind(identifier)
                .push_bind(state)
                .push_bind(said)
                .push_bind(at.0);
        },
    );
    sql.push(" on conflict (tenant_id, meter, hour, segment, revision) do nothing");
    sql.build().execute(&mut **tx).await?;
    Ok(())
}

fn frozen(line: &Sealed, segment: Segment, customer: String) -> Row {
    Row {
        tenant: line.tenant,
        customer,
        meter: line.meter.clone(),
        hour: line.hour,
        segment,
        revision: line.revision,
        quantity: line.quantity,
    }
}

async fn find_conflict(
    tx: &mut PgTransaction<'_>,
    lines: &[Sealed],
) -> Result<Option<Conflict>, StoreError> {
    let sql = "select r.tenant_id, r.meter, r.hour, r.revision, r.quantity, line.quantity
               from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
                    as line (tenant_id, meter, hour, revision, quantity)
               join meter_report r using (tenant_id, meter, hour, revision)
               where r.segment = 0 and r.quantity <> line.quantity limit 1";
    let revisions = lines.iter().map(|line| big(line.revision)).collect::<Result<Vec<_>, _>>()?;
    let quantities =
        lines.iter().map(|line| big(line.quantity.0)).collect::<Result<Vec<_>, _>>()?;
    let found: Option<(String, String, i64, i64, i64, i64)> = sqlx::query_as(sql)
        .bind(lines.iter().map(|line| line.tenant.to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.meter.to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.hour.0).collect::<Vec<_>>())
        .bind(revisions)
        .bind(quantities)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(found.map(|(tenant, meter, hour, revision, written, came)| Conflict {
        tenant,
        meter,
        hour,
        revision,
        written,
        came,
    }))
}

/// Gives a tenant's lines that wait for a customer this one, and with it their dates and identifiers.
///
/// # Errors
/// Any database error.
pub async fn give_customer(
    tx: &mut PgTransaction<'_>,
    account: &Account,
    tenant: TenantId,
    customer: &str,
    from: Option<Timestamp>,
) -> Result<usize, StoreError> {
    let sql = "select meter, hour, revision from meter_report
               where tenant_id = $1 and segment = 0 and customer is null and state = 'pending'";
    let waiting: Vec<(String, i64, i64)> =
        sqlx::query_as(sql).bind(tenant.to_string()).fetch_all(&mut **tx).await?;
    for (meter, hour, revision) in &waiting {
        let row = Row {
            tenant,
            customer: customer.to_owned(),
            meter: meter.parse().map_err(|error| corrupt("meter_report", "meter", error))?,
            hour: Hour(*hour),
            segment: Segment::first(Hour(*hour), from),
            revision: u64::try_from(*revision)
                .map_err(|error| corrupt("meter_report", "revision", error))?,
            quantity: Quantity::ZERO, // No part of an identifier or a date.
        };
        let sql = "update meter_report set customer = $5, identifier = $6, event_s = $7
                   where tenant_id = $1 and meter = $2 and hour = $3 and segment = 0 and revision = $4
                     and customer is null";
        sqlx::query(sql)
            .bind(tenant.to_string())
            .bind(meter)
            .bind(hour)
            .bind(revision)
            .bind(customer)
            .bind(row.identifier(account))
            .bind(row.timestamp_s())
            .execute(&mut **tx)
            .await?;
    }
    Ok(waiting.len())
}

/// Marks a tenant's lines that wait for a customer as billed to nobody.
///
/// # Errors
/// Any database error.
pub async fn bill_nobody(
    tx: &mut PgTransaction<'_>,
    tenant: TenantId,
    why: &str,
) -> Result<(), StoreError> {
    let sql = "update meter_report set state = 'not_reportable', said = $2
               where tenant_id = $1 and customer is null and state = 'pending'";
    sqlx::query(sql).bind(tenant.to_string()).bind(why).execute(&mut **tx).await?;
    Ok(())
}
