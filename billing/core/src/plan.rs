//! Plans: numbered versions of what a subscription costs, as data, and the book that holds them.
//!
//! Invariants: a plan that is in a [`Book`] has passed its check; a version never changes, and its digest shows it;
//! a plan charges for the same things in every currency. Absent on purpose: what a plan allows (quotas and features
//! are decisions of their own), and prices that are computed.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{MeterName, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    currency::Currency,
    money::{Exact, Minor, Rounding},
    price::{Price, PriceError},
};

/// Milliseconds in a day of a trial.
const DAY_MS: i64 = 86_400_000;

/// A version of a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRef {
    pub plan: String,
    /// Range: from 1.
    pub version: u32,
}

/// One version of a plan, as it is stored for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The form of this text: 1.
    pub v: u8,
    pub plan: String,
    pub version: u32,
    /// For people.
    pub title: String,
    /// How long a new subscription is free. Unit: days of 24 hours.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trial_days: u32,
    /// How a line becomes whole minor units.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rounding: Rounding,
    /// What a part of a period includes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allowance: Allowance,
    pub prices: BTreeMap<Currency, PriceList>,
}

/// How much of the included and free units a part of a period has. Tiers are never cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allowance {
    /// All of them.
    #[default]
    Whole,
    /// The part that the time is of the period.
    Prorated,
}

/// What a plan costs in one currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceList {
    /// In the order in which a bill shows them.
    pub charges: Vec<Charge>,
    /// The least that is charged for a period (a commitment), in major units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Exact>,
    /// The most that is charged for a period, in major units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Exact>,
}

/// One thing that is charged for: a fee, or the use of one meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Charge {
    pub charge: String,
    /// Present unless the price is a fee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<MeterName>,
    pub price: Price,
    /// The least that this charge comes to in a period, in major units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Exact>,
    /// The most that this charge comes to in a period, in major units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Exact>,
}

/// Why a plan cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("it is not a plan of form 1: {0}")]
    Unreadable(String),
    #[error("`{0}` is not a name: 1 to 64 of a-z, 0-9, `-` and `_`")]
    Name(String),
    #[error("versions count from 1")]
    VersionZero,
    #[error("it has no prices")]
    NoPrices,
    #[error("charge `{charge}`: {source}")]
    Price { charge: String, source: PriceError },
    #[error("charge `{0}` must have a meter, unless it is a fee")]
    Meter(String),
    #[error("charge or meter `{0}` is there twice")]
    Twice(String),
    #[error("{0} charges for other things than the first currency")]
    UnlikeCurrencies(Currency),
    #[error("a minimum or maximum is below nothing, not whole minor units, or the wrong way round")]
    Limits,
    #[error("version {version} of plan `{plan}` is there twice", plan = .0.plan, version = .0.version)]
    VersionTwice(PlanRef),
}

impl Plan {
    /// Reads a plan and checks it.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(json: &str) -> Result<Self, PlanError> {
        let plan: Self =
            serde_json::from_str(json).map_err(|error| PlanError::Unreadable(error.to_string()))?;
        plan.check()?;
        Ok(plan)
    }

    /// The name of this version.
    #[must_use]
    pub fn reference(&self) -> PlanRef {
        PlanRef { plan: self.plan.clone(), version: self.version }
    }

    /// When the trial of a subscription ends that begins at `start`; none without trial days.
    #[must_use]
    pub fn trial_end(&self, start: Timestamp) -> Option<Timestamp> {
        (self.trial_days > 0).then(|| start.plus_ms(i64::from(self.trial_days) * DAY_MS))
    }

    /// What it is written as, in one way only.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a plan has text keys and no floats")
    }

    /// Whether everything in it can be charged.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), PlanError> {
        check_name(&self.plan)?;
        if self.v != 1 {
            return Err(PlanError::Unreadable(format!("its form is {}", self.v)));
        }
        if self.version == 0 {
            return Err(PlanError::VersionZero);
        }
        let first = self.prices.values().next().ok_or(PlanError::NoPrices)?;
        for (currency, list) in &self.prices {
            list.check(*currency)?;
            if !list.things().eq(first.things()) {
                return Err(PlanError::UnlikeCurrencies(*currency));
            }
        }
        Ok(())
    }
}

impl PriceList {
    fn things(&self) -> impl Iterator<Item = (&str, Option<&MeterName>)> {
        self.charges.iter().map(|charge| (charge.charge.as_str(), charge.meter.as_ref()))
    }

    fn check(&self, currency: Currency) -> Result<(), PlanError> {
        check_limits(self.minimum, self.maximum, currency)?;
        let mut seen = BTreeSet::new();
        for Charge { charge, meter, price, minimum, maximum } in &self.charges {
            check_name(charge)?;
            check_limits(*minimum, *maximum, currency)?;
            let wrong = |source| PlanError::Price { charge: charge.clone(), source };
            price.check().map_err(wrong)?;
            if meter.is_some() == price.is_fee() {
                return Err(PlanError::Meter(charge.clone()));
            }
            if !seen.insert((false, charge.as_str())) {
                return Err(PlanError::Twice(charge.clone()));
            }
            // Two prices for one meter would bill each unit twice.
            if let Some(meter) = meter.as_ref().filter(|meter| !seen.insert((true, meter.as_str())))
            {
                return Err(PlanError::Twice(meter.to_string()));
            }
        }
        Ok(())
    }
}

fn check_limits(
    minimum: Option<Exact>,
    maximum: Option<Exact>,
    currency: Currency,
) -> Result<(), PlanError> {
    let fits = |limit: Option<Exact>| match limit.map(|limit| limit.whole(currency)) {
        None => true,
        Some(whole) => whole.is_some_and(|whole| whole >= Minor::ZERO),
    };
    let ordered = match (minimum, maximum) {
        (Some(least), Some(max)) => least <= max,
        _ => true,
    };
    if fits(minimum) && fits(maximum) && ordered { Ok(()) } else { Err(PlanError::Limits) }
}

fn check_name(name: &str) -> Result<(), PlanError> {
    let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(PlanError::Name(name.chars().take(80).collect()))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

// The signature that serde asks for.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(days: &u32) -> bool {
    *days == 0
}

/// A checked plan with the digest of what it is written as.
#[derive(Clone, Debug)]
pub struct Entry {
    pub plan: Plan,
    /// SHA-256 of [`Plan::canonical`], in hexadecimal digits: a version that was changed shows.
    pub digest: String,
}

/// Checked plans, each version once.
#[derive(Clone, Debug, Default)]
pub struct Book(BTreeMap<String, BTreeMap<u32, Entry>>);

impl Book {
    /// Takes plans in.
    ///
    /// # Errors
    /// A plan that does not pass its check, or a version that is there twice.
    pub fn try_new(plans: impl IntoIterator<Item = Plan>) -> Result<Self, PlanError> {
        let mut book = Self::default();
        for plan in plans {
            plan.check()?;
            let digest = hex::encode(<[u8; 32]>::from(Sha256::digest(plan.canonical())));
            let versions = book.0.entry(plan.plan.clone()).or_default();
            let reference = plan.reference();
            if versions.insert(plan.version, Entry { plan, digest }).is_some() {
                return Err(PlanError::VersionTwice(reference));
            }
        }
        Ok(book)
    }

    /// SHA-256 over the digests of all its plans, in order: books that price alike are alike.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let entries = self.0.values().flat_map(BTreeMap::values);
        entries
            .fold(Sha256::new(), |hash, entry| hash.chain_update(&entry.digest))
            .finalize()
            .into()
    }

    /// A version of a plan.
    #[must_use]
    pub fn get(&self, wanted: &PlanRef) -> Option<&Entry> {
        self.0.get(&wanted.plan)?.get(&wanted.version)
    }
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
