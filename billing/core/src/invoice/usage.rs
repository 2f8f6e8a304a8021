//! Which use belongs to which charge of which term, and what of it grants of units cover.
//!
//! Invariant: of each meter, what is assigned and what is unbilled add up to what was used.

use std::collections::BTreeMap;

use schemas::{AmountError, MeterName, Quantity, Timestamp};

use super::{BillError, Statement, Unbilled, Why, lines::RatedTerm};
use crate::credit::{Draw, Grant, Of, Wallet};

/// What one charge of one term has to price.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    /// All units.
    pub quantity: Quantity,
    /// What grants cover of them.
    pub granted: Quantity,
}

/// All use of a statement, assigned.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    /// By term and charge.
    pub used: Vec<Vec<Used>>,
    pub unbilled: Vec<Unbilled>,
    pub unit_credits: Vec<Draw>,
}

/// Where the units of one line go.
enum Place {
    Charge { term: usize, charge: usize },
    Nowhere(Why),
}

/// Assigns every line of use.
pub(super) fn assign(
    terms: &[RatedTerm<'_>],
    statement: &Statement,
) -> Result<Assigned, BillError> {
    let mut used: Vec<Vec<Used>> =
        terms.iter().map(|term| vec![Used::default(); term.list.charges.len()]).collect();
    let mut unbilled: BTreeMap<(&MeterName, Why), Quantity> = BTreeMap::new();
    let mut wallets = Wallets::of(&statement.grants);
    for line in wallets.in_order(statement) {
        if !statement.period.contains(line.at) {
            return Err(BillError::OutsidePeriod(line.at));
        }
        match place(terms, &line.meter, line.at) {
            Place::Charge { term, charge } => {
                let used = &mut used[term][charge];
                used.quantity = used.quantity.checked_add(line.quantity)?;
                if !terms[term].trial {
                    let covered = wallets.cover(&line.meter, line.quantity, line.at)?;
                    used.granted = used.granted.checked_add(covered)?;
                }
            }
            Place::Nowhere(why) => {
                let sum = unbilled.entry((&line.meter, why)).or_default();
                *sum = sum.checked_add(line.quantity)?;
            }
        }
    }
    let unbilled = unbilled.into_iter().filter(|(_, quantity)| *quantity > Quantity::ZERO);
    let named = unbilled
        .map(|((meter, why), quantity)| Unbilled { meter: meter.clone(), quantity, why })
        .collect();
    Ok(Assigned { used, unbilled: named, unit_credits: wallets.draws() })
}

fn place(terms: &[RatedTerm<'_>], meter: &MeterName, at: Timestamp) -> Place {
    let Some(term) = terms.iter().position(|term| term.period.contains(at)) else {
        return Place::Nowhere(Why::NoSubscription);
    };
    let prices = |meter_of: &Option<MeterName>| meter_of.as_ref() == Some(meter);
    match terms[term].list.charges.iter().position(|charge| prices(&charge.meter)) {
        Some(charge) => Place::Charge { term, charge },
        None => Place::Nowhere(Why::NoPrice),
    }
}

/// The grants of units, by meter.
struct Wallets<'a> {
    wallets: BTreeMap<&'a MeterName, Wallet>,
    draws: BTreeMap<String, Draw>,
}

impl<'a> Wallets<'a> {
    fn of(grants: &'a [Grant]) -> Self {
        let mut by_meter: BTreeMap<&MeterName, Vec<Grant>> = BTreeMap::new();
        for grant in grants {
            if let Of::Units(meter) = &grant.of {
                by_meter.entry(meter).or_default().push(grant.clone());
            }
        }
        let wallets =
            by_meter.into_iter().map(|(meter, grants)| (meter, Wallet::new(grants))).collect();
        Self { wallets, draws: BTreeMap::new() }
    }

    /// The lines in order of time where that matters: a grant that ends covers earlier use only.
    fn in_order<'b>(&self, statement: &'b Statement) -> Vec<&'b super::UsageLine> {
        let mut lines: Vec<&super::UsageLine> = statement.usage.iter().collect();
        if !self.wallets.is_empty() {
            lines.sort_by_key(|line| line.at);
        }
        lines
    }

    /// Takes what is left for the meter, up to the quantity.
    fn cover(
        &mut self,
        meter: &MeterName,
        quantity: Quantity,
        at: Timestamp,
    ) -> Result<Quantity, AmountError> {
        let Some(wallet) = self.wallets.get_mut(meter) else {
            return Ok(Quantity::ZERO);
        };
        let mut covered = Quantity::ZERO;
        for draw in wallet.draw(quantity.0, at)? {
            covered = covered.checked_add(Quantity(draw.used))?;
            let known = self.draws.entry(draw.grant.clone());
            let sum = known.or_insert(Draw { used: 0, ..draw.clone() });
            sum.used = sum.used.checked_add(draw.used).ok_or(AmountError)?;
            sum.left = draw.left;
        }
        Ok(covered)
    }

    fn draws(self) -> Vec<Draw> {
        self.draws.into_values().collect()
    }
}
