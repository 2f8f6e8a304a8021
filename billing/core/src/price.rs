//! Price models as data: what one meter, or a subscription as such, costs.
//!
//! Invariants (held by [`Price::check`], which every plan passes before it rates anything): no price is below nothing;
//! tiers are in order and the last is open; a price for many units is exact for one. Absent on purpose: formulas and
//! code in prices, so that a price can be read, compared and rated again years later.

use schemas::Quantity;
use serde::{Deserialize, Serialize};

use crate::money::Exact;

/// What is charged for. Amounts are in major units of the price list's currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", deny_unknown_fields)]
pub enum Price {
    /// A fee for the period, whatever is used; of a part of the period, that part of it.
    Flat { amount: Exact },
    /// `amount` for every `per` units past the `included` ones, and in proportion for a part of `per`.
    PerUnit {
        amount: Exact,
        #[serde(default = "one", skip_serializing_if = "is_one")]
        per: u64,
        #[serde(default, skip_serializing_if = "no_units")]
        included: Quantity,
    },
    /// Each unit costs what the tier costs that it falls into; a tier's fee falls due with its first unit.
    Graduated {
        tiers: Vec<Tier>,
        /// Whether the first tier's fee falls due without any use.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        flat_at_zero: bool,
    },
    /// All units cost what the tier costs that the last one falls into, and that tier's fee.
    Volume {
        tiers: Vec<Tier>,
        /// Whether the first tier's fee falls due without any use.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        flat_at_zero: bool,
    },
    /// `amount` for each pack of `size` units past the `free` ones.
    Package {
        amount: Exact,
        size: u64,
        #[serde(default, skip_serializing_if = "no_units")]
        free: Quantity,
        /// What a begun pack counts as.
        #[serde(default, skip_serializing_if = "is_up")]
        begun: Begun,
    },
}

/// One tier of a graduated or volume price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// The last unit in it, counted from the first of the period; absent in the last tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<Quantity>,
    /// The price of `per` units.
    #[serde(default)]
    pub unit: Exact,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub per: u64,
    /// The fee of the tier.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub flat: Exact,
}

/// What a begun pack counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begun {
    /// A whole one.
    #[default]
    Up,
    /// None.
    Down,
}

/// Why a price cannot be charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    #[error("a price is below nothing")]
    Negative,
    #[error("a price for {per} units is not exact for one unit")]
    NotExact { per: u64 },
    #[error("a pack holds no units")]
    EmptyPack,
    #[error("tier {tier} does not end above the one before it")]
    TierOrder { tier: usize },
    #[error("the last tier, and only the last, must be open")]
    OpenTier,
}

impl Price {
    /// Whether this price can be charged for any quantity.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), PriceError> {
        match self {
            Self::Flat { amount } => not_negative(*amount),
            Self::PerUnit { amount, per, .. } => unit(*amount, *per),
            Self::Graduated { tiers, .. } | Self::Volume { tiers, .. } => check_tiers(tiers),
            Self::Package { size: 0, .. } => Err(PriceError::EmptyPack),
            Self::Package { amount, .. } => not_negative(*amount),
        }
    }

    /// Whether it is charged for the subscription as such and not for use.
    #[must_use]
    pub fn is_fee(&self) -> bool {
        matches!(self, Self::Flat { .. })
    }
}

fn check_tiers(tiers: &[Tier]) -> Result<(), PriceError> {
    let mut below = Quantity::ZERO;
    for (place, tier) in tiers.iter().enumerate() {
        unit(tier.unit, tier.per)?;
        not_negative(tier.flat)?;
        match tier.up_to {
            Some(end) if end <= below => return Err(PriceError::TierOrder { tier: place }),
            Some(end) => below = end,
            None if place + 1 < tiers.len() => return Err(PriceError::OpenTier),
            None => return Ok(()),
        }
    }
    Err(PriceError::OpenTier)
}

fn not_negative(amount: Exact) -> Result<(), PriceError> {
    if amount.is_negative() { Err(PriceError::Negative) } else { Ok(()) }
}

fn unit(amount: Exact, per: u64) -> Result<(), PriceError> {
    not_negative(amount)?;
    amount.divided_exactly(per).map(drop).map_err(|_| PriceError::NotExact { per })
}

fn one() -> u64 {
    1
}

// The signatures that serde asks for.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_one(per: &u64) -> bool {
    *per == 1
}

fn no_units(quantity: &Quantity) -> bool {
    *quantity == Quantity::ZERO
}

fn is_nothing(amount: &Exact) -> bool {
    *amount == Exact::ZERO
}

fn is_up(begun: &Begun) -> bool {
    *begun == Begun::Up
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Price, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn prices_are_data() {
        #[track_caller]
        fn check(json: &str, outcome: Result<(), PriceError>) {
            assert_eq!(read(json).unwrap().check(), outcome, "{json}");
        }
        check(r#"{"model":"flat","amount":"49"}"#, Ok(()));
        check(r#"{"model":"flat","amount":"-1"}"#, Err(PriceError::Negative));
        check(r#"{"model":"per_unit","amount":"0.8","per":1000,"included":10000}"#, Ok(()));
        let third = Err(PriceError::NotExact { per: 3 });
        check(r#"{"model":"per_unit","amount":"1","per":3}"#, third);
        let none = Err(PriceError::NotExact { per: 0 });
        check(r#"{"model":"per_unit","amount":"1","per":0}"#, none);
        check(r#"{"model":"package","amount":"15","size":10,"free":5}"#, Ok(()));
        check(r#"{"model":"package","amount":"15","size":0}"#, Err(PriceError::EmptyPack));
        check(r#"{"model":"graduated","tiers":[{"up_to":5,"flat":"1"},{"unit":"1"}]}"#, Ok(()));
        check(r#"{"model":"graduated","tiers":[]}"#, Err(PriceError::OpenTier));
        check(r#"{"model":"volume","tiers":[{"up_to":5,"unit":"1"}]}"#, Err(PriceError::OpenTier));
        check(
            r#"{"model":"volume","tiers":[{"unit":"1"},{"up_to":5}]}"#,
            Err(PriceError::OpenTier),
        );
        let order = Err(PriceError::TierOrder { tier: 1 });
        check(r#"{"model":"volume","tiers":[{"up_to":5},{"up_to":5},{"unit":"1"}]}"#, order);
        let zero = Err(PriceError::TierOrder { tier: 0 });
        check(r#"{"model":"volume","tiers":[{"up_to":0},{"unit":"1"}]}"#, zero);
    }

    #[test]
    fn a_price_of_tomorrow_or_with_a_slip_is_refused() {
        for json in [
            r#"{"model":"matrix","amount":"1"}"#,
            r#"{"model":"flat","amount":1.5}"#,
            r#"{"model":"flat","amount":"1","amuont":"2"}"#,
            r#"{"model":"package","amount":"1","size":2,"begun":"sideways"}"#,
            r#"{"model":"per_unit","amount":"1","included":-1}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_price_is_written_in_one_way() {
        let json = r#"{"model":"package","amount":"15","size":10}"#;
        assert_eq!(serde_json::to_string(&read(json).unwrap()).unwrap(), json);
        let spelled = r#"{"size":10,"free":0,"begun":"up","amount":"15.00","model":"package"}"#;
        assert_eq!(serde_json::to_string(&read(spelled).unwrap()).unwrap(), json);
    }
}
