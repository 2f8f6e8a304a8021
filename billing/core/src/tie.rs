//! The tie-out: our ledger, the provider's sums and the provider's invoice of one billing period, side by side.
//!
//! Three numbers of units and two of money must agree: what was sealed, what the provider summed up, what it
//! invoiced; what our rating comes to and what the invoice asks. [`tie`] gives the verdict and who has to act.
//! Invariants: nothing that differs is called tied, not by a unit and not by a cent; a unit that is in doubt is
//! never tied. Absent on purpose: tolerances, taxes, and mending anything.

use std::collections::BTreeMap;

use schemas::{AmountError, Quantity};
use serde::Serialize;

use crate::{invoice::Bill, money::Minor, plan::PlanRef};

/// What one charge of one plan came to, by one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    pub quantity: Quantity,
    pub amount: Minor,
}

/// Amounts by plan and charge. `None` = the side cannot say which.
pub type Amounts = BTreeMap<Option<(PlanRef, String)>, Amount>;

/// One charge of which the two sides say different things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charge: Option<String>,
    pub expected: Amount,
    pub invoiced: Amount,
}

/// Everything that is known of a period's units and money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sides {
    /// All that was sealed for the period of what the provider is told.
    pub ledger: Quantity,
    /// What of it the provider took.
    pub accepted: Quantity,
    /// What of it a person must decide on: refused, or in dispute.
    pub stuck: Quantity,
    /// What the provider's own sum of the period says.
    pub summary: Quantity,
    /// What the invoice asks money for.
    pub invoiced: Quantity,
    /// What corrections hold, beside the invoice.
    pub carried: Quantity,
    /// What is on the bill and asked for by nobody: use of a trial.
    pub free: Quantity,
    /// What came too late for the invoice and is in no correction yet.
    pub late: Quantity,
    /// Whether a final invoice was found.
    pub has_invoice: bool,
    /// Whether a plan prices the period.
    pub rated: bool,
    pub expected: Amounts,
    pub asked: Amounts,
}

/// What a tie-out comes to; the first that holds, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Units were refused, or are in dispute.
    Stuck,
    /// The provider's sum is not what it took from us.
    Summary,
    /// Sealed units are neither with the provider nor carried.
    Units,
    /// No plan of the book prices the period.
    Unrated,
    /// There should be an invoice and there is none.
    NoInvoice,
    /// The invoice asks for another amount than our rating.
    Amount,
    /// All agrees but for late use whose correction is still to come.
    Late,
    /// All agree.
    Ties,
}

/// Who has to act on a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    Nobody,
    /// Who runs the plans and prices.
    Operator,
    /// Who runs the process.
    Engineering,
    /// Who answers for what customers are asked to pay.
    Finance,
}

/// The result of a tie-out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tied {
    pub verdict: Verdict,
    pub owner: Owner,
    pub differences: Vec<Difference>,
}

impl Verdict {
    /// The word that is stored and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::Summary => "summary",
            Self::Units => "units",
            Self::Unrated => "unrated",
            Self::NoInvoice => "no_invoice",
            Self::Amount => "amount",
            Self::Late => "late",
            Self::Ties => "ties",
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn owner(self) -> Owner {
        match self {
            Self::Late | Self::Ties => Owner::Nobody,
            Self::Unrated => Owner::Operator,
            Self::Stuck | Self::Summary | Self::Units => Owner::Engineering,
            Self::NoInvoice | Self::Amount => Owner::Finance,
        }
    }
}

impl Owner {
    /// The word that is stored and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Operator => "operator",
            Self::Engineering => "engineering",
            Self::Finance => "finance",
        }
    }
}

/// How many of the reports, in the order in which the provider took them, are on an invoice that asks for `invoiced`.
///
/// Reports of a customer and meter go out one at a time, so those that came too late for an invoice are the last ones:
/// the rest is a beginning of the list. `None` = no beginning adds up to it, and nothing must be guessed.
#[must_use]
pub fn held(reports: &[Quantity], invoiced: Quantity) -> Option<usize> {
    let mut sum = 0u128;
    let target = u128::from(invoiced.0);
    let sums = std::iter::once(0).chain(reports.iter().map(|one| {
        sum += u128::from(one.0);
        sum
    }));
    sums.enumerate().filter(|(_, sum)| *sum == target).map(|(count, _)| count).last()
}

/// What a bill asks for, by plan and charge.
///
/// # Errors
/// Out of range.
pub fn amounts(bill: &Bill) -> Result<Amounts, AmountError> {
    let mut amounts = Amounts::new();
    for line in &bill.lines {
        let place = usize::try_from(line.term).map_err(|_| AmountError)?;
        let term = bill.terms.get(place).ok_or(AmountError)?;
        let key = Some((term.plan.clone(), line.charge.clone()));
        let amount = line.amount.checked_sub(line.discount)?;
        add(&mut amounts, key, Amount { quantity: line.quantity, amount })?;
    }
    for commitment in &bill.commitments {
        let amount = Amount { quantity: Quantity::ZERO, amount: commitment.amount };
        add(&mut amounts, None, amount)?;
    }
    Ok(amounts)
}

/// Adds to what a charge came to.
///
/// # Errors
/// Out of range.
pub fn add(
    amounts: &mut Amounts,
    key: Option<(PlanRef, String)>,
    more: Amount,
) -> Result<(), AmountError> {
    let sum = amounts.entry(key).or_default();
    sum.quantity = sum.quantity.checked_add(more.quantity)?;
    sum.amount = Minor::sum([sum.amount, more.amount])?;
    Ok(())
}

/// Lays the sides together.
#[must_use]
pub fn tie(sides: &Sides) -> Tied {
    let differences = differences(&sides.expected, &sides.asked);
    let told = sides.accepted.0.checked_add(sides.stuck.0);
    let billed = sides.invoiced.0.checked_add(sides.carried.0);
    let billed = billed.and_then(|billed| billed.checked_add(sides.free.0));
    let billed = billed.and_then(|billed| billed.checked_add(sides.late.0));
    let asks = sides.expected.values().any(|one| one.amount != Minor::ZERO);
    let verdict = if sides.stuck > Quantity::ZERO {
        Verdict::Stuck
    } else if sides.summary != sides.accepted {
        Verdict::Summary
    } else if !sides.rated {
        Verdict::Unrated
    } else if !sides.has_invoice && asks {
        Verdict::NoInvoice
    } else if billed != Some(sides.ledger.0) || told.is_none_or(|told| told > sides.ledger.0) {
        Verdict::Units
    } else if !differences.is_empty() {
        Verdict::Amount
    } else if sides.late > Quantity::ZERO {
        Verdict::Late
    } else {
        Verdict::Ties
    };
    Tied { verdict, owner: verdict.owner(), differences }
}

/// Charges whose money differs. The quantities are shown beside it; a side may show those of free use or not.
fn differences(expected: &Amounts, asked: &Amounts) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<_> = expected.keys().chain(asked.keys()).collect();
    let both = keys.into_iter().map(|key| {
        let of = |side: &Amounts| side.get(key).copied().unwrap_or_default();
        let (plan, charge) = key.clone().unzip();
        Difference { plan, charge, expected: of(expected), invoiced: of(asked) }
    });
    both.filter(|one| one.expected.amount != one.invoiced.amount).collect()
}

#[cfg(test)]
#[path = "tie/tests.rs"]
mod tests;
