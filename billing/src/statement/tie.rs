//! The tie-out of one statement, stored with its verdict and the one who has to act.

use billing_core::{
    money::Minor,
    tie::{Amounts, Sides, Tied, amounts, tie as lay_together},
};
use schemas::Quantity;

use super::{StatementError, Statements, rate};
use crate::{
    clock::now,
    provider::Provider,
    store::{
        invoice,
        statement::{
            self, Frame, Numbers, bill,
            usage::{self, Stands, Used},
        },
        subscribed,
    },
};

/// Ties a statement out that an earlier round, or a process that was killed, has not.
///
/// # Errors
/// As for [`tie`].
pub async fn again<P: Provider>(all: &Statements<P>, frame: Frame) -> Result<bool, StatementError> {
    tie(all, &frame).await?;
    Ok(true)
}

/// Ties a statement that has a bill, and stores the result.
///
/// # Errors
/// What may pass.
pub async fn tie<P: Provider>(all: &Statements<P>, frame: &Frame) -> Result<Tied, StatementError> {
    let frame = statement::frame(&all.pool, &frame.key).await?;
    let used = usage::of_period(&all.pool, frame.key.tenant, frame.period()).await?;
    let bills = bill::all(&all.pool, &frame.key).await?;
    let subscribed = subscribed::read(&all.pool, &frame.key.subscription).await?;
    let span = subscribed.map_or(frame.period(), |one| one.asked_in(frame.period()));
    let asked = invoice::asked(&all.pool, &frame.key.subscription, span).await?;
    let closing = bills.first().map(bill::Stored::bill).transpose()?.flatten();
    let sides = Sides {
        has_invoice: frame.invoice.is_some() || !asked.amounts.is_empty(),
        rated: closing.is_some(),
        expected: closing.as_ref().map(amounts).transpose()?.unwrap_or_default(),
        invoiced: asked.units()?,
        asked: asked.amounts,
        free: closing.as_ref().map_or(Quantity::ZERO, rate::free),
        carried: sum(&used, |line| line.billed.is_some_and(|revision| revision > 0))?,
        late: sum(&used, |line| line.billed.is_none() && line.stands != Stands::Stuck)?,
        ..units(all, &frame, &used).await?
    };
    store(all, &frame, &sides).await
}

/// Stores that a statement cannot be closed, since its invoice holds other units than any of our reports.
///
/// # Errors
/// What may pass.
pub async fn differ<P: Provider>(
    all: &Statements<P>,
    frame: &Frame,
    invoiced: Quantity,
) -> Result<Tied, StatementError> {
    let used = usage::of_period(&all.pool, frame.key.tenant, frame.period()).await?;
    let sides =
        Sides { invoiced, rated: true, has_invoice: true, ..units(all, frame, &used).await? };
    store(all, frame, &sides).await
}

/// The units of both sides, without any money.
async fn units<P: Provider>(
    all: &Statements<P>,
    frame: &Frame,
    used: &[Used],
) -> Result<Sides, StatementError> {
    let mut meters: Vec<_> = used.iter().map(|line| line.meter.clone()).collect();
    meters.sort();
    meters.dedup();
    let mut summary = Quantity::ZERO;
    for meter in meters {
        let told = all.provider.period_total(&frame.customer, &meter, frame.period()).await?;
        summary = summary.checked_add(told)?;
    }
    Ok(Sides {
        ledger: sum(used, |_| true)?,
        accepted: sum(used, |line| line.stands == Stands::Accepted)?,
        stuck: sum(used, |line| line.stands == Stands::Stuck)?,
        summary,
        invoiced: Quantity::ZERO,
        carried: Quantity::ZERO,
        free: Quantity::ZERO,
        late: Quantity::ZERO,
        has_invoice: false,
        rated: false,
        expected: Amounts::new(),
        asked: Amounts::new(),
    })
}

fn sum(used: &[Used], which: impl Fn(&Used) -> bool) -> Result<Quantity, StatementError> {
    let some = used.iter().filter(|line| which(line)).map(|line| line.quantity);
    Ok(some.into_iter().try_fold(Quantity::ZERO, Quantity::checked_add)?)
}

async fn store<P: Provider>(
    all: &Statements<P>,
    frame: &Frame,
    sides: &Sides,
) -> Result<Tied, StatementError> {
    let tied = lay_together(sides);
    let total = |side: &Amounts| Minor::sum(side.values().map(|one| one.amount));
    let numbers = Numbers {
        ledger: sides.ledger,
        summary: sides.summary,
        invoiced: Quantity(sides.invoiced.0.saturating_add(sides.free.0)),
        carried: sides.carried,
        expected_minor: total(&sides.expected)?.units(),
        invoiced_minor: total(&sides.asked)?.units(),
    };
    statement::set_tied(&all.pool, &frame.key, &numbers, &tied, now()).await?;
    if tied.owner != billing_core::tie::Owner::Nobody {
        tracing::error!(tenant.id = %frame.key.tenant, verdict = tied.verdict.word(), owner = tied.owner.word(),
            ?numbers, differences = ?tied.differences, "A statement does not tie out");
    }
    Ok(tied)
}
