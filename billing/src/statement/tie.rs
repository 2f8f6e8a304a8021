//! The tie-out of statements, stored with its verdict and the one who has to act.

use billing_core::{
    money::Minor,
    tie::{Amounts, Owner, Sides, Tied, amounts, tie as lay_together},
};
use futures::{StreamExt, stream};
use schemas::Quantity;

use super::{READS_AT_ONCE, StatementError, Statements, put_off, rate};
use crate::{
    clock::now,
    provider::Provider,
    store::{
        invoice,
        statement::{
            self, Frame, Key, Numbers, bill,
            usage::{self, Stands, Used},
        },
        subscribed,
    },
};

/// Ties statements out that an earlier round, or a process that was killed, has not.
///
/// # Errors
/// As for [`tie`].
pub async fn again<P: Provider>(
    all: &Statements<P>,
    frames: &[Frame],
) -> Result<usize, StatementError> {
    tie(all, &frames.iter().map(|frame| &frame.key).collect::<Vec<_>>()).await
}

/// Ties statements that have a bill, and stores the results; gives how many.
///
/// The provider's sums are read side by side. A statement whose sums cannot be read stays open, and a later round ties it.
///
/// # Errors
/// What may pass.
pub async fn tie<P: Provider>(all: &Statements<P>, keys: &[&Key]) -> Result<usize, StatementError> {
    if keys.is_empty() {
        return Ok(0);
    }
    let frames = statement::frames(&all.pool, keys).await?;
    let of: Vec<_> = frames.iter().map(|frame| (frame.key.tenant, frame.period())).collect();
    let used = usage::of_periods(&all.pool, &of).await?;
    let bills = bill::all_of(&all.pool, keys).await?;
    let names: Vec<&str> = frames.iter().map(|frame| &*frame.key.subscription).collect();
    let subscribed = subscribed::with_terms(&all.pool, &names).await?;
    let spans = frames.iter().map(|frame| {
        let of = subscribed.get(&frame.key.subscription);
        let span = of.map_or(frame.period(), |(of, _)| of.asked_in(frame.period()));
        (frame.key.subscription.as_str(), span)
    });
    let asked = invoice::asked(&all.pool, &spans.collect::<Vec<_>>()).await?;
    let units = stream::iter(frames.iter().zip(&used))
        .map(async |(frame, used)| units(all, frame, used).await)
        .buffered(READS_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let mut tied = Vec::with_capacity(frames.len());
    for (((frame, used), asked), units) in frames.iter().zip(&used).zip(asked).zip(units) {
        match units {
            Ok(units) => {
                let bills = bills.get(&frame.key).map_or(&[][..], Vec::as_slice);
                tied.push(result(frame, &sides(frame, used, bills, asked, &units)?)?);
            }
            Err(error) => {
                put_off(&error);
            }
        }
    }
    statement::set_tied(&all.pool, &tied, now()).await?;
    Ok(tied.len())
}

/// Both sides of a statement that has a bill.
fn sides(
    frame: &Frame,
    used: &[Used],
    bills: &[bill::Stored],
    asked: invoice::Asked,
    units: &Sides,
) -> Result<Sides, StatementError> {
    let closing = bills.first().map(bill::Stored::bill).transpose()?.flatten();
    Ok(Sides {
        has_invoice: frame.invoice.is_some() || !asked.amounts.is_empty(),
        rated: closing.is_some(),
        expected: closing.as_ref().map(amounts).transpose()?.unwrap_or_default(),
        invoiced: asked.units()?,
        asked: asked.amounts,
        free: closing.as_ref().map_or(Quantity::ZERO, rate::free),
        carried: sum(used, |line| line.billed.is_some_and(|revision| revision > 0))?,
        late: sum(used, |line| line.billed.is_none() && line.stands != Stands::Stuck)?,
        ..*units
    })
}

/// Stores that a statement cannot be closed, since its invoice holds other units than any of our reports.
///
/// # Errors
/// What may pass.
pub async fn differ<P: Provider>(
    all: &Statements<P>,
    frame: &Frame,
    invoiced: Quantity,
) -> Result<(), StatementError> {
    let used = usage::of_period(&all.pool, frame.key.tenant, frame.period()).await?;
    let sides =
        Sides { invoiced, rated: true, has_invoice: true, ..units(all, frame, &used).await? };
    statement::set_tied(&all.pool, &[result(frame, &sides)?], now()).await?;
    Ok(())
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

/// What laying both sides together comes to.
fn result<'a>(frame: &'a Frame, sides: &Sides) -> Result<(&'a Key, Numbers, Tied), StatementError> {
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
    if tied.owner != Owner::Nobody {
        tracing::error!(tenant.id = %frame.key.tenant, verdict = tied.verdict.word(), owner = tied.owner.word(),
            ?numbers, differences = ?tied.differences, "A statement does not tie out");
    }
    Ok((&frame.key, numbers, tied))
}
