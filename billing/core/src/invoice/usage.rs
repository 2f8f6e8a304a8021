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

#[cfg(test)]
mod tests {
    use schemas::Quantity;
    use serde_json::json;

    use crate::invoice::{
        Why,
        tests::{amounts, at, basic, better, bill, grant, january, with},
    };

    #[test]
    fn a_trial_uses_up_no_grant() {
        let usage = [
            ("tool_calls", "2024-01-03T00:00:00Z", 300),
            ("tool_calls", "2024-01-20T00:00:00Z", 40),
        ];
        let statement = with(january(&[("2024-01-01", "basic")], &usage), |one| {
            one.subscription.trial_until = Some(at("2024-01-17"));
            one.grants = vec![grant("g", &json!({"units": "tool_calls"}), 100)];
        });
        let bill = bill(&[basic("basic")], &statement);
        let granted: Vec<u64> = bill.lines.iter().map(|line| line.granted.0).collect();
        assert_eq!((granted, bill.unit_credits[0].left), (vec![0, 0, 0, 40], 60));
    }

    #[test]
    fn use_that_no_price_covers_is_named() {
        let statement = january(
            &[("2024-01-05", "basic")],
            &[
                ("tool_calls", "2024-01-04T23:00:00Z", 3),
                ("tokens", "2024-01-06T00:00:00Z", 5),
                ("tokens", "2024-01-07T00:00:00Z", 6),
                ("tool_calls", "2024-01-25T00:00:00Z", 9),
            ],
        );
        let statement = with(statement, |one| one.subscription.ends_at = Some(at("2024-01-21")));
        let bill = bill(&[basic("basic")], &statement);
        let unbilled: Vec<_> =
            bill.unbilled.iter().map(|one| (one.meter.as_str(), one.quantity.0, one.why)).collect();
        assert_eq!(
            unbilled,
            [("tokens", 11, Why::NoPrice), ("tool_calls", 12, Why::NoSubscription)]
        );
    }

    #[test]
    fn grants_of_units_cover_use_before_it_is_priced() {
        let statement = january(
            &[("2023-05-01", "basic")],
            &[
                ("tool_calls", "2024-01-20T00:00:00Z", 2000),
                ("tool_calls", "2024-01-03T00:00:00Z", 100),
            ],
        );
        let units = json!({"units": "tool_calls"});
        let statement = with(statement, |one| {
            let short = crate::credit::Grant {
                expires_at: Some(at("2024-01-10")),
                ..grant("short", &units, 300)
            };
            one.grants = vec![
                grant("long", &units, 400),
                short,
                grant("other", &json!({"units": "tokens"}), 999),
                grant("euros", &json!({"money": "eur"}), 999),
            ];
        });
        let bill = bill(&[basic("basic")], &statement);
        // 100 by what expires first, in order of time; then 400; 1,000 of the other 1,600 are included.
        assert_eq!(bill.lines[1].granted, Quantity(500));
        assert_eq!(amounts(&bill), [3100, 600]);
        let draws: Vec<_> =
            bill.unit_credits.iter().map(|one| (one.grant.as_str(), one.used, one.left)).collect();
        assert_eq!(draws, [("long", 400, 0), ("short", 100, 200)]);
        assert_eq!(bill.credits, [], "euros do not pay dollars");
    }

    #[test]
    fn the_earlier_use_is_covered_first_in_whatever_order_it_is_told() {
        let terms = [("2023-05-01", "basic"), ("2024-01-17", "better")];
        let usage = [
            ("tool_calls", "2024-01-20T00:00:00Z", 80),
            ("tool_calls", "2024-01-03T00:00:00Z", 80),
        ];
        let statement = with(january(&terms, &usage), |one| {
            one.grants = vec![grant("g", &json!({"units": "tool_calls"}), 100)];
        });
        let bill = bill(&[basic("basic"), better()], &statement);
        let granted: Vec<u64> = bill.lines.iter().map(|line| line.granted.0).collect();
        assert_eq!(granted, [0, 80, 0, 20]);
    }

    #[test]
    fn an_hour_belongs_whole_to_the_plan_that_holds_at_its_beginning() {
        let statement = january(
            &[("2023-05-01", "basic"), ("2024-01-17T00:30:00Z", "better")],
            &[("tool_calls", "2024-01-17T00:00:00Z", 1100)],
        );
        assert_eq!(bill(&[basic("basic"), better()], &statement).lines[1].quantity, Quantity(1100));
    }
}
