//! Late lines of a closed period: the whole is rated again, and the difference is a bill of its own.

use billing_core::money::Minor;
use schemas::Quantity;

use super::{
    StatementError, Statements,
    close::written,
    publish,
    rate::{self, Terms},
    tie,
};
use crate::{
    clock::now,
    provider::Provider,
    store::{
        checkpoint::{self, Projection},
        statement::{
            Frame,
            bill::{self, Freezing, New, Stored},
            usage::{self, Stands, Used},
        },
        subscribed,
    },
};

/// Corrects a closed statement by the lines that no bill holds yet; `true` = a correction was made.
///
/// # Errors
/// What may pass; nothing is half done.
pub async fn correct<P: Provider>(
    all: &Statements<P>,
    frame: Frame,
) -> Result<bool, StatementError> {
    let used = usage::of_period(&all.pool, frame.key.tenant, frame.period()).await?;
    let owed = |line: &&Used| matches!(line.stands, Stands::Accepted | Stands::Carried);
    let late: Vec<&Used> = used.iter().filter(owed).filter(|line| line.billed.is_none()).collect();
    let bills = bill::all(&all.pool, &frame.key).await?;
    let (Some(last), false) = (bills.last(), late.is_empty()) else { return Ok(false) };
    if !last.published {
        publish::publish(all, std::slice::from_ref(last)).await?;
    }
    let new = rated(all, &frame, last, &used, &late).await?;
    let (revision, difference_minor) = (new.revision, new.difference.units());
    let freezing = Freezing { key: &frame.key, new, lines: late, invoice: None };
    if bill::freeze(&all.pool, &[freezing], now()).await? > 0 {
        metrics::counter!("billing_corrections_total").increment(1);
        tracing::info!(tenant.id = %frame.key.tenant, revision, difference_minor, "Corrected a closed statement");
    }
    let mut bills = bill::all(&all.pool, &frame.key).await?;
    bills.retain(|bill| !bill.published);
    publish::publish(all, &bills).await?;
    tie::tie(all, &[&frame.key]).await?;
    Ok(true)
}

async fn rated<P: Provider>(
    all: &Statements<P>,
    frame: &Frame,
    last: &Stored,
    used: &[Used],
    late: &[&Used],
) -> Result<New, StatementError> {
    let revision = last.revision.saturating_add(1);
    let units = late.iter().try_fold(last.units, |sum, line| sum.checked_add(line.quantity))?;
    let Some(subscribed) = subscribed::read(&all.pool, &frame.key.subscription).await? else {
        return Ok(unrated(revision, last.total, units));
    };
    let terms = subscribed::terms_of(&all.pool, &subscribed).await?;
    let by = Terms { book: &all.book, subscribed: &subscribed, terms: &terms };
    let folded = checkpoint::read(&all.pool, Projection::Log).await?.0;
    let whole: Vec<&Used> = used
        .iter()
        .filter(|line| line.billed.is_some() || late.iter().any(|one| std::ptr::eq(*one, *line)))
        .collect();
    let (Ok(bill), Some(earlier)) = (rate::bill(&by, frame, &whole, folded), last.bill()?) else {
        return Ok(unrated(revision, last.total, units));
    };
    let correction = bill.since(&earlier)?;
    let (text, digest, total) = written(Some(&bill));
    Ok(New {
        revision,
        text,
        digest,
        total,
        difference: correction.difference,
        units,
        collect: true,
    })
}

/// A correction of units that no plan prices.
fn unrated(revision: u32, total: Minor, units: Quantity) -> New {
    let (text, digest, _) = written(None);
    New { revision, text, digest, total, difference: Minor::ZERO, units, collect: true }
}
