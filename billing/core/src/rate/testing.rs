//! What the tables of the price models share.

use schemas::{AmountError, Quantity};

use super::{Rule, rate};
use crate::{
    money::{Rounding, Scale},
    price::Price,
};

pub(crate) fn price(json: &str) -> Price {
    serde_json::from_str(json).unwrap()
}

pub(crate) fn scale(currency: &str) -> Scale {
    Scale { currency: currency.parse().unwrap(), rounding: Rounding::HalfUp }
}

/// One row, one claim: so many units cost so much, exactly and in minor units.
#[track_caller]
pub(crate) fn check(price: &Price, currency: &str, quantity: u64, exact: &str, minor: i64) {
    let rated = rate(price, Quantity(quantity), scale(currency)).unwrap();
    assert_eq!(rated.exact.to_string(), exact, "{quantity} {currency}: exact");
    assert_eq!(rated.amount.units(), minor, "{quantity} {currency}: minor units");
}

#[track_caller]
pub(crate) fn check_refused(price: &Price, currency: &str, quantity: u64) {
    assert_eq!(rate(price, Quantity(quantity), scale(currency)), Err(AmountError), "{quantity}");
}

/// The parts in dollars: units, rule, cents.
pub(crate) fn parts(price: &Price, quantity: u64) -> Vec<(u64, Rule, i64)> {
    let rated = rate(price, Quantity(quantity), scale("usd")).unwrap();
    rated.parts.iter().map(|part| (part.quantity.0, part.rule, part.amount.units())).collect()
}
