//! From lines to a total: coupons, the plans' minimum and maximum, credits; in this order.

use schemas::AmountError;

use super::{
    Bill, BillError, BilledTerm, Commitment, CommitmentKind, Discount, Line, Statement,
    lines::RatedTerm, usage::Assigned,
};
use crate::{
    credit::{Draw, Grant, Of, Wallet},
    currency::Currency,
    money::{Exact, Minor, split_by_weight},
};

/// Completes the bill.
pub(super) fn settle(
    terms: &[RatedTerm<'_>],
    lines: Vec<Line>,
    usage: Assigned,
    statement: &Statement,
) -> Result<Bill, BillError> {
    let mut bill = Bill { lines, ..Bill::empty(statement) };
    bill.terms = terms.iter().map(billed_term).collect();
    bill.unbilled = usage.unbilled;
    bill.unit_credits = usage.unit_credits;
    bill.subtotal = Minor::sum(bill.lines.iter().map(|line| line.amount))?;
    let after_coupons = take_off_coupons(&mut bill, statement)?;
    let due = hold_commitments(&mut bill, terms, after_coupons)?;
    bill.credits = pay(due, statement)?;
    let paid = bill.credits.iter().map(|draw| Minor::try_new(draw.used));
    let paid = paid.collect::<Result<Vec<_>, _>>()?;
    bill.total = due.checked_sub(Minor::sum(paid)?)?;
    Ok(bill)
}

fn billed_term(term: &RatedTerm<'_>) -> BilledTerm {
    let RatedTerm { entry, period, trial, share, .. } = *term;
    let plan = entry.plan.reference();
    BilledTerm { plan, digest: entry.digest.clone(), period, trial, share }
}

/// Takes the coupons off and spreads each over what is left of the lines. Gives what is left.
fn take_off_coupons(bill: &mut Bill, statement: &Statement) -> Result<Minor, BillError> {
    let mut left = bill.subtotal;
    for applied in &statement.coupons {
        let amount = applied.coupon.discount(applied.uses, left, bill.currency)?;
        if amount == Minor::ZERO {
            continue;
        }
        let weights = bill.lines.iter().map(|line| line.amount.checked_sub(line.discount));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let shares = split_by_weight(amount, &weights)?;
        for (line, share) in bill.lines.iter_mut().zip(shares) {
            line.discount = line.discount.checked_add(share)?;
        }
        left = left.checked_sub(amount)?;
        bill.discounts.push(Discount { coupon: applied.coupon.coupon.clone(), amount });
    }
    Ok(left)
}

/// Holds each term to its share of its plan's minimum (in a closing bill) and maximum. Gives what is due.
fn hold_commitments(
    bill: &mut Bill,
    terms: &[RatedTerm<'_>],
    after_coupons: Minor,
) -> Result<Minor, BillError> {
    let mut due = after_coupons;
    for (place, term) in terms.iter().enumerate().filter(|(_, term)| !term.trial) {
        let spent = net(bill, place)?;
        let limit = |limit: Exact| term.share.amount(limit, term.scale(bill.currency));
        let least = term.list.minimum.filter(|_| bill.closing).map(limit).transpose()?;
        let max = term.list.maximum.map(limit).transpose()?;
        let (kind, limit) = match (least, max) {
            (Some(least), _) if spent < least => (CommitmentKind::Minimum, least),
            (_, Some(max)) if spent > max => (CommitmentKind::Maximum, max),
            _ => continue,
        };
        let amount = limit.checked_sub(spent)?;
        due = due.checked_add(amount)?;
        let term = u32::try_from(place).map_err(|_| AmountError)?;
        bill.commitments.push(Commitment { term, kind, limit, spent, amount });
    }
    Ok(due)
}

/// What a term's lines come to after coupons.
fn net(bill: &Bill, term: usize) -> Result<Minor, AmountError> {
    let lines = bill.lines.iter().filter(|line| usize::try_from(line.term) == Ok(term));
    let net = lines.map(|line| line.amount.checked_sub(line.discount));
    Minor::sum(net.collect::<Result<Vec<_>, _>>()?)
}

/// Pays what is due with the grants of money that count at the last moment of the period.
fn pay(due: Minor, statement: &Statement) -> Result<Vec<Draw>, BillError> {
    let of_bill = |grant: &&Grant| is_money(&grant.of, statement.currency);
    let grants: Vec<Grant> = statement.grants.iter().filter(of_bill).cloned().collect();
    let due = u64::try_from(due.units()).map_err(|_| AmountError)?;
    if grants.is_empty() || due == 0 {
        return Ok(Vec::new());
    }
    Ok(Wallet::new(grants).draw(due, statement.period.to.plus_ms(-1))?)
}

fn is_money(of: &Of, currency: Currency) -> bool {
    *of == Of::Money(currency)
}
