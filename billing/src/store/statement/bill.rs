//! Bills as they were computed: frozen with the lines they hold, then published, then collected.
//!
//! Invariant: a line is in one bill at most, and in it for ever; a bill's text never changes.

use billing_core::{invoice::Bill, money::Minor};
use schemas::{Quantity, TenantId, Timestamp};
use sqlx::{FromRow, PgPool};

use super::{Key, usage::Used};
use crate::store::{StoreError, big, corrupt};

/// A bill that is to be frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    pub revision: u32,
    /// `Bill::canonical` as text; empty where nothing prices the period.
    pub text: String,
    pub digest: String,
    pub total: Minor,
    /// What it comes to beyond the revision before it.
    pub difference: Minor,
    pub units: Quantity,
    /// Whether the difference is to be collected or paid back by us, and not by the invoice itself.
    pub collect: bool,
}

/// Freezes a bill with the lines that are new in it, and moves its statement on; all or nothing.
///
/// `false` = this revision is there already, and nothing was written.
///
/// # Errors
/// Any database error.
pub async fn freeze(
    pool: &PgPool,
    key: &Key,
    new: &New,
    lines: &[&Used],
    invoice: Option<&str>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut tx = pool.begin().await?;
    let moved = "update statement set revision = $4, state = case when state = 'due' then 'closing' else state end,
                     invoice = coalesce(invoice, $5), verdict = 'open'
                 where tenant_id = $1 and subscription = $2 and from_ms = $3 and revision = $4 - 1";
    let revision =
        i32::try_from(new.revision).map_err(|_| StoreError::TooLarge(new.revision.into()))?;
    let moved = sqlx::query(moved)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .bind(revision)
        .bind(invoice)
        .execute(&mut *tx)
        .await?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    let sql = "insert into bill (tenant_id, subscription, from_ms, revision, bill, digest, total_minor, difference_minor,
                   units, made_at_ms, collection) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    sqlx::query(sql)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .bind(revision)
        .bind(&new.text)
        .bind(&new.digest)
        .bind(new.total.units())
        .bind(new.difference.units())
        .bind(big(new.units.0)?)
        .bind(now.0)
        .bind(if new.collect && new.difference != Minor::ZERO { "pending" } else { "none" })
        .execute(&mut *tx)
        .await?;
    let claim = "update meter_report r set billed_subscription = $2, billed_revision = $3
                 from unnest($4::text[], $5::bigint[], $6::integer[], $7::bigint[]) as line (meter, hour, segment, revision)
                 where r.tenant_id = $1 and r.meter = line.meter and r.hour = line.hour and r.segment = line.segment
                   and r.revision = line.revision and r.billed_revision is null";
    let claimed = sqlx::query(claim)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(revision)
        .bind(lines.iter().map(|line| line.meter.to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.hour).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.segment).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.revision).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    if usize::try_from(claimed.rows_affected()) != Ok(lines.len()) {
        return Err(corrupt("meter_report", "billed_revision", "a line is in another bill"));
    }
    tx.commit().await?;
    Ok(true)
}

/// What a bill is collected by, and how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// Nothing is to be collected, or the invoice itself asks for it.
    None,
    Pending,
    /// Written ahead: it is on its way, or the process died.
    Sent,
    /// The provider has it, on no final invoice yet.
    Issued,
    /// It is on a final invoice.
    Invoiced,
    /// It was given back.
    Credited,
    /// The provider refused it: a person must look.
    Refused,
}

impl Collection {
    /// The word in the table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Issued => "issued",
            Self::Invoiced => "invoiced",
            Self::Credited => "credited",
            Self::Refused => "refused",
        }
    }

    fn of(word: &str) -> Option<Self> {
        let all = [
            Self::None,
            Self::Pending,
            Self::Sent,
            Self::Issued,
            Self::Invoiced,
            Self::Credited,
            Self::Refused,
        ];
        all.into_iter().find(|one| one.word() == word)
    }
}

/// A bill as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: Key,
    pub revision: u32,
    pub text: String,
    pub digest: String,
    pub total: Minor,
    pub difference: Minor,
    pub units: Quantity,
    pub made_at: Timestamp,
    pub published: bool,
    pub collection: Collection,
    pub sent_at: Option<Timestamp>,
    pub provider_id: Option<String>,
}

impl Stored {
    /// The bill itself; `None` = nothing prices the period.
    ///
    /// # Errors
    /// A text that is no bill.
    pub fn bill(&self) -> Result<Option<Bill>, StoreError> {
        if self.text.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&self.text).map(Some).map_err(|error| corrupt("bill", "bill", error))
    }

    /// What its collection is known by at the provider, for ever.
    #[must_use]
    pub fn correction_key(&self) -> String {
        let Key { tenant, subscription, from } = &self.key;
        format!("tb1:correction:{tenant}:{subscription}:{}:{}", from.0, self.revision)
    }
}

#[derive(FromRow)]
struct BillRow {
    tenant_id: String,
    subscription: String,
    from_ms: i64,
    revision: i32,
    bill: String,
    digest: String,
    total_minor: i64,
    difference_minor: i64,
    units: i64,
    made_at_ms: i64,
    published: bool,
    collection: String,
    sent_at_ms: Option<i64>,
    provider_id: Option<String>,
}

impl TryFrom<BillRow> for Stored {
    type Error = StoreError;

    fn try_from(row: BillRow) -> Result<Self, StoreError> {
        let minor = |units: i64| {
            Minor::try_new(units).map_err(|error| corrupt("bill", "total_minor", error))
        };
        let tenant: TenantId =
            row.tenant_id.parse().map_err(|error| corrupt("bill", "tenant_id", error))?;
        let (subscription, from) = (row.subscription, Timestamp(row.from_ms));
        Ok(Self {
            key: Key { tenant, subscription, from },
            revision: u32::try_from(row.revision).map_err(|e| corrupt("bill", "revision", e))?,
            text: row.bill,
            digest: row.digest,
            total: minor(row.total_minor)?,
            difference: minor(row.difference_minor)?,
            units: Quantity(u64::try_from(row.units).map_err(|e| corrupt("bill", "units", e))?),
            made_at: Timestamp(row.made_at_ms),
            published: row.published,
            collection: Collection::of(&row.collection)
                .ok_or_else(|| corrupt("bill", "collection", &row.collection))?,
            sent_at: row.sent_at_ms.map(Timestamp),
            provider_id: row.provider_id,
        })
    }
}

/// All bills of a statement, in order.
///
/// # Errors
/// Any database error.
pub async fn all(pool: &PgPool, key: &Key) -> Result<Vec<Stored>, StoreError> {
    let sql = "select * from bill where tenant_id = $1 and subscription = $2 and from_ms = $3 order by revision";
    let rows: Vec<BillRow> = sqlx::query_as(sql)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(Stored::try_from).collect()
}

/// Bills whose fact is not known to be on CONTROL, at most `most`.
///
/// # Errors
/// Any database error.
pub async fn unpublished(pool: &PgPool, most: i64) -> Result<Vec<Stored>, StoreError> {
    let sql =
        "select * from bill where not published order by made_at_ms, from_ms, revision limit $1";
    let rows: Vec<BillRow> = sqlx::query_as(sql).bind(most).fetch_all(pool).await?;
    rows.into_iter().map(Stored::try_from).collect()
}

/// Corrections that are published and not at the provider yet, at most `most`.
///
/// # Errors
/// Any database error.
pub async fn uncollected(pool: &PgPool, most: i64) -> Result<Vec<Stored>, StoreError> {
    let sql = "select * from bill where collection in ('pending', 'sent') and published order by made_at_ms, revision limit $1";
    let rows: Vec<BillRow> = sqlx::query_as(sql).bind(most).fetch_all(pool).await?;
    rows.into_iter().map(Stored::try_from).collect()
}

/// Marks a bill's fact as published, and its statement as closed.
///
/// # Errors
/// Any database error.
pub async fn mark_published(
    pool: &PgPool,
    bill: &Stored,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    let key = &bill.key;
    let sql = "update bill set published = true where tenant_id = $1 and subscription = $2 and from_ms = $3 and revision = $4";
    sqlx::query(sql)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .bind(i64::from(bill.revision))
        .execute(&mut *tx)
        .await?;
    let sql = "update statement set state = 'closed', closed_at_ms = coalesce(closed_at_ms, $4)
               where tenant_id = $1 and subscription = $2 and from_ms = $3 and state = 'closing'";
    sqlx::query(sql)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .bind(now.0)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

/// Moves a correction's collection on; `false` = it was not where `from` says.
///
/// # Errors
/// Any database error; the write may have happened.
pub async fn collect(
    pool: &PgPool,
    bill: &Stored,
    to: Collection,
    sent_at: Option<Timestamp>,
    provider_id: Option<&str>,
    said: &str,
) -> Result<bool, StoreError> {
    let sql = "update bill set collection = $6, sent_at_ms = coalesce(sent_at_ms, $7),
                   provider_id = coalesce($8, provider_id), said = $9
               where tenant_id = $1 and subscription = $2 and from_ms = $3 and revision = $4 and collection = $5";
    let key = &bill.key;
    let done = sqlx::query(sql)
        .bind(key.tenant.to_string())
        .bind(&key.subscription)
        .bind(key.from.0)
        .bind(i64::from(bill.revision))
        .bind(bill.collection.word())
        .bind(to.word())
        .bind(sent_at.map(|at| at.0))
        .bind(provider_id)
        .bind(said)
        .execute(pool)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Marks corrections as invoiced whose line is on a final invoice.
///
/// # Errors
/// Any database error.
pub async fn mark_invoiced(pool: &PgPool) -> Result<u64, StoreError> {
    let sql = "update bill b set collection = 'invoiced'
               where collection = 'issued' and exists (
                   select from invoice_line l
                   where l.correction = 'tb1:correction:' || b.tenant_id || ':' || b.subscription || ':' || b.from_ms || ':' || b.revision)";
    Ok(sqlx::query(sql).execute(pool).await?.rows_affected())
}
