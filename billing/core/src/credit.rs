//! Credits: grants of money or of units, in which order they are used, and what of them rolls over.
//!
//! Invariants: used + left − overage = granted, while nothing expires or is reset; the same steps in one run or in
//! several end alike, and so does one use cut into several at the same moment. A grant counts from `granted_at` until
//! just before `expires_at`. Absent on purpose: what a grant cost, and who may give one.

use std::cmp::Ordering;

use schemas::{AmountError, MeterName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::currency::Currency;

/// What a grant is counted in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Minor units of a currency; they pay what is left to pay of a bill.
    Money(Currency),
    /// Units of a meter; they are used before any is priced.
    Units(MeterName),
}

/// A grant and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    pub grant: String,
    pub of: Of,
    /// The lower is used first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u32,
    pub granted_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What is left. Range: up to 2^53 - 1.
    pub left: u64,
    /// What a reset makes of it; absent: a reset leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollover: Option<Rollover>,
}

/// What a reset leaves of a grant: what is left, but at least and at most so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollover {
    pub minimum: u64,
    pub maximum: u64,
}

/// What was taken of one grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    pub grant: String,
    /// Range: from 1.
    pub used: u64,
    pub left: u64,
}

/// Grants of one kind, in the order in which they are used, and what was used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wallet {
    grants: Vec<Grant>,
    used: u64,
    overage: u64,
}

/// Something that happens to a wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Granted(Grant),
    Used {
        amount: u64,
        at: Timestamp,
    },
    /// A new period: what is left rolls over, the use begins at nothing again.
    Reset {
        at: Timestamp,
        /// Whether what was used past the grants is taken from what rolls over, or forgiven.
        keep_overage: bool,
    },
}

// The signature that serde asks for.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(priority: &u32) -> bool {
    *priority == 0
}

impl Grant {
    /// Whether it counts at that moment.
    #[must_use]
    pub fn counts(&self, at: Timestamp) -> bool {
        self.granted_at <= at && self.expires_at.is_none_or(|end| at < end)
    }

    /// Which of two is used first: the lower priority, then what expires sooner, then the older, then the lower name.
    #[must_use]
    pub fn before(&self, other: &Self) -> Ordering {
        let place = |grant: &Self| {
            let end = grant.expires_at.unwrap_or(Timestamp(i64::MAX));
            (grant.priority, grant.expires_at.is_none(), end, grant.granted_at)
        };
        place(self).cmp(&place(other)).then_with(|| self.grant.cmp(&other.grant))
    }
}

impl Wallet {
    /// A wallet with these grants.
    #[must_use]
    pub fn new(mut grants: Vec<Grant>) -> Self {
        grants.sort_by(Grant::before);
        Self { grants, used: 0, overage: 0 }
    }

    /// The grants, in the order in which they are used.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// What has been used since the last reset.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// What of it no grant covered.
    #[must_use]
    pub fn overage(&self) -> u64 {
        self.overage
    }

    /// What is left at that moment.
    ///
    /// # Errors
    /// Past `u64::MAX`.
    pub fn balance(&self, at: Timestamp) -> Result<u64, AmountError> {
        let counting = self.grants.iter().filter(|grant| grant.counts(at));
        counting.map(|grant| grant.left).try_fold(0, u64::checked_add).ok_or(AmountError)
    }

    /// Takes up to `amount` from the grants that count; the rest is overage. Gives what each grant gave.
    ///
    /// # Errors
    /// More was used than `u64::MAX`; nothing was taken.
    pub fn draw(&mut self, amount: u64, at: Timestamp) -> Result<Vec<Draw>, AmountError> {
        let used = self.used.checked_add(amount).ok_or(AmountError)?;
        self.overage.checked_add(amount).ok_or(AmountError)?; // Whatever part of it becomes overage.
        let mut open = amount;
        let draws = self.take(&mut open, at);
        self.used = used;
        self.overage += open;
        Ok(draws)
    }

    fn take(&mut self, open: &mut u64, at: Timestamp) -> Vec<Draw> {
        let mut draws = Vec::new();
        for grant in self.grants.iter_mut().filter(|grant| grant.counts(at)) {
            let used = grant.left.min(*open);
            if used > 0 {
                grant.left -= used;
                *open -= used;
                draws.push(Draw { grant: grant.grant.clone(), used, left: grant.left });
            }
        }
        draws
    }

    /// Folds one step.
    ///
    /// # Errors
    /// An amount left its range; the wallet is as it was.
    pub fn step(&mut self, step: &Step) -> Result<(), AmountError> {
        match step {
            Step::Granted(grant) => {
                let place = self.grants.partition_point(|known| known.before(grant).is_le());
                self.grants.insert(place, grant.clone());
            }
            Step::Used { amount, at } => {
                self.draw(*amount, *at)?;
            }
            Step::Reset { at, keep_overage } => self.reset(*at, *keep_overage),
        }
        Ok(())
    }

    fn reset(&mut self, at: Timestamp, keep_overage: bool) {
        for grant in self.grants.iter_mut().filter(|grant| grant.counts(at)) {
            if let Some(Rollover { minimum, maximum }) = grant.rollover {
                grant.left = grant.left.max(minimum).min(maximum);
            }
        }
        self.used = 0;
        let mut owed = std::mem::take(&mut self.overage);
        if keep_overage {
            self.take(&mut owed, at);
            self.overage = owed;
        }
    }
}

#[cfg(test)]
mod tests;
