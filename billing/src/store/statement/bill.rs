//! Bills as they were computed: frozen with the lines they hold, then published, then collected.
//!
//! Invariant: a line is in one bill at most, and in it for ever; a bill's text never changes.

use std::collections::{HashMap, HashSet};

use billing_core::{invoice::Bill, money::Minor};
use schemas::{Quantity, TenantId, Timestamp};
use sqlx::{FromRow, PgPool, PgTransaction};

use super::{Key, columns, usage::Used};
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

/// A bill with the lines that are new in it.
#[derive(Debug)]
pub struct Freezing<'a> {
    pub key: &'a Key,
    pub new: New,
    pub lines: Vec<&'a Used>,
    /// The invoice that closes the period.
    pub invoice: Option<String>,
}

/// Freezes bills with the lines that are new in each, and moves their statements on; all of them or none.
///
/// Gives how many: a revision that is there already is left as it is, and nothing of it is written.
///
/// # Errors
/// Any database error.
pub async fn freeze(
    pool: &PgPool,
    all: &[Freezing<'_>],
    now: Timestamp,
) -> Result<usize, StoreError> {
    let mut tx = pool.begin().await?;
    let moved = move_on(&mut tx, all).await?;
    let moved: Vec<&Freezing<'_>> = all.iter().filter(|one| moved.contains(one.key)).collect();
    insert(&mut tx, &moved, now).await?;
    claim(&mut tx, &moved).await?;
    tx.commit().await?;
    Ok(moved.len())
}

/// Moves statements on to the next revision; gives those that stood at the one before.
async fn move_on(
    tx: &mut PgTransaction<'_>,
    all: &[Freezing<'_>],
) -> Result<HashSet<Key>, StoreError> {
    let sql = "update statement s set revision = new.revision, invoice = coalesce(s.invoice, new.invoice), verdict = 'open',
                   state = case when s.state = 'due' then 'closing' else s.state end
               from unnest($1::text[], $2::text[], $3::bigint[], $4::integer[], $5::text[])
                    as new (tenant_id, subscription, from_ms, revision, invoice)
               where s.tenant_id = new.tenant_id and s.subscription = new.subscription and s.from_ms = new.from_ms
                 and s.revision = new.revision - 1
               returning s.tenant_id, s.subscription, s.from_ms";
    let (tenants, subscriptions, from) = columns(all.iter().map(|one| one.key));
    let moved: Vec<(String, String, i64)> = sqlx::query_as(sql)
        .bind(tenants)
        .bind(subscriptions)
        .bind(from)
        .bind(revisions(all.iter())?)
        .bind(all.iter().map(|one| one.invoice.clone()).collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
    let keys = moved.into_iter().map(|(tenant, subscription, from)| {
        let tenant = tenant.parse().map_err(|e| corrupt("statement", "tenant_id", e))?;
        Ok(Key { tenant, subscription, from: Timestamp(from) })
    });
    keys.collect()
}

fn revisions<'a>(all: impl Iterator<Item = &'a Freezing<'a>>) -> Result<Vec<i32>, StoreError> {
    let small = |new: &New| {
        i32::try_from(new.revision).map_err(|_| StoreError::TooLarge(new.revision.into()))
    };
    all.map(|one| small(&one.new)).collect()
}

async fn insert(
    tx: &mut PgTransaction<'_>,
    all: &[&Freezing<'_>],
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "insert into bill (tenant_id, subscription, from_ms, revision, bill, digest, total_minor, difference_minor,
                   units, made_at_ms, collection)
               select tenant_id, subscription, from_ms, revision, bill, digest, total, difference, units, $11, collection
               from unnest($1::text[], $2::text[], $3::bigint[], $4::integer[], $5::text[], $6::text[], $7::bigint[],
                           $8::bigint[], $9::bigint[], $10::text[])
                    as new (tenant_id, subscription, from_ms, revision, bill, digest, total, difference, units, collection)";
    let (tenants, subscriptions, from) = columns(all.iter().map(|one| one.key));
    let units = all.iter().map(|one| big(one.new.units.0)).collect::<Result<Vec<_>, _>>()?;
    let collection = |new: &New| {
        let pending = new.collect && new.difference != Minor::ZERO;
        if pending { Collection::Pending } else { Collection::None }.word().to_owned()
    };
    sqlx::query(sql)
        .bind(tenants)
        .bind(subscriptions)
        .bind(from)
        .bind(revisions(all.iter().copied())?)
        .bind(all.iter().map(|one| one.new.text.clone()).collect::<Vec<_>>())
        .bind(all.iter().map(|one| one.new.digest.clone()).collect::<Vec<_>>())
        .bind(all.iter().map(|one| one.new.total.units()).collect::<Vec<_>>())
        .bind(all.iter().map(|one| one.new.difference.units()).collect::<Vec<_>>())
        .bind(units)
        .bind(all.iter().map(|one| collection(&one.new)).collect::<Vec<_>>())
        .bind(now.0)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Gives lines to their bills; refuses when one of them is in a bill already.
async fn claim(tx: &mut PgTransaction<'_>, all: &[&Freezing<'_>]) -> Result<(), StoreError> {
    let sql = "update meter_report r set billed_subscription = line.subscription, billed_revision = line.billed
               from unnest($1::text[], $2::text[], $3::integer[], $4::text[], $5::bigint[], $6::integer[], $7::bigint[])
                    as line (tenant_id, subscription, billed, meter, hour, segment, revision)
               where r.tenant_id = line.tenant_id and r.meter = line.meter and r.hour = line.hour
                 and r.segment = line.segment and r.revision = line.revision and r.billed_revision is null";
    let lines: Vec<(&Freezing<'_>, &Used)> =
        all.iter().flat_map(|one| one.lines.iter().map(|line| (*one, *line))).collect();
    let claimed = sqlx::query(sql)
        .bind(lines.iter().map(|(one, _)| one.key.tenant.to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|(one, _)| one.key.subscription.clone()).collect::<Vec<_>>())
        .bind(revisions(lines.iter().map(|(one, _)| *one))?)
        .bind(lines.iter().map(|(_, line)| line.meter.to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.hour).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.segment).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.revision).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    if usize::try_from(claimed.rows_affected()) != Ok(lines.len()) {
        return Err(corrupt("meter_report", "billed_revision", "a line is in another bill"));
    }
    Ok(())
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
pub(in crate::store) struct BillRow {
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

/// Rows of the table, read.
pub(in crate::store) fn read(rows: Vec<BillRow>) -> Result<Vec<Stored>, StoreError> {
    rows.into_iter().map(Stored::try_from).collect()
}

/// All bills of a statement, in order.
///
/// # Errors
/// Any database error.
pub async fn all(pool: &PgPool, key: &Key) -> Result<Vec<Stored>, StoreError> {
    Ok(all_of(pool, &[key]).await?.remove(key).unwrap_or_default())
}

/// All bills of many statements, in order, in one round trip.
///
/// # Errors
/// Any database error.
pub async fn all_of(pool: &PgPool, keys: &[&Key]) -> Result<HashMap<Key, Vec<Stored>>, StoreError> {
    let sql = "select b.* from bill b
               join unnest($1::text[], $2::text[], $3::bigint[]) as of (tenant_id, subscription, from_ms)
                    using (tenant_id, subscription, from_ms)
               order by b.revision";
    let (tenants, subscriptions, from) = columns(keys.iter().copied());
    let rows: Vec<BillRow> =
        sqlx::query_as(sql).bind(tenants).bind(subscriptions).bind(from).fetch_all(pool).await?;
    let mut bills: HashMap<Key, Vec<Stored>> = HashMap::new();
    for row in rows {
        let stored = Stored::try_from(row)?;
        bills.entry(stored.key.clone()).or_default().push(stored);
    }
    Ok(bills)
}

/// Bills whose fact is not known to be on CONTROL, at most `max`.
///
/// # Errors
/// Any database error.
pub async fn unpublished(pool: &PgPool, max: i64) -> Result<Vec<Stored>, StoreError> {
    let sql =
        "select * from bill where not published order by made_at_ms, from_ms, revision limit $1";
    let rows: Vec<BillRow> = sqlx::query_as(sql).bind(max).fetch_all(pool).await?;
    read(rows)
}

/// Corrections that are published and not at the provider yet, at most `max`.
///
/// # Errors
/// Any database error.
pub async fn uncollected(pool: &PgPool, max: i64) -> Result<Vec<Stored>, StoreError> {
    let sql = "select * from bill where collection in ('pending', 'sent') and published order by made_at_ms, revision limit $1";
    let rows: Vec<BillRow> = sqlx::query_as(sql).bind(max).fetch_all(pool).await?;
    read(rows)
}

/// Marks bills' facts as published, and their statements as closed; all of them or none.
///
/// # Errors
/// Any database error.
pub async fn mark_published(
    pool: &PgPool,
    bills: &[&Stored],
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "with marked as (
                   update bill b set published = true
                   from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
                        as there (tenant_id, subscription, from_ms, revision)
                   where b.tenant_id = there.tenant_id and b.subscription = there.subscription
                     and b.from_ms = there.from_ms and b.revision = there.revision
                   returning b.tenant_id, b.subscription, b.from_ms)
               update statement s set state = 'closed', closed_at_ms = coalesce(s.closed_at_ms, $5)
               from marked where s.tenant_id = marked.tenant_id and s.subscription = marked.subscription
                 and s.from_ms = marked.from_ms and s.state = 'closing'";
    let (tenants, subscriptions, from) = columns(bills.iter().map(|bill| &bill.key));
    sqlx::query(sql)
        .bind(tenants)
        .bind(subscriptions)
        .bind(from)
        .bind(bills.iter().map(|bill| i64::from(bill.revision)).collect::<Vec<_>>())
        .bind(now.0)
        .execute(pool)
        .await?;
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
