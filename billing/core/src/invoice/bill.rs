//! The bill as it is stored for ever. Amounts are in minor units of its currency, prices in major units.

use schemas::{MeterName, Period, Quantity, TenantId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{LogRange, Statement};
use crate::{
    credit::Draw,
    currency::Currency,
    money::{Exact, Minor},
    plan::PlanRef,
    proration::{Prorate, Share},
    rate::Part,
};

/// What a tenant owes for a period, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bill {
    /// The form of this text: 1.
    pub v: u8,
    /// The rules that it was rated by.
    pub engine: u32,
    pub tenant: TenantId,
    pub period: Period,
    pub currency: Currency,
    pub time_zone: String,
    pub proration: Prorate,
    pub log: LogRange,
    /// Whether it closes the period.
    pub closing: bool,
    /// The parts of the period, in order of time.
    pub terms: Vec<BilledTerm>,
    /// By term, then in the order of the plan's charges.
    pub lines: Vec<Line>,
    /// Use that no line prices.
    pub unbilled: Vec<Unbilled>,
    /// The sum of the lines.
    pub subtotal: Minor,
    pub discounts: Vec<Discount>,
    pub commitments: Vec<Commitment>,
    /// Grants of units that covered use.
    pub unit_credits: Vec<Draw>,
    /// Grants of money that paid.
    pub credits: Vec<Draw>,
    /// What is owed.
    pub total: Minor,
}

/// A part of the period under one version of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BilledTerm {
    pub plan: PlanRef,
    /// SHA-256 of the plan's canonical text, in hexadecimal digits.
    pub digest: String,
    pub period: Period,
    /// Nothing is charged in it.
    pub trial: bool,
    pub share: Share,
}

/// What one charge of one term comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Place of its term in the bill, from 0.
    pub term: u32,
    pub charge: String,
    /// Absent for a fee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<MeterName>,
    /// Units used; 0 for a fee.
    pub quantity: Quantity,
    /// Units of it that grants covered and no price was applied to.
    pub granted: Quantity,
    /// For a fee: the whole of it, before it was prorated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee: Option<Exact>,
    /// For use: before rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<Exact>,
    /// For use: by which rules; they add up to `rated`.
    pub parts: Vec<Part>,
    /// Rounded.
    pub rated: Minor,
    /// What the charge's own minimum adds or its maximum takes away.
    pub adjustment: Minor,
    /// `rated` and `adjustment`.
    pub amount: Minor,
    /// Its part of all coupons.
    pub discount: Minor,
}

/// Use that is on the bill and costs nothing, since no price was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unbilled {
    pub meter: MeterName,
    pub quantity: Quantity,
    pub why: Why,
}

/// Why use is unbilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Before the subscription began, or after it ended.
    NoSubscription,
    /// The plan has no price for the meter.
    NoPrice,
}

/// What a coupon took off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discount {
    pub coupon: String,
    /// Range: above 0.
    pub amount: Minor,
}

/// What a plan's minimum added, or its maximum took away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// Place of its term in the bill, from 0.
    pub term: u32,
    pub kind: CommitmentKind,
    /// The term's share of the limit.
    pub limit: Minor,
    /// What the term's lines came to after coupons.
    pub spent: Minor,
    /// Above 0 for a minimum, below for a maximum.
    pub amount: Minor,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitmentKind {
    Minimum,
    Maximum,
}

impl Bill {
    /// A bill of a statement with nothing on it yet.
    pub(super) fn empty(statement: &Statement) -> Self {
        Self {
            v: 1,
            engine: statement.engine,
            tenant: statement.tenant,
            period: statement.period,
            currency: statement.currency,
            time_zone: statement.time_zone.clone(),
            proration: statement.proration,
            log: statement.log.clone(),
            closing: statement.closing,
            terms: Vec::new(),
            lines: Vec::new(),
            unbilled: Vec::new(),
            subtotal: Minor::ZERO,
            discounts: Vec::new(),
            commitments: Vec::new(),
            unit_credits: Vec::new(),
            credits: Vec::new(),
            total: Minor::ZERO,
        }
    }

    /// What it is written as, in one way only: JSON without spaces, its fields in the order of this type.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a bill has text keys and no floats")
    }

    /// SHA-256 of [`Bill::canonical`], in hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        hex::encode(<[u8; 32]>::from(Sha256::digest(self.canonical())))
    }
}
