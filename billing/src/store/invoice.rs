//! The provider's final invoices, line by line, as last read.

use billing_core::{
    money::Minor,
    tie::{Amount, Amounts, add},
};
use schemas::{AmountError, Period, Quantity, Timestamp};
use sqlx::{FromRow, PgPool};

use super::{StoreError, big, corrupt, place, price::stands_for};

/// A final invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    pub invoice: String,
    pub customer: String,
    pub subscription: Option<String>,
    /// `open`, `paid`, `void`, `uncollectible`.
    pub status: String,
    /// Why it was made: `subscription_cycle`, ...
    pub reason: String,
    pub currency: String,
    pub created_at: Timestamp,
    pub finalized_at: Timestamp,
    pub total: Minor,
    pub lines: Vec<Line>,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub line: String,
    pub subscription: Option<String>,
    pub price: Option<String>,
    /// What it is for.
    pub period: Period,
    pub quantity: Quantity,
    pub amount: Minor,
    /// The correction that it collects.
    pub correction: Option<String>,
}

/// Remembers an invoice: its status anew, its lines once.
///
/// # Errors
/// Any database error.
pub async fn remember(pool: &PgPool, invoice: &Invoice) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    let sql = "insert into invoice (invoice, customer, subscription, status, reason, currency, created_at_ms,
                   finalized_at_ms, total_minor) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
               on conflict (invoice) do update set status = $4";
    sqlx::query(sql)
        .bind(&invoice.invoice)
        .bind(&invoice.customer)
        .bind(&invoice.subscription)
        .bind(&invoice.status)
        .bind(&invoice.reason)
        .bind(&invoice.currency)
        .bind(invoice.created_at.0)
        .bind(invoice.finalized_at.0)
        .bind(invoice.total.units())
        .execute(&mut *tx)
        .await?;
    for line in &invoice.lines {
        let sql = "insert into invoice_line (invoice, line, subscription, price, from_ms, to_ms, quantity, amount_minor,
                       correction) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing";
        sqlx::query(sql)
            .bind(&invoice.invoice)
            .bind(&line.line)
            .bind(&line.subscription)
            .bind(&line.price)
            .bind(line.period.from.0)
            .bind(line.period.to.0)
            .bind(big(line.quantity.0)?)
            .bind(line.amount.units())
            .bind(&line.correction)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The invoices that close periods of subscriptions: of each the first final one that was made when it had ended.
///
/// Made within a day of the end, or else it is of a later period; one of a renewal goes before any other.
///
/// # Errors
/// Any database error.
pub async fn closing(
    pool: &PgPool,
    of: &[(&str, Period)],
) -> Result<Vec<Option<String>>, StoreError> {
    let sql = "select place, closing.invoice
               from unnest($1::text[], $2::bigint[]) with ordinality as asked (subscription, to_ms, place)
               cross join lateral (
                   select invoice from invoice i
                   where i.subscription = asked.subscription and i.created_at_ms >= asked.to_ms
                     and i.created_at_ms < asked.to_ms + 86400000 and i.reason <> 'subscription_create'
                   order by (i.reason <> 'subscription_cycle'), i.created_at_ms, i.invoice limit 1) closing";
    let rows: Vec<(i64, String)> = sqlx::query_as(sql)
        .bind(of.iter().map(|(subscription, _)| (*subscription).to_owned()).collect::<Vec<_>>())
        .bind(of.iter().map(|(_, period)| period.to.0).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    let mut found = vec![None; of.len()];
    for (ordinality, invoice) in rows {
        found[place(ordinality)?] = Some(invoice);
    }
    Ok(found)
}

/// What final invoices ask for a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// By plan and charge.
    pub amounts: Amounts,
    /// The units of metered lines, by the span of time that they count; in order.
    pub spans: Vec<(Period, Quantity)>,
}

impl Asked {
    /// All units of metered lines.
    ///
    /// # Errors
    /// Out of range.
    pub fn units(&self) -> Result<Quantity, AmountError> {
        self.spans.iter().try_fold(Quantity::ZERO, |sum, (_, units)| sum.checked_add(*units))
    }
}

/// What final invoices ask for periods of subscriptions, corrections left out; in the order in which they were asked for.
///
/// Each period is the whole cycle: what is given back of time after a subscription's end lies in it too.
///
/// # Errors
/// Any database error; a sum out of range.
pub async fn asked(pool: &PgPool, of: &[(&str, Period)]) -> Result<Vec<Asked>, StoreError> {
    let sql = "select place, plan, version, charge, coalesce(metered, false) as metered, l.from_ms, l.to_ms,
                   sum(quantity)::bigint as quantity, sum(amount_minor)::bigint as minor
               from unnest($1::text[], $2::bigint[], $3::bigint[]) with ordinality
                    as asked (subscription, from_ms, to_ms, place)
               join invoice_line l on l.subscription = asked.subscription
                    and l.from_ms >= asked.from_ms and l.from_ms < asked.to_ms
               left join price using (price)
               where l.to_ms > l.from_ms and l.correction is null
               group by place, plan, version, charge, metered, l.from_ms, l.to_ms
               order by place, l.from_ms, l.to_ms";
    let rows: Vec<AskedRow> = sqlx::query_as(sql)
        .bind(of.iter().map(|(subscription, _)| (*subscription).to_owned()).collect::<Vec<_>>())
        .bind(of.iter().map(|(_, period)| period.from.0).collect::<Vec<_>>())
        .bind(of.iter().map(|(_, period)| period.to.0).collect::<Vec<_>>())
        .fetch_all(pool)
        .await?;
    let mut all = vec![Asked::default(); of.len()];
    for row in rows {
        all[place(row.place)?].take(row)?;
    }
    Ok(all)
}

#[derive(FromRow)]
struct AskedRow {
    place: i64,
    plan: Option<String>,
    version: Option<i64>,
    charge: Option<String>,
    metered: bool,
    from_ms: i64,
    to_ms: i64,
    quantity: i64,
    minor: i64,
}

impl Asked {
    fn take(&mut self, row: AskedRow) -> Result<(), StoreError> {
        let range = |error: AmountError| corrupt("invoice_line", "amount_minor", error);
        let quantity = u64::try_from(row.quantity);
        let quantity = Quantity(quantity.map_err(|e| corrupt("invoice_line", "quantity", e))?);
        if row.metered {
            let span = Period { from: Timestamp(row.from_ms), to: Timestamp(row.to_ms) };
            match self.spans.last_mut() {
                Some((same, units)) if *same == span => {
                    *units = units.checked_add(quantity).map_err(range)?;
                }
                _ => self.spans.push((span, quantity)),
            }
        }
        let amount = Amount { quantity, amount: Minor::try_new(row.minor).map_err(range)? };
        let of = stands_for(row.plan, row.version, row.charge)?;
        add(&mut self.amounts, of, amount).map_err(range)
    }
}

/// An invoice's status and total.
///
/// # Errors
/// Any database error.
pub async fn money(pool: &PgPool, invoice: &str) -> Result<Option<(String, Minor)>, StoreError> {
    let sql = "select status, total_minor from invoice where invoice = $1";
    let row: Option<(String, i64)> = sqlx::query_as(sql).bind(invoice).fetch_optional(pool).await?;
    let range = |error: AmountError| corrupt("invoice", "total_minor", error);
    row.map(|(status, total)| Ok((status, Minor::try_new(total).map_err(range)?))).transpose()
}
