//! A period's lines and the subscription's terms, rated into a bill.

use billing_core::{
    currency::Currency,
    invoice::{Bill, BillError, ENGINE, LogRange, Statement, UsageLine, rate_bill},
    plan::{Book, PlanRef},
    proration::{Prorate, Subscription, Term},
};
use schemas::{Period, Quantity, subject};
use sqlx::PgPool;

use crate::store::{
    StoreError,
    statement::{
        Frame,
        bill::Stored,
        usage::{self, Used},
    },
    subscribed::{self, Subscribed},
};

/// What a period is rated by.
pub struct Terms<'a> {
    pub book: &'a Book,
    pub subscribed: &'a Subscribed,
    pub terms: &'a [Term],
}

/// Why a period has no bill; for people.
#[derive(Debug, thiserror::Error)]
pub enum Unrated {
    #[error("no price of the subscription names a plan")]
    NoPlan,
    #[error("the subscription's periods lie beyond the calendar")]
    NoPeriod,
    #[error("{0}")]
    Currency(#[from] billing_core::currency::CurrencyError),
    #[error("{0}")]
    Bill(#[from] BillError),
}

/// The statement of some lines of a period. `closing` = the period is over.
///
/// # Errors
/// See [`Unrated`].
pub fn statement(
    by: &Terms<'_>,
    frame: &Frame,
    usage: Vec<UsageLine>,
    log: LogRange,
    closing: bool,
) -> Result<Statement, Unrated> {
    if by.terms.is_empty() {
        return Err(Unrated::NoPlan);
    }
    let whole = by.subscribed.cycle_at(frame.key.from).ok_or(Unrated::NoPeriod)?;
    Ok(Statement {
        engine: ENGINE,
        tenant: frame.key.tenant,
        period: whole,
        currency: frame.currency.parse::<Currency>()?,
        time_zone: "UTC".to_owned(),
        proration: Prorate::Second,
        log,
        closing,
        subscription: Subscription {
            terms: by.terms.to_vec(),
            trial_until: by.subscribed.trial_until,
            ends_at: by.subscribed.ended_at,
        },
        usage,
        coupons: vec![],
        grants: vec![],
    })
}

/// Rates lines of a period that is over.
///
/// # Errors
/// See [`Unrated`].
pub fn bill(by: &Terms<'_>, frame: &Frame, lines: &[&Used], folded: u64) -> Result<Bill, Unrated> {
    let usage = lines.iter().map(|line| line.line()).collect();
    Ok(rate_bill(by.book, &statement(by, frame, usage, log_range(lines, folded), true)?)?)
}

/// A stored bill's period, rated again.
pub struct Again {
    pub frame: Frame,
    pub rated: Result<Bill, Unrated>,
}

/// Rates the lines that a stored bill holds by a book and its subscription's terms, or by `plan` all through.
///
/// # Errors
/// Any database error.
pub async fn again(
    pool: &PgPool,
    book: &Book,
    stored: &Stored,
    plan: Option<&PlanRef>,
) -> Result<Again, StoreError> {
    let frame = crate::store::statement::frame(pool, &stored.key).await?;
    let Some(of) = subscribed::read(pool, &stored.key.subscription).await? else {
        return Ok(Again { frame, rated: Err(Unrated::NoPlan) });
    };
    let used = usage::of_period(pool, stored.key.tenant, frame.period()).await?;
    let lines: Vec<&Used> = used
        .iter()
        .filter(|line| line.billed.is_some_and(|revision| revision <= stored.revision))
        .collect();
    let terms = match plan {
        Some(plan) => vec![Term { from: of.began_at, plan: plan.clone() }],
        None => subscribed::terms_of(pool, &of).await?,
    };
    // A bill without use names where the log had been read to when it was made.
    let folded = stored.bill()?.map_or(0, |bill| bill.log.last);
    let by = Terms { book, subscribed: &of, terms: &terms };
    let rated = bill(&by, &frame, &lines, folded);
    Ok(Again { frame, rated })
}

/// Where lines stand on the log; of none: where the log had been read to.
#[must_use]
pub fn log_range(lines: &[&Used], folded: u64) -> LogRange {
    let places = || lines.iter().map(|line| line.log_seq);
    let (first, last) = (places().min().unwrap_or(folded), places().max().unwrap_or(folded));
    LogRange { stream: subject::LOG.to_owned(), first, last }
}

/// The units of a bill that no invoice asks for: of trials, and what no price covers.
#[must_use]
pub fn free(bill: &Bill) -> Quantity {
    let trial = |term: u32| {
        let place = usize::try_from(term).ok();
        place.and_then(|place| bill.terms.get(place)).is_some_and(|term| term.trial)
    };
    let of_trials = bill.lines.iter().filter(|line| trial(line.term)).map(|line| line.quantity.0);
    let unbilled = bill.unbilled.iter().map(|one| one.quantity.0);
    Quantity(of_trials.chain(unbilled).fold(0, u64::saturating_add))
}

/// The part of a frame that a running period has, for a preview.
#[must_use]
pub fn running(of: &Subscribed, period: Period) -> Frame {
    Frame {
        key: crate::store::statement::Key {
            tenant: of.tenant,
            subscription: of.subscription.clone(),
            from: period.from,
        },
        to: period.to,
        customer: of.customer.clone(),
        currency: of.currency.clone(),
        state: crate::store::statement::State::Due,
        revision: None,
        invoice: None,
        woken: 0,
    }
}
