//! What a bill is computed from: all that is not in the book of plans.

use schemas::{MeterName, Period, Quantity, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    coupon::Coupon,
    credit::Grant,
    currency::Currency,
    proration::{Prorate, Subscription},
};

/// A tenant's period as the ledger, the subscription and the credits have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The rules to rate by: [`super::ENGINE`] for a new bill, the bill's own for an old one.
    pub engine: u32,
    pub tenant: TenantId,
    /// The whole period that fees are for; a subscription that begins or ends inside it pays its part.
    pub period: Period,
    pub currency: Currency,
    /// IANA name; says where a day begins when fees are prorated by day.
    pub time_zone: String,
    #[serde(default)]
    pub proration: Prorate,
    /// Where the usage was read from.
    pub log: LogRange,
    /// Whether this is the period's end; a bill before it leaves minimums out.
    pub closing: bool,
    pub subscription: Subscription,
    /// In any order.
    pub usage: Vec<UsageLine>,
    /// In the order in which they are taken off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coupons: Vec<AppliedCoupon>,
    /// As they stood when the period began; in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
}

/// The messages of the log that were folded: both ends are in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRange {
    pub stream: String,
    pub first: u64,
    pub last: u64,
}

/// Units of a meter in one hour (or in what of it lies behind a change).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageLine {
    pub meter: MeterName,
    /// The start of the hour; it decides which plan prices it.
    pub at: Timestamp,
    pub quantity: Quantity,
}

/// A coupon and on how many bills it was used before this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliedCoupon {
    pub coupon: Coupon,
    #[serde(default)]
    pub uses: u32,
}
