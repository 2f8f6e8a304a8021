//! Closing a period: wait for its final invoice, find which lines it holds, rate them, freeze, publish, tie.

use billing_core::{invoice::Bill, money::Minor, tie::held};
use schemas::Quantity;
use sha2::{Digest, Sha256};

use super::{
    StatementError, Statements, publish,
    rate::{self, Terms},
    tie,
};
use crate::{
    clock::now,
    provider::Provider,
    store::{
        checkpoint::{self, Projection},
        invoice::{self, Asked},
        statement::{
            self, Frame, State,
            bill::{self, New},
            usage::{self, Stands, Used},
        },
        subscribed,
    },
    stripe::invoice as from_stripe,
    work::keep_invoice,
};

/// How long after a period's end it is closed without an invoice, if there is none. Unit: milliseconds.
///
/// Stripe finalizes within 72 hours at the latest, and needs not make an invoice of nothing.
pub const WITHOUT_INVOICE_MS: i64 = 73 * 3_600_000;
/// How soon to look again at a statement that waits. Unit: milliseconds.
const AGAIN_MS: i64 = 10 * 60_000;

/// Closes a statement if it can be; `true` = it is closed now.
///
/// # Errors
/// What may pass; nothing is half done.
pub async fn close<P: Provider>(all: &Statements<P>, frame: Frame) -> Result<bool, StatementError> {
    if frame.state == State::Due && !freeze(all, &frame).await? {
        return Ok(false);
    }
    for bill in bill::all(&all.pool, &frame.key).await?.into_iter().filter(|bill| !bill.published) {
        publish::publish(all, bill).await?;
    }
    tie::tie(all, &frame).await?;
    Ok(true)
}

/// Freezes the closing bill; `false` = not yet, and the statement says why.
async fn freeze<P: Provider>(all: &Statements<P>, frame: &Frame) -> Result<bool, StatementError> {
    let mut invoice = invoice::closing(&all.pool, &frame.key.subscription, frame.period()).await?;
    if invoice.is_none() {
        if now().ms_since(frame.to) < WITHOUT_INVOICE_MS {
            return wait(all, frame, "no final invoice yet").await;
        }
        if fetch(all, frame).await? {
            return wait(all, frame, "its invoice is a draft").await;
        }
        invoice = invoice::closing(&all.pool, &frame.key.subscription, frame.period()).await?;
    }
    let used = usage::of_period(&all.pool, frame.key.tenant, frame.period()).await?;
    if used.iter().any(|line| line.stands == Stands::InDoubt) {
        return wait(all, frame, "a report is in doubt").await;
    }
    let took: Vec<&Used> = used
        .iter()
        .filter(|line| line.stands == Stands::Accepted && line.billed.is_none())
        .collect();
    let Some(subscribed) = subscribed::read(&all.pool, &frame.key.subscription).await? else {
        return wait(all, frame, "the subscription is not known").await;
    };
    let terms = subscribed::terms_of(&all.pool, &subscribed).await?;
    let by = Terms { book: &all.book, subscribed: &subscribed, terms: &terms };
    let folded = checkpoint::read(&all.pool, Projection::Log).await?.0;
    let asked =
        invoice::asked(&all.pool, &frame.key.subscription, subscribed.asked_in(frame.period()))
            .await?;
    let Some(lines) = on_invoice(&by, frame, &took, &asked, folded) else {
        tie::differ(all, frame, asked.units()?).await?;
        return wait(all, frame, "no beginning of the reports adds up to the invoice's units")
            .await;
    };
    let rated = rate::bill(&by, frame, &lines, folded);
    if let Err(why) = &rated {
        tracing::error!(tenant.id = %frame.key.tenant, %why, "A period cannot be rated");
    }
    let new = new(rated.as_ref().ok(), &lines)?;
    bill::freeze(&all.pool, &frame.key, &new, &lines, invoice.as_deref(), now()).await?;
    Ok(true)
}

/// Reads the invoices of a period that no event has told of; `true` = one is a draft still.
async fn fetch<P: Provider>(all: &Statements<P>, frame: &Frame) -> Result<bool, StatementError> {
    let mut is_draft = false;
    for listed in from_stripe::newest(&all.stripe, &frame.key.subscription).await? {
        if listed.created.saturating_mul(1000) < frame.to.0 {
            continue;
        }
        match from_stripe::read(&all.stripe, &listed.id).await? {
            Some(found) => keep_invoice(&all.pool, &all.stripe, &found).await?,
            None => is_draft = true,
        }
    }
    Ok(is_draft)
}

/// The lines that the invoice asks money for: of each span that it counts, a beginning of what the provider took in it.
///
/// All of them, where the invoice counts nothing and none of them can cost anything. `None` = no beginning adds up.
fn on_invoice<'a>(
    by: &Terms<'_>,
    frame: &Frame,
    took: &[&'a Used],
    asked: &Asked,
    folded: u64,
) -> Option<Vec<&'a Used>> {
    if asked.spans.is_empty()
        && let Ok(bill) = rate::bill(by, frame, took, folded)
        && u128::from(rate::free(&bill).0)
            == took.iter().map(|line| u128::from(line.quantity.0)).sum()
    {
        return Some(took.to_vec());
    }
    let mut on = Vec::new();
    for (span, units) in &asked.spans {
        let inside: Vec<&Used> =
            took.iter().copied().filter(|line| span.contains(line.at)).collect();
        let quantities: Vec<Quantity> = inside.iter().map(|line| line.quantity).collect();
        on.extend_from_slice(&inside[..held(&quantities, *units)?]);
    }
    Some(on)
}

fn new(bill: Option<&Bill>, lines: &[&Used]) -> Result<New, StatementError> {
    let units = lines.iter().map(|line| line.quantity);
    let units = units.into_iter().try_fold(Quantity::ZERO, Quantity::checked_add)?;
    let (text, digest, total) = written(bill);
    Ok(New { revision: 0, text, digest, total, difference: total, units, collect: false })
}

/// A bill's text, digest and total; of none: nothing, and the digest of nothing.
pub(super) fn written(bill: Option<&Bill>) -> (String, String, Minor) {
    let Some(bill) = bill else {
        return (String::new(), hex::encode(Sha256::digest(b"")), Minor::ZERO);
    };
    let text = String::from_utf8(bill.canonical()).expect("JSON is UTF-8");
    (text, bill.digest(), bill.total)
}

async fn wait<P: Provider>(
    all: &Statements<P>,
    frame: &Frame,
    why: &str,
) -> Result<bool, StatementError> {
    statement::put_off(&all.pool, &frame.key, now().plus_ms(AGAIN_MS), why).await?;
    Ok(false)
}
