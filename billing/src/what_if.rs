//! `billing what-if`: the real use of past periods under another plan, or under today's rules, as rows.
//!
//! With a plan, each period is rated as if that plan had held all through it: what every customer would have paid.
//! Without one each period is rated again by its own terms and today's engine, beside the bill that was frozen then:
//! a shadow of a new engine or book, in which every row should be the `same`. Absent on purpose: changing anything.

use std::{fmt::Write as _, io};

use billing_core::plan::{Book, PlanRef};
use schemas::{TenantId, Timestamp};
use sqlx::PgPool;

use crate::{
    plans::written,
    statement::rate,
    store::{
        StoreError,
        statement::{
            Key, bill,
            look::{self, Shown},
        },
    },
};

/// Statements that are read at once.
const PAGE: i64 = 500;
/// The head of the table.
const HEAD: &str = "tenant_id,subscription,from,to,currency,units,plan,total_minor,was_minor,difference_minor,same,why_not\r\n";

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The plan to rate by; `None` = each period's own.
    pub plan: Option<PlanRef>,
    /// Periods that begin in this half-open span.
    pub from: Timestamp,
    pub to: Timestamp,
}

/// Why the table was not written to its end.
#[derive(Debug, thiserror::Error)]
pub enum WhatIfError {
    #[error("plan {} is not in the book", written(.0))]
    NoPlan(PlanRef),
    #[error("PostgreSQL")]
    Store(#[from] StoreError),
    #[error("the table")]
    Io(#[from] io::Error),
}

/// Writes the table, a row for each closed statement; gives how many.
///
/// # Errors
/// See [`WhatIfError`].
pub async fn table(
    pool: &PgPool,
    book: &Book,
    asked: &Asked,
    out: &mut impl io::Write,
) -> Result<usize, WhatIfError> {
    if let Some(plan) = asked.plan.as_ref().filter(|plan| book.get(plan).is_none()) {
        return Err(WhatIfError::NoPlan(plan.clone()));
    }
    out.write_all(HEAD.as_bytes())?;
    let mut rows = 0;
    let mut after = (asked.from.0 - 1, "~".to_owned(), String::new());
    loop {
        let page = look::all(pool, (after.0, &after.1, &after.2), PAGE).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = (last.from_ms, last.tenant_id.clone(), last.subscription.clone());
        for shown in &page {
            if shown.from_ms >= asked.to.0 {
                return Ok(rows);
            }
            if let Some(row) = row(pool, book, asked, shown).await? {
                out.write_all(row.as_bytes())?;
                rows += 1;
            }
        }
    }
}

async fn row(
    pool: &PgPool,
    book: &Book,
    asked: &Asked,
    shown: &Shown,
) -> Result<Option<String>, WhatIfError> {
    let tenant: TenantId = shown
        .tenant_id
        .parse()
        .map_err(|error| crate::store::corrupt("statement", "tenant_id", error))?;
    let (subscription, from) = (shown.subscription.clone(), Timestamp(shown.from_ms));
    let Some(last) = bill::all(pool, &Key { tenant, subscription, from }).await?.pop() else {
        return Ok(None);
    };
    let again = rate::again(pool, book, &last, asked.plan.as_ref()).await?;
    let mut row = format!(
        "{},{},{},{},{},{},{},",
        shown.tenant_id,
        shown.subscription,
        from,
        again.frame.to,
        again.frame.currency,
        last.units.0,
        asked.plan.as_ref().map_or("own".to_owned(), written)
    );
    let was = last.total.units();
    // Writing to a text cannot fail.
    let _ = match again.rated {
        Ok(bill) => {
            let same = bill.canonical() == last.text.as_bytes();
            let total = bill.total.units();
            write!(row, "{total},{was},{},{same},\r\n", total - was)
        }
        Err(why) => write!(row, ",{was},,false,\"{}\"\r\n", why.to_string().replace('"', "'")),
    };
    Ok(Some(row))
}
