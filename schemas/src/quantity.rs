//! Whole units of a meter, with checked arithmetic only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whole units of one meter: calls, tokens, bytes. Range: `0..=9_007_199_254_740_991` where it crosses JSON
/// (2^53 - 1, what every JSON reader keeps exactly); `0..=u64::MAX` in sums.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(transparent)]
pub struct Quantity(pub u64);

/// An amount left its range; nothing was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an amount left its range")]
pub struct AmountError;

impl Quantity {
    /// No units.
    pub const ZERO: Self = Self(0);

    /// The sum.
    ///
    /// # Errors
    /// Past `u64::MAX`.
    pub fn checked_add(self, other: Self) -> Result<Self, AmountError> {
        self.0.checked_add(other.0).map(Self).ok_or(AmountError)
    }

    /// The difference.
    ///
    /// # Errors
    /// When `other` is the larger.
    pub fn checked_sub(self, other: Self) -> Result<Self, AmountError> {
        self.0.checked_sub(other.0).map(Self).ok_or(AmountError)
    }

    /// What is left of `self` after `used`; nothing when more was used than there is.
    #[must_use]
    pub fn left_after(self, used: Self) -> Self {
        Self(self.0.saturating_sub(used.0))
    }

    /// The smaller of two.
    #[must_use]
    pub fn at_most(self, cap: Self) -> Self {
        Self(self.0.min(cap.0))
    }
}
