//! The provider's final invoices, line by line, as last read.

use billing_core::{
    money::Minor,
    tie::{Amount, Amounts, add},
};
use schemas::{AmountError, Period, Quantity, Timestamp};
use sqlx::PgPool;

use super::{StoreError, big, corrupt, price::stands_for};

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

/// The invoice that closes a period of a subscription: the first final one that was made when it had ended.
///
/// Made within a day of the end, or else it is of a later period; one of a renewal goes before any other.
///
/// # Errors
/// Any database error.
pub async fn closing(
    pool: &PgPool,
    subscription: &str,
    period: Period,
) -> Result<Option<String>, StoreError> {
    let sql = "select invoice from invoice
               where subscription = $1 and created_at_ms >= $2 and created_at_ms < $2 + 86400000
                 and reason <> 'subscription_create'
               order by (reason <> 'subscription_cycle'), created_at_ms, invoice limit 1";
    Ok(sqlx::query_scalar(sql).bind(subscription).bind(period.to.0).fetch_optional(pool).await?)
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

/// What final invoices ask for a period of a subscription, corrections left out.
///
/// `period` is the whole cycle: what is given back of time after a subscription's end lies in it too.
///
/// # Errors
/// Any database error; a sum out of range.
pub async fn asked(pool: &PgPool, subscription: &str, period: Period) -> Result<Asked, StoreError> {
    let sql = "select plan, version, charge, coalesce(metered, false), from_ms, to_ms, sum(quantity)::bigint,
                   sum(amount_minor)::bigint
               from invoice_line left join price using (price)
               where subscription = $1 and from_ms >= $2 and from_ms < $3 and to_ms > from_ms and correction is null
               group by plan, version, charge, metered, from_ms, to_ms order by from_ms, to_ms";
    type Row = (Option<String>, Option<i64>, Option<String>, bool, i64, i64, i64, i64);
    let rows: Vec<Row> = sqlx::query_as(sql)
        .bind(subscription)
        .bind(period.from.0)
        .bind(period.to.0)
        .fetch_all(pool)
        .await?;
    let mut asked = Asked::default();
    let range = |error: AmountError| corrupt("invoice_line", "amount_minor", error);
    for (plan, version, charge, metered, from, to, quantity, minor) in rows {
        let quantity =
            Quantity(u64::try_from(quantity).map_err(|e| corrupt("invoice_line", "quantity", e))?);
        if metered {
            let span = Period { from: Timestamp(from), to: Timestamp(to) };
            match asked.spans.last_mut() {
                Some((same, units)) if *same == span => {
                    *units = units.checked_add(quantity).map_err(range)?;
                }
                _ => asked.spans.push((span, quantity)),
            }
        }
        let amount = Amount { quantity, amount: Minor::try_new(minor).map_err(range)? };
        add(&mut asked.amounts, stands_for(plan, version, charge)?, amount).map_err(range)?;
    }
    Ok(asked)
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
