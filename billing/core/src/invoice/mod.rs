//! A tenant's bill for a period: what was used, under which plan, by which rule, for how much.
//!
//! [`rate_bill`] is a function of the book of plans and one [`Statement`] (what the ledger, the subscription and the
//! credits say). It names the engine, the plan versions with their digests and the range of the log, so it can be
//! computed again years later and must then be the same, byte for byte ([`Bill::canonical`]).
//!
//! The order of operations, which is part of the engine's version:
//! 1. use goes to the segment of the period that holds it (the start of its hour decides), and to its meter's charge;
//! 2. grants of units cover use, before any of it is priced; not in a trial;
//! 3. each charge of each segment is rated exactly and rounded once: a line. Fees are prorated;
//! 4. a charge's own minimum and maximum adjust its line (its share of them in a part of the period);
//! 5. coupons, in the order given, each off what is left; spread over the lines by largest remainder;
//! 6. each plan's minimum and maximum (its share of them), on what its lines come to after coupons;
//! 7. grants of money pay what is left.
//!
//! Invariants: every unit of use is on a line or named as unbilled, once; lines less discounts plus commitments less
//! credits are the total; the order of the input's lines changes nothing; no total is below nothing. Absent on purpose:
//! tax (the provider's, after this), exchange, and collecting money.

mod bill;
mod correction;
mod explain;
mod lines;
mod settle;
mod statement;
mod usage;

use std::collections::BTreeSet;

use schemas::{AmountError, Timestamp};

pub use bill::{Bill, BilledTerm, Commitment, CommitmentKind, Discount, Line, Unbilled, Why};
pub use correction::{Correction, CorrectionError, LineChange};
pub use statement::{AppliedCoupon, LogRange, Statement, UsageLine};

use crate::{
    coupon::CouponError,
    currency::Currency,
    plan::{Book, PlanRef},
    proration::{ProrationError, segments},
};

/// The version of these rules. It changes with every change that could change a bill; bills of an older version are
/// then rated by the older rules, which stay.
pub const ENGINE: u32 = 1;

/// Why there is no bill. Nothing is ever billed in part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BillError {
    #[error("no rules of engine version {0} are here")]
    UnknownEngine(u32),
    #[error("no version {version} of plan `{plan}`", plan = .0.plan, version = .0.version)]
    UnknownPlan(PlanRef),
    #[error("plan `{plan}` has no prices in {currency}", plan = .plan.plan)]
    OtherCurrency { plan: PlanRef, currency: Currency },
    #[error("use at {0} lies outside the period")]
    OutsidePeriod(Timestamp),
    #[error("the range of the log ends before it begins")]
    LogRange,
    #[error("grant or coupon `{0}` is there twice")]
    Twice(String),
    #[error(transparent)]
    Proration(#[from] ProrationError),
    #[error(transparent)]
    Coupon(#[from] CouponError),
    #[error(transparent)]
    Amount(#[from] AmountError),
}

/// Rates a statement into a bill.
///
/// # Errors
/// Anything that keeps even one line from being rated: a bill is whole or is not.
pub fn rate_bill(book: &Book, statement: &Statement) -> Result<Bill, BillError> {
    check(statement)?;
    let segments = segments(
        statement.period,
        &statement.subscription,
        statement.proration,
        &statement.time_zone,
    )?;
    let terms = lines::resolve(book, &segments, statement.currency)?;
    let usage = usage::assign(&terms, statement)?;
    let lines = lines::rate(&terms, &usage, statement)?;
    settle::settle(&terms, lines, usage, statement)
}

/// Whether the statement can be rated at all.
fn check(statement: &Statement) -> Result<(), BillError> {
    if statement.engine != ENGINE {
        return Err(BillError::UnknownEngine(statement.engine));
    }
    if statement.log.last < statement.log.first {
        return Err(BillError::LogRange);
    }
    let grants = statement.grants.iter().map(|one| (false, one.grant.as_str()));
    let coupons = statement.coupons.iter().map(|one| (true, one.coupon.coupon.as_str()));
    let mut names = BTreeSet::new();
    match grants.chain(coupons).find(|name| !names.insert(*name)) {
        Some((_, name)) => Err(BillError::Twice(name.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
