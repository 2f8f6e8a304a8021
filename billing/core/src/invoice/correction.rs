//! What changes when a closed period is rated again: late use, a plan change that was told of late, a credit.
//!
//! A closed bill never changes. The period is rated anew as a whole and the correction is the difference, line by line:
//! so the bill and its corrections always add up to the whole, whatever the price model. A bill before the period's end
//! and the closing one work the same way: the second is the whole, and what is asked for is the difference. Invariant:
//! earlier total + difference = later total. Absent on purpose: how a difference is collected or paid back.

use std::collections::BTreeMap;

use schemas::{AmountError, Quantity, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Bill, LogRange};
use crate::{money::Minor, plan::PlanRef};

/// The difference between two bills of the same tenant and period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// [`Bill::digest`] of the earlier bill.
    pub of: String,
    /// [`Bill::digest`] of the later bill.
    pub by: String,
    pub log: LogRange,
    /// Lines that differ, by the beginning of their term, plan and charge.
    pub lines: Vec<LineChange>,
    /// What coupons, commitments and credits changed by, together.
    pub settlement: Minor,
    /// What is owed more; below 0: to be given back.
    pub difference: Minor,
}

/// One line before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineChange {
    pub from: Timestamp,
    pub plan: PlanRef,
    pub charge: String,
    pub quantity_before: Quantity,
    pub quantity_after: Quantity,
    pub amount_before: Minor,
    pub amount_after: Minor,
}

/// Why two bills have no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorrectionError {
    #[error("the bills are not of one tenant, period and currency")]
    UnlikeBills,
    #[error(transparent)]
    Amount(#[from] AmountError),
}

type Key = (Timestamp, PlanRef, String);

impl Bill {
    /// What this bill asks for beyond the `earlier` one of the same period.
    ///
    /// # Errors
    /// Bills of another tenant, period or currency; an amount out of range.
    pub fn since(&self, earlier: &Self) -> Result<Correction, CorrectionError> {
        let whose = |bill: &Self| (bill.tenant, bill.period, bill.currency);
        if whose(self) != whose(earlier) {
            return Err(CorrectionError::UnlikeBills);
        }
        let mut changes: BTreeMap<Key, LineChange> = BTreeMap::new();
        for (key, quantity, amount) in earlier.by_key() {
            let change = changes.entry(key.clone()).or_insert_with(|| LineChange::of(key));
            (change.quantity_before, change.amount_before) = (quantity, amount);
        }
        for (key, quantity, amount) in self.by_key() {
            let change = changes.entry(key.clone()).or_insert_with(|| LineChange::of(key));
            (change.quantity_after, change.amount_after) = (quantity, amount);
        }
        let differs = |change: &LineChange| {
            change.amount_before != change.amount_after
                || change.quantity_before != change.quantity_after
        };
        let difference = self.total.checked_sub(earlier.total)?;
        Ok(Correction {
            of: earlier.digest(),
            by: self.digest(),
            log: self.log.clone(),
            lines: changes.into_values().filter(differs).collect(),
            settlement: difference.checked_sub(self.subtotal.checked_sub(earlier.subtotal)?)?,
            difference,
        })
    }

    /// Its lines by what they are the same lines by.
    fn by_key(&self) -> impl Iterator<Item = (Key, Quantity, Minor)> + '_ {
        self.lines.iter().filter_map(|line| {
            let term = self.terms.get(usize::try_from(line.term).ok()?)?;
            let key = (term.period.from, term.plan.clone(), line.charge.clone());
            Some((key, line.quantity, line.amount))
        })
    }
}

impl LineChange {
    fn of((from, plan, charge): Key) -> Self {
        Self {
            from,
            plan,
            charge,
            quantity_before: Quantity::ZERO,
            quantity_after: Quantity::ZERO,
            amount_before: Minor::ZERO,
            amount_after: Minor::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::TenantId;

    use super::*;
    use crate::invoice::{
        UsageLine,
        tests::{at, basic, better, bill, january, meter, uuid, with},
    };

    #[test]
    fn late_use_is_a_correction_and_the_closed_bill_stays() {
        let usage = [("tool_calls", "2024-01-04T00:00:00Z", 1500)];
        let statement = january(&[("2023-05-01", "basic")], &usage);
        let closed = bill(&[basic("basic")], &statement);
        let late = with(statement, |one| {
            one.log.last = 950;
            one.usage.push(UsageLine {
                meter: meter("tool_calls"),
                at: at("2024-01-31T23:00:00Z"),
                quantity: Quantity(250),
            });
        });
        let again = bill(&[basic("basic")], &late);
        let correction = again.since(&closed).unwrap();
        assert_eq!(correction.difference.units(), 250);
        assert_eq!(correction.lines.len(), 1);
        let change = &correction.lines[0];
        assert_eq!((change.quantity_before.0, change.quantity_after.0), (1500, 1750));
        assert_eq!((correction.of, correction.by), (closed.digest(), again.digest()));
        let back = closed.since(&again).unwrap();
        assert_eq!(back.difference.units(), -250);
    }

    #[test]
    fn a_plan_change_that_is_told_of_late_is_a_correction_too() {
        let plans = [basic("basic"), better()];
        let before = bill(&plans, &january(&[("2023-05-01", "basic")], &[]));
        let after =
            bill(&plans, &january(&[("2023-05-01", "basic"), ("2024-01-17", "better")], &[]));
        let correction = after.since(&before).unwrap();
        let changes: Vec<_> = correction
            .lines
            .iter()
            .map(|one| {
                (one.plan.plan.as_str(), one.amount_before.units(), one.amount_after.units())
            })
            .collect();
        assert_eq!(changes, [("basic", 3100, 1600), ("better", 0, 3000)]);
        assert_eq!(correction.difference.units(), 1500);
        let other = january(&[("2023-05-01", "basic")], &[]);
        let other = bill(&plans, &with(other, |one| one.tenant = TenantId(uuid(8))));
        assert_eq!(other.since(&before), Err(CorrectionError::UnlikeBills));
    }
}
