//! Money: exact decimals while rating, whole minor units on a bill, and the named rules that lead from one to the other.
//!
//! Invariants: nothing is a float; nothing wraps (what leaves its range is an error); rounding happens where it is
//! called for by name and nowhere else; what is split into parts adds up to the whole again. Absent on purpose: rates
//! of exchange, and amounts of unlike currencies in one sum (a bill has one currency).

use std::{fmt, str::FromStr};

use schemas::AmountError;
use serde::{Deserialize, Serialize};

use crate::currency::Currency;

/// Decimals that an exact amount keeps: Stripe's twelve of a minor unit, also where that is a thousandth.
pub const DECIMALS: u8 = 15;
/// Steps of an exact amount in one major unit.
const ONE: i128 = 10i128.pow(DECIMALS as u32);

/// An exact amount in major units (dollars, yen), or any exact decimal such as a per cent.
///
/// In JSON a plain decimal text, such as `"0.0008"`, since a JSON number is a float to most readers. Range: about
/// ±1.7 × 10^23 in steps of 10^-15. Every product and sum of prices and quantities in that range is exact.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Exact(i128);

/// A text that is no decimal, or has more decimals than are kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a decimal of at most {DECIMALS} decimals, such as `0.0008`")]
pub struct ExactError(pub String);

impl Exact {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One major unit.
    pub const ONE: Self = Self(ONE);

    /// The sum.
    ///
    /// # Errors
    /// Out of range.
    pub fn checked_add(self, other: Self) -> Result<Self, AmountError> {
        self.0.checked_add(other.0).map(Self).ok_or(AmountError)
    }

    /// The difference.
    ///
    /// # Errors
    /// Out of range.
    pub fn checked_sub(self, other: Self) -> Result<Self, AmountError> {
        self.0.checked_sub(other.0).map(Self).ok_or(AmountError)
    }

    /// This amount that many times.
    ///
    /// # Errors
    /// Out of range.
    pub fn times(self, times: u64) -> Result<Self, AmountError> {
        self.0.checked_mul(i128::from(times)).map(Self).ok_or(AmountError)
    }

    /// The amount for one of `per`, when it is exact.
    ///
    /// # Errors
    /// `per` is 0, or the quotient has more decimals than are kept.
    pub fn divided_exactly(self, per: u64) -> Result<Self, AmountError> {
        match i128::from(per) {
            1 => Ok(self),
            0 => Err(AmountError),
            per if self.0 % per == 0 => Ok(Self(self.0 / per)),
            _ => Err(AmountError),
        }
    }

    /// The part `numerator / denominator` of this amount, in whole minor units.
    ///
    /// # Errors
    /// Out of range, or a denominator of 0.
    pub fn part(
        self,
        numerator: u64,
        denominator: u64,
        scale: Scale,
    ) -> Result<Minor, AmountError> {
        let over = self.0.checked_mul(i128::from(numerator)).ok_or(AmountError)?;
        let under = i128::from(denominator).checked_mul(scale.step()).ok_or(AmountError)?;
        if under == 0 {
            return Err(AmountError);
        }
        Minor::try_new(scale.rounding.divide(over, under))
    }

    /// The amount in whole minor units.
    ///
    /// # Errors
    /// Out of range.
    pub fn round(self, scale: Scale) -> Result<Minor, AmountError> {
        Minor::try_new(scale.rounding.divide(self.0, scale.step()))
    }

    /// The amount in whole minor units, if it is whole.
    #[must_use]
    pub fn whole(self, currency: Currency) -> Option<Minor> {
        let step = Scale { currency, rounding: Rounding::Down }.step();
        if self.0 % step == 0 { Minor::try_new(self.0 / step).ok() } else { None }
    }

    /// Whether it is below nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl FromStr for Exact {
    type Err = ExactError;

    fn from_str(text: &str) -> Result<Self, ExactError> {
        let refused = || ExactError(text.chars().take(64).collect());
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(whole) || !plain(fraction) || fraction.len() > usize::from(DECIMALS) {
            return Err(refused());
        }
        let padded = format!("{fraction:0<width$}", width = usize::from(DECIMALS));
        let steps: i128 = padded.parse().map_err(|_| refused())?;
        let whole: i128 = whole.parse().map_err(|_| refused())?;
        let all = whole.checked_mul(ONE).and_then(|whole| whole.checked_add(steps));
        all.map(|all| Self(sign * all)).ok_or_else(refused)
    }
}

impl TryFrom<String> for Exact {
    type Error = ExactError;

    fn try_from(text: String) -> Result<Self, ExactError> {
        text.parse()
    }
}

impl From<Exact> for String {
    fn from(amount: Exact) -> Self {
        amount.to_string()
    }
}

impl fmt::Display for Exact {
    /// One spelling only: no trailing zeros, no point without a fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let one = ONE.unsigned_abs();
        let (whole, steps) = (self.0.unsigned_abs() / one, self.0.unsigned_abs() % one);
        if steps == 0 {
            return write!(f, "{sign}{whole}");
        }
        let fraction = format!("{steps:0>width$}", width = usize::from(DECIMALS));
        write!(f, "{sign}{whole}.{}", fraction.trim_end_matches('0'))
    }
}

impl fmt::Debug for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How an exact amount becomes whole minor units. All rules treat an amount and its negative alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To the nearest; a tie goes away from nothing: 1.5 → 2, as Stripe does for each line.
    #[default]
    HalfUp,
    /// To the nearest; a tie goes to the even neighbour: 2.5 → 2.
    HalfEven,
    /// Away from nothing: 1.1 → 2.
    Up,
    /// Towards nothing: 1.9 → 1.
    Down,
}

impl Rounding {
    /// `over / under`, for `under` above 0.
    fn divide(self, over: i128, under: i128) -> i128 {
        let quotient = over / under;
        let rest = (over - quotient * under).abs();
        let away = match self {
            Self::HalfUp => rest >= under - rest,
            Self::HalfEven => rest > under - rest || (rest == under - rest && quotient % 2 != 0),
            Self::Up => rest > 0,
            Self::Down => false,
        };
        if away { quotient + over.signum() } else { quotient }
    }
}

/// What an exact amount is rounded to: the minor unit of a currency, by a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub currency: Currency,
    pub rounding: Rounding,
}

impl Scale {
    /// Steps of an exact amount in one minor unit.
    fn step(self) -> i128 {
        10i128.pow(u32::from(DECIMALS - self.currency.decimals()))
    }
}

/// Whole minor units of a currency that the context names (cents, yen, fils); below nothing is owed to the customer.
///
/// In JSON a whole number. Range: ±9_007_199_254_740_991 (2^53 - 1, what every JSON reader keeps exactly).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "i64", into = "i64")]
pub struct Minor(i64);

impl Minor {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(9_007_199_254_740_991);

    /// This many minor units.
    ///
    /// # Errors
    /// Out of range.
    pub fn try_new(units: impl TryInto<i64>) -> Result<Self, AmountError> {
        match units.try_into() {
            Ok(units) if (-Self::MAX.0..=Self::MAX.0).contains(&units) => Ok(Self(units)),
            _ => Err(AmountError),
        }
    }

    /// How many minor units.
    #[must_use]
    pub fn units(self) -> i64 {
        self.0
    }

    /// The sum.
    ///
    /// # Errors
    /// Out of range.
    pub fn checked_add(self, other: Self) -> Result<Self, AmountError> {
        Self::try_new(self.0 + other.0) // Cannot wrap: both are below 2^53.
    }

    /// The difference.
    ///
    /// # Errors
    /// Out of range.
    pub fn checked_sub(self, other: Self) -> Result<Self, AmountError> {
        Self::try_new(self.0 - other.0)
    }

    /// The sum of many.
    ///
    /// # Errors
    /// Out of range on the way.
    pub fn sum(amounts: impl IntoIterator<Item = Self>) -> Result<Self, AmountError> {
        amounts.into_iter().try_fold(Self::ZERO, Self::checked_add)
    }

    /// So many per cent of it.
    ///
    /// # Errors
    /// Out of range.
    pub fn percent(self, percent: Exact, rounding: Rounding) -> Result<Self, AmountError> {
        let over = i128::from(self.0).checked_mul(percent.0).ok_or(AmountError)?;
        Self::try_new(rounding.divide(over, 100 * ONE))
    }

    /// The exact amount.
    #[must_use]
    pub fn exact(self, currency: Currency) -> Exact {
        // Fits: 2^53 times at most 10^15.
        Exact(i128::from(self.0) * Scale { currency, rounding: Rounding::Down }.step())
    }
}

impl TryFrom<i64> for Minor {
    type Error = AmountError;

    fn try_from(units: i64) -> Result<Self, AmountError> {
        Self::try_new(units)
    }
}

impl From<Minor> for i64 {
    fn from(amount: Minor) -> Self {
        amount.0
    }
}

/// Splits a rounded `total` over the `exact` amounts that it is the sum of: each gets its whole minor units, and what
/// is left goes, one unit each, to the largest remainders (of equal ones, to the first).
///
/// # Errors
/// Out of range; an amount below nothing; a total that no rounding of the sum can be.
pub fn split_rounded(
    total: Minor,
    exact: &[Exact],
    currency: Currency,
) -> Result<Vec<Minor>, AmountError> {
    let step = Scale { currency, rounding: Rounding::Down }.step();
    let weights = exact.iter().map(|amount| (amount.0 / step, amount.0 % step));
    largest_remainder(total, weights.collect())
}

/// Splits `total` over `weights` in proportion, by largest remainder (of equal ones, to the first).
///
/// # Errors
/// Out of range; a weight below nothing; something to split and no weight.
pub fn split_by_weight(total: Minor, weights: &[Minor]) -> Result<Vec<Minor>, AmountError> {
    let all: i128 = weights.iter().map(|weight| i128::from(weight.0)).sum();
    if total == Minor::ZERO {
        return Ok(vec![Minor::ZERO; weights.len()]);
    }
    if all <= 0 {
        return Err(AmountError);
    }
    let ideal = weights.iter().map(|weight| i128::from(weight.0) * i128::from(total.0));
    largest_remainder(total, ideal.map(|ideal| (ideal / all, ideal % all)).collect())
}

/// Hands out what the quotients leave of `total`, one unit each, to the largest remainders.
fn largest_remainder(total: Minor, parts: Vec<(i128, i128)>) -> Result<Vec<Minor>, AmountError> {
    if parts.iter().any(|(quotient, rest)| *quotient < 0 || *rest < 0) {
        return Err(AmountError);
    }
    let given: i128 = parts.iter().map(|(quotient, _)| quotient).sum();
    let left = usize::try_from(i128::from(total.0) - given).map_err(|_| AmountError)?;
    if left > parts.len() {
        return Err(AmountError);
    }
    let mut order: Vec<usize> = (0..parts.len()).collect();
    if left > 0 {
        order.sort_by_key(|&place| (std::cmp::Reverse(parts[place].1), place));
    }
    let mut units: Vec<i128> = parts.into_iter().map(|(quotient, _)| quotient).collect();
    for &place in &order[..left] {
        units[place] += 1;
    }
    units.into_iter().map(Minor::try_new).collect()
}

#[cfg(test)]
#[path = "money/tests.rs"]
mod tests;
