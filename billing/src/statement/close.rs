//! Closing a period: wait for its final invoice, find which lines it holds, rate them, freeze, publish, tie.

use std::collections::{HashMap, HashSet};

use billing_core::{invoice::Bill, money::Minor, plan::Book, proration::Term, tie::held};
use futures::{StreamExt, stream};
use schemas::{Period, Quantity};
use sha2::{Digest, Sha256};

use super::{
    READS_AT_ONCE, StatementError, Statements, publish, put_off,
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
            self, Frame, Key, State,
            bill::{self, Freezing, New, Stored},
            usage::{self, Stands, Used},
        },
        subscribed::{self, Subscribed},
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

/// Closes those of a batch of statements that can be closed; gives how many are closed now.
///
/// Each step is one for the whole batch: read, rate, freeze, publish, tie. A kill between two of them leaves every
/// statement of it where one alone would stand, and the next round goes on from there.
///
/// # Errors
/// What may pass; nothing is half done.
pub async fn close<P: Provider>(
    all: &Statements<P>,
    frames: &[Frame],
) -> Result<usize, StatementError> {
    let keys: Vec<&Key> = frames.iter().map(|frame| &frame.key).collect();
    // As they stand now: a batch of which one failed is worked on again, one by one.
    let frames = statement::frames(&all.pool, &keys).await?;
    let due: Vec<&Frame> = frames.iter().filter(|frame| frame.state == State::Due).collect();
    freeze(all, &due).await?;
    let bills: Vec<Stored> =
        bill::all_of(&all.pool, &keys).await?.into_values().flatten().collect();
    let waiting: Vec<Stored> = bills.into_iter().filter(|bill| !bill.published).collect();
    let closed = publish::publish(all, &waiting).await?;
    let frozen: HashSet<&Key> = waiting.iter().map(|bill| &bill.key).collect();
    tie::tie(all, &frozen.into_iter().collect::<Vec<_>>()).await?;
    Ok(closed)
}

/// What becomes of a statement that is due.
enum Closing<'a> {
    Freeze(Freezing<'a>),
    /// Not yet, and why.
    Wait(&'static str),
    /// The invoice holds so many units, and no beginning of the reports adds up to them.
    Differs(Quantity),
}

/// Freezes the closing bills of statements that are due; of the others the table says why not.
async fn freeze<P: Provider>(all: &Statements<P>, due: &[&Frame]) -> Result<(), StatementError> {
    let invoices = invoices(all, due).await?;
    let (mut waiting, mut invoiced) = (Vec::new(), Vec::new());
    for (frame, invoice) in due.iter().copied().zip(invoices) {
        match invoice {
            Ok(invoice) => invoiced.push((frame, invoice)),
            Err(why) => waiting.push((frame, why)),
        }
    }
    let frames: Vec<&Frame> = invoiced.iter().map(|(frame, _)| *frame).collect();
    let found = Found::read(all, &frames).await?;
    let (mut freezing, mut differing) = (Vec::new(), Vec::new());
    for (place, (frame, invoice)) in invoiced.into_iter().enumerate() {
        match found.decide(&all.book, frame, place, invoice)? {
            Closing::Freeze(one) => freezing.push(one),
            Closing::Wait(why) => waiting.push((frame, why)),
            Closing::Differs(units) => differing.push((frame, units)),
        }
    }
    bill::freeze(&all.pool, &freezing, now()).await?;
    for (frame, units) in differing {
        if let Err(error) = tie::differ(all, frame, units).await {
            put_off(&error);
        }
        waiting.push((frame, "no beginning of the reports adds up to the invoice's units"));
    }
    if !waiting.is_empty() {
        statement::put_off(&all.pool, &waiting, now().plus_ms(AGAIN_MS)).await?;
    }
    Ok(())
}

/// The invoice that closes each statement's period, if there is one; or why it has to be waited for.
async fn invoices<P: Provider>(
    all: &Statements<P>,
    due: &[&Frame],
) -> Result<Vec<Result<Option<String>, &'static str>>, StatementError> {
    let of = |frames: &[&Frame]| -> Vec<(String, Period)> {
        frames.iter().map(|frame| (frame.key.subscription.clone(), frame.period())).collect()
    };
    let (mut found, mut unread) = (Vec::with_capacity(due.len()), Vec::new());
    for (frame, invoice) in due.iter().zip(closing(all, &of(due)).await?) {
        if invoice.is_none() && now().ms_since(frame.to) >= WITHOUT_INVOICE_MS {
            unread.push(found.len());
        }
        found.push(invoice.map(Some).ok_or("no final invoice yet"));
    }
    let read = stream::iter(unread)
        .map(async |place| (place, fetch(all, due[place]).await))
        .buffer_unordered(READS_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    for (place, fetched) in read {
        found[place] = match fetched {
            Ok(Fetched::Draft) => Err("its invoice is a draft"),
            Ok(Fetched::Final) => Ok(closing(all, &of(&due[place..=place])).await?.pop().flatten()),
            Err(error) => {
                put_off(&error);
                Err("its invoices cannot be read")
            }
        };
    }
    Ok(found)
}

async fn closing<P: Provider>(
    all: &Statements<P>,
    of: &[(String, Period)],
) -> Result<Vec<Option<String>>, StatementError> {
    let of: Vec<(&str, Period)> = of.iter().map(|(of, period)| (of.as_str(), *period)).collect();
    Ok(invoice::closing(&all.pool, &of).await?)
}

/// All that the closing of some statements follows from, in the order of the statements.
struct Found {
    used: Vec<Vec<Used>>,
    asked: Vec<Asked>,
    subscribed: HashMap<String, (Subscribed, Vec<Term>)>,
    folded: u64,
}

impl Found {
    async fn read<P: Provider>(
        all: &Statements<P>,
        frames: &[&Frame],
    ) -> Result<Self, StatementError> {
        let of: Vec<_> = frames.iter().map(|frame| (frame.key.tenant, frame.period())).collect();
        let used = usage::of_periods(&all.pool, &of).await?;
        let names: Vec<&str> = frames.iter().map(|frame| &*frame.key.subscription).collect();
        let subscribed = subscribed::with_terms(&all.pool, &names).await?;
        let asked_in = |frame: &&&Frame| {
            let of = subscribed.get(&frame.key.subscription);
            let period = of.map_or(frame.period(), |(of, _)| of.asked_in(frame.period()));
            (frame.key.subscription.clone(), period)
        };
        let asked_in: Vec<_> = frames.iter().map(|frame| asked_in(&frame)).collect();
        let asked_in: Vec<_> = asked_in.iter().map(|(of, period)| (of.as_str(), *period)).collect();
        let asked = invoice::asked(&all.pool, &asked_in).await?;
        let folded = checkpoint::read(&all.pool, Projection::Log).await?.0;
        Ok(Self { used, asked, subscribed, folded })
    }

    /// Decides about the statement at a place of the list. No I/O.
    fn decide<'a>(
        &'a self,
        book: &Book,
        frame: &'a Frame,
        place: usize,
        invoice: Option<String>,
    ) -> Result<Closing<'a>, StatementError> {
        let (used, asked) = (&self.used[place], &self.asked[place]);
        if used.iter().any(|line| line.stands == Stands::InDoubt) {
            return Ok(Closing::Wait("a report is in doubt"));
        }
        let Some((subscribed, terms)) = self.subscribed.get(&frame.key.subscription) else {
            return Ok(Closing::Wait("the subscription is not known"));
        };
        let took: Vec<&Used> = used
            .iter()
            .filter(|line| line.stands == Stands::Accepted && line.billed.is_none())
            .collect();
        let by = Terms { book, subscribed, terms };
        let Some(lines) = on_invoice(&by, frame, &took, asked, self.folded) else {
            return Ok(Closing::Differs(asked.units()?));
        };
        let rated = rate::bill(&by, frame, &lines, self.folded);
        if let Err(why) = &rated {
            tracing::error!(tenant.id = %frame.key.tenant, %why, "A period cannot be rated");
        }
        let new = new(rated.as_ref().ok(), &lines)?;
        Ok(Closing::Freeze(Freezing { key: &frame.key, new, lines, invoice }))
    }
}

/// What Stripe has of a period's invoices.
enum Fetched {
    /// Whatever there is, is final.
    Final,
    Draft,
}

/// Reads the invoices of a period that no event has told of.
async fn fetch<P: Provider>(all: &Statements<P>, frame: &Frame) -> Result<Fetched, StatementError> {
    let mut fetched = Fetched::Final;
    for listed in from_stripe::newest(&all.stripe, &frame.key.subscription).await? {
        if listed.created.saturating_mul(1000) < frame.to.0 {
            continue;
        }
        match from_stripe::read(&all.stripe, &listed.id).await? {
            Some(found) => keep_invoice(&all.pool, &all.stripe, &found).await?,
            None => fetched = Fetched::Draft,
        }
    }
    Ok(fetched)
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
