//! Lines: each charge of each term, rated and held to its own limits.

use schemas::{Period, Quantity};

use super::{
    BillError, Line, Statement,
    usage::{Assigned, Used},
};
use crate::{
    currency::Currency,
    money::{Minor, Scale},
    plan::{Allowance, Book, Charge, Entry, PriceList},
    price::Price,
    proration::{Segment, Share},
    rate,
};

/// A segment with the prices that hold in it.
#[derive(Debug)]
pub(super) struct RatedTerm<'a> {
    pub entry: &'a Entry,
    pub list: &'a PriceList,
    pub period: Period,
    pub trial: bool,
    pub share: Share,
}

impl RatedTerm<'_> {
    pub fn scale(&self, currency: Currency) -> Scale {
        Scale { currency, rounding: self.entry.plan.rounding }
    }
}

/// Finds the prices of each segment.
pub(super) fn resolve<'a>(
    book: &'a Book,
    segments: &[Segment],
    currency: Currency,
) -> Result<Vec<RatedTerm<'a>>, BillError> {
    let resolve = |segment: &Segment| {
        let plan = &segment.plan;
        let entry = book.get(plan).ok_or_else(|| BillError::UnknownPlan(plan.clone()))?;
        let list = entry.plan.prices.get(&currency);
        let list = list.ok_or_else(|| BillError::OtherCurrency { plan: plan.clone(), currency })?;
        let Segment { period, trial, share, .. } = *segment;
        Ok(RatedTerm { entry, list, period, trial, share })
    };
    segments.iter().map(resolve).collect()
}

/// Rates every charge of every term.
pub(super) fn rate(
    terms: &[RatedTerm<'_>],
    usage: &Assigned,
    statement: &Statement,
) -> Result<Vec<Line>, BillError> {
    let mut lines = Vec::with_capacity(usage.used.iter().map(Vec::len).sum());
    for (place, (term, used)) in terms.iter().zip(&usage.used).enumerate() {
        for (charge, used) in term.list.charges.iter().zip(used) {
            let number = u32::try_from(place).map_err(|_| schemas::AmountError)?;
            lines.push(line(number, term, charge, *used, statement)?);
        }
    }
    Ok(lines)
}

fn line(
    number: u32,
    term: &RatedTerm<'_>,
    charge: &Charge,
    used: Used,
    statement: &Statement,
) -> Result<Line, BillError> {
    let mut line = Line {
        term: number,
        charge: charge.charge.clone(),
        meter: charge.meter.clone(),
        quantity: used.quantity,
        granted: used.granted,
        fee: None,
        exact: None,
        parts: Vec::new(),
        rated: Minor::ZERO,
        adjustment: Minor::ZERO,
        amount: Minor::ZERO,
        discount: Minor::ZERO,
    };
    if term.trial {
        return Ok(line);
    }
    let scale = term.scale(statement.currency);
    if let Price::Flat { amount } = charge.price {
        line.fee = Some(amount);
        line.rated = term.share.amount(amount, scale)?;
    } else {
        let units = used.quantity.checked_sub(used.granted)?;
        let rated = match prorated(&charge.price, term)? {
            Some(price) => rate::rate(&price, units, scale)?,
            None => rate::rate(&charge.price, units, scale)?,
        };
        line.exact = Some(rated.exact);
        line.rated = rated.amount;
        line.parts = rated.parts;
    }
    line.adjustment = adjustment(term, charge, line.rated, statement)?;
    line.amount = line.rated.checked_add(line.adjustment)?;
    Ok(line)
}

/// The price with the term's share of its included or free units, where the plan cuts them.
fn prorated(price: &Price, term: &RatedTerm<'_>) -> Result<Option<Price>, BillError> {
    if term.entry.plan.allowance == Allowance::Whole {
        return Ok(None);
    }
    let share = |units: Quantity| term.share.units(units);
    Ok(match *price {
        Price::PerUnit { amount, per, included } => {
            Some(Price::PerUnit { amount, per, included: share(included)? })
        }
        Price::Package { amount, size, free, begun } => {
            Some(Price::Package { amount, size, free: share(free)?, begun })
        }
        Price::Flat { .. } | Price::Graduated { .. } | Price::Volume { .. } => None,
    })
}

/// What the charge's minimum adds (in a closing bill), or its maximum takes away.
fn adjustment(
    term: &RatedTerm<'_>,
    charge: &Charge,
    rated: Minor,
    statement: &Statement,
) -> Result<Minor, BillError> {
    let scale = term.scale(statement.currency);
    if let Some(minimum) = charge.minimum.filter(|_| statement.closing) {
        let minimum = term.share.amount(minimum, scale)?;
        if rated < minimum {
            return Ok(minimum.checked_sub(rated)?);
        }
    }
    if let Some(maximum) = charge.maximum {
        let maximum = term.share.amount(maximum, scale)?;
        if rated > maximum {
            return Ok(maximum.checked_sub(rated)?);
        }
    }
    Ok(Minor::ZERO)
}
