//! Coupons: what comes off a bill, and on how many bills.
//!
//! Invariant: a discount never takes more than what is left. A coupon that takes nothing off (an empty bill) is not
//! used up by it; who keeps the count of uses adds those that the bill names. Absent on purpose: codes, who may redeem
//! one, and coupons for single charges.

use std::collections::BTreeMap;

use schemas::AmountError;
use serde::{Deserialize, Serialize};

use crate::{
    currency::Currency,
    money::{Exact, Minor, Rounding},
};

/// A coupon as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coupon {
    pub coupon: String,
    pub off: Off,
    pub lasts: Lasts,
}

/// What comes off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Off {
    /// Per cent of what is left. Range: above 0, up to 100.
    Percent(Exact),
    /// An amount in each currency that it can be used with, in major units.
    Amount(BTreeMap<Currency, Exact>),
}

/// On how many bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lasts {
    Once,
    /// On this many.
    Repeating(u32),
    Forever,
}

/// Why a coupon cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CouponError {
    #[error("coupon `{0}` takes nothing off, more than everything, or no whole minor units")]
    Worthless(String),
    #[error("coupon `{coupon}` has no amount in {currency}")]
    OtherCurrency { coupon: String, currency: Currency },
    #[error(transparent)]
    Amount(#[from] AmountError),
}

impl Coupon {
    /// What comes off `left` when the coupon has been used on `uses` bills before.
    ///
    /// # Errors
    /// A coupon that makes no sense, or has no amount in this currency.
    pub fn discount(
        &self,
        uses: u32,
        left: Minor,
        currency: Currency,
    ) -> Result<Minor, CouponError> {
        let worthless = || CouponError::Worthless(self.coupon.clone());
        let off = match &self.off {
            Off::Percent(percent) => {
                let whole = Exact::ONE.times(100)?;
                if *percent <= Exact::ZERO || *percent > whole {
                    return Err(worthless());
                }
                left.percent(*percent, Rounding::HalfUp)?
            }
            Off::Amount(amounts) => {
                let other = || CouponError::OtherCurrency { coupon: self.coupon.clone(), currency };
                let amount = amounts.get(&currency).ok_or_else(other)?;
                amount.whole(currency).filter(|off| *off > Minor::ZERO).ok_or_else(worthless)?
            }
        };
        let spent = match self.lasts {
            Lasts::Once => uses >= 1,
            Lasts::Repeating(bills) => uses >= bills,
            Lasts::Forever => false,
        };
        Ok(if spent { Minor::ZERO } else { off.min(left) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coupon(json: &str) -> Coupon {
        serde_json::from_str(json).unwrap()
    }

    fn off(coupon: &Coupon, uses: u32, left: i64, currency: &str) -> Result<i64, CouponError> {
        let left = Minor::try_new(left).unwrap();
        coupon.discount(uses, left, currency.parse().unwrap()).map(Minor::units)
    }

    #[test]
    fn coupons() {
        let half = coupon(r#"{"coupon":"half","off":{"percent":"50"},"lasts":"forever"}"#);
        assert_eq!(off(&half, 0, 1000, "usd"), Ok(500));
        assert_eq!(off(&half, 99, 1001, "jpy"), Ok(501), "half up, for the bill and not for lines");
        assert_eq!(off(&half, 0, 0, "usd"), Ok(0));
        let fine = coupon(r#"{"coupon":"fine","off":{"percent":"12.5"},"lasts":{"repeating":3}}"#);
        assert_eq!(off(&fine, 2, 1000, "usd"), Ok(125));
        assert_eq!(off(&fine, 3, 1000, "usd"), Ok(0), "three bills and no more");
        let ten = r#"{"coupon":"ten","off":{"amount":{"usd":"10","jpy":"1500"}},"lasts":"once"}"#;
        let ten = coupon(ten);
        assert_eq!(off(&ten, 0, 2500, "usd"), Ok(1000));
        assert_eq!(off(&ten, 0, 2500, "jpy"), Ok(1500), "yen have no minor unit");
        assert_eq!(off(&ten, 0, 700, "usd"), Ok(700), "never more than what is left");
        assert_eq!(off(&ten, 1, 2500, "usd"), Ok(0), "once");
    }

    #[test]
    fn a_coupon_that_makes_no_sense_is_refused() {
        let refused =
            |json: &str, currency: &str| off(&coupon(json), 0, 100, currency).unwrap_err();
        for percent in ["0", "-5", "100.01"] {
            let json =
                format!(r#"{{"coupon":"c","off":{{"percent":"{percent}"}},"lasts":"once"}}"#);
            assert_eq!(refused(&json, "usd"), CouponError::Worthless("c".into()), "{percent}");
        }
        let json = r#"{"coupon":"c","off":{"amount":{"usd":"0.005"}},"lasts":"once"}"#;
        assert_eq!(refused(json, "usd"), CouponError::Worthless("c".into()), "half a cent");
        let (coupon, currency) = ("c".to_owned(), "eur".parse().unwrap());
        assert_eq!(refused(json, "eur"), CouponError::OtherCurrency { coupon, currency });
    }
}
