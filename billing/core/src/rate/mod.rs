//! What a quantity costs under a price, part by part.
//!
//! Pure and total: every price that passes its check rates every quantity, or says that an amount left its range.
//! Invariants: a line is rounded once (as Stripe rounds a line), its parts by largest remainder so that they add up to
//! it; the parts' quantities add up to what was rated. What further use costs is the difference of two wholes
//! ([`marginal`]): so pieces of a period add up to the whole by construction. Absent on purpose: which usage belongs to
//! which price, minimum, maximum, discounts and credits (see `invoice`).

pub mod flat;
pub mod graduated;
pub mod package;
pub mod per_unit;
pub mod volume;

use schemas::{AmountError, Quantity};
use serde::{Deserialize, Serialize};

use crate::{
    money::{Exact, Minor, Scale, split_rounded},
    price::{Price, Tier},
};

/// Why a part costs what it costs. Prices are in major units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rule {
    /// A fee for the period.
    Fee { price: Exact },
    /// Units that the price includes.
    Included,
    /// `price` for every `per` units.
    Units { price: Exact, per: u64 },
    /// `price` for every `per` units that fall into a tier (counted from 1).
    TierUnits { tier: u32, price: Exact, per: u64 },
    /// The fee of a tier.
    TierFee { tier: u32, price: Exact },
    /// Whole packs.
    Packs { packs: u64, size: u64, price: Exact },
}

/// A part of a line: so many units, by that rule, for so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Units that this part prices; a fee prices none.
    pub quantity: Quantity,
    #[serde(flatten)]
    pub rule: Rule,
    /// Before rounding, in major units.
    pub exact: Exact,
    /// Its part of the rounded line, in minor units.
    pub amount: Minor,
}

/// What a quantity costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rated {
    pub parts: Vec<Part>,
    /// Before rounding, in major units.
    pub exact: Exact,
    /// Rounded once: the sum of the parts' amounts.
    pub amount: Minor,
}

/// What `quantity` units of a period cost.
///
/// # Errors
/// An amount left its range, or the price would not pass its check.
pub fn rate(price: &Price, quantity: Quantity, scale: Scale) -> Result<Rated, AmountError> {
    let parts = match price {
        Price::Flat { amount } => flat::parts(*amount),
        Price::PerUnit { amount, per, included } => {
            per_unit::parts(*amount, *per, *included, quantity)?
        }
        Price::Graduated { tiers, flat_at_zero } => {
            graduated::parts(tiers, *flat_at_zero, quantity)?
        }
        Price::Volume { tiers, flat_at_zero } => volume::parts(tiers, *flat_at_zero, quantity)?,
        Price::Package { amount, size, free, begun } => {
            package::parts(*amount, *size, *free, *begun, quantity)?
        }
    };
    round(parts, scale)
}

/// What `more` units cost after `before` units of the same period: the whole less what came before.
///
/// Below nothing where more use makes all units cheaper (volume prices). In major units, exact.
///
/// # Errors
/// As [`rate`], and where both together are past `u64::MAX`.
pub fn marginal(
    price: &Price,
    before: Quantity,
    more: Quantity,
    scale: Scale,
) -> Result<Exact, AmountError> {
    let whole = rate(price, before.checked_add(more)?, scale)?.exact;
    whole.checked_sub(rate(price, before, scale)?.exact)
}

/// Rounds the line once and its parts so that they add up to it.
fn round(mut parts: Vec<Part>, scale: Scale) -> Result<Rated, AmountError> {
    let exact = parts.iter().try_fold(Exact::ZERO, |sum, part| sum.checked_add(part.exact))?;
    let amount = exact.round(scale)?;
    if let [only] = parts.as_mut_slice() {
        only.amount = amount;
    } else {
        let exacts: Vec<Exact> = parts.iter().map(|part| part.exact).collect();
        let amounts = split_rounded(amount, &exacts, scale.currency)?;
        for (part, amount) in parts.iter_mut().zip(amounts) {
            part.amount = amount;
        }
    }
    Ok(Rated { parts, exact, amount })
}

/// A part before its line is rounded.
fn part(quantity: u64, rule: Rule, exact: Exact) -> Part {
    Part { quantity: Quantity(quantity), rule, exact, amount: Minor::ZERO }
}

/// Adds what `quantity` units and the fee of the tier at `place` cost.
fn push_tier(
    parts: &mut Vec<Part>,
    place: usize,
    tier: &Tier,
    quantity: u64,
) -> Result<(), AmountError> {
    let number = u32::try_from(place + 1).map_err(|_| AmountError)?;
    if tier.flat != Exact::ZERO {
        parts.push(part(0, Rule::TierFee { tier: number, price: tier.flat }, tier.flat));
    }
    if quantity > 0 {
        let exact = tier.unit.divided_exactly(tier.per)?.times(quantity)?;
        let rule = Rule::TierUnits { tier: number, price: tier.unit, per: tier.per };
        parts.push(part(quantity, rule, exact));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod properties;
#[cfg(test)]
mod testing;
