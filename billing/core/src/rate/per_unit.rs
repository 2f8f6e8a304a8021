//! A price for each unit past the included ones; stated for 1, for 1,000, or any number that divides it exactly.

use schemas::{AmountError, Quantity};

use super::{Part, Rule, part};
use crate::money::Exact;

/// The included units, then the others at their price.
pub(super) fn parts(
    price: Exact,
    per: u64,
    included: Quantity,
    quantity: Quantity,
) -> Result<Vec<Part>, AmountError> {
    let one = price.divided_exactly(per)?;
    let within = quantity.at_most(included).0;
    let over = quantity.left_after(included).0;
    let mut parts = Vec::with_capacity(2);
    if within > 0 {
        parts.push(part(within, Rule::Included, Exact::ZERO));
    }
    if over > 0 {
        parts.push(part(over, Rule::Units { price, per }, one.times(over)?));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use crate::rate::{
        Rule,
        testing::{check, check_refused, parts, price},
    };

    #[test]
    fn per_unit_prices() {
        let cent = price(r#"{"model":"per_unit","amount":"0.01"}"#);
        check(&cent, "usd", 0, "0", 0);
        check(&cent, "usd", 1, "0.01", 1);
        check(&cent, "usd", 1_000_000, "10000", 1_000_000);
        // Stripe, decimal amounts: 1.5 of a cent is rounded to 2, for the line and not for each unit.
        let half = price(r#"{"model":"per_unit","amount":"0.005"}"#);
        check(&half, "usd", 1, "0.005", 1);
        check(&half, "usd", 3, "0.015", 2);
        check(&half, "usd", 1000, "5", 500);
        let fine = price(r#"{"model":"per_unit","amount":"0.00000000000001"}"#); // 12 decimals of a cent.
        check(&fine, "usd", 499_999_999_999, "0.00499999999999", 0);
        check(&fine, "usd", 500_000_000_000, "0.005", 1);
        let yen = price(r#"{"model":"per_unit","amount":"1.5"}"#);
        check(&yen, "jpy", 1, "1.5", 2);
        check(&yen, "kwd", 1, "1.5", 1500);
    }

    #[test]
    fn an_included_quantity_and_overage_per_thousand() {
        let overage = price(r#"{"model":"per_unit","amount":"0.8","per":1000,"included":10000}"#);
        check(&overage, "usd", 9_999, "0", 0);
        check(&overage, "usd", 10_000, "0", 0);
        check(&overage, "usd", 10_001, "0.0008", 0); // In proportion: not a begun thousand.
        check(&overage, "usd", 10_007, "0.0056", 1);
        check(&overage, "usd", 11_000, "0.8", 80);
        check(&overage, "usd", 12_500, "2", 200);
        assert_eq!(
            parts(&overage, 12_500),
            [
                (10_000, Rule::Included, 0),
                (2_500, Rule::Units { price: "0.8".parse().unwrap(), per: 1000 }, 200)
            ]
        );
    }

    #[test]
    fn the_largest_quantity_is_rated_or_refused() {
        let small = price(r#"{"model":"per_unit","amount":"0.000001"}"#);
        check(&small, "usd", u64::MAX, "18446744073709.551615", 1_844_674_407_370_955);
        check_refused(&price(r#"{"model":"per_unit","amount":"1"}"#), "usd", u64::MAX);
        check_refused(&price(r#"{"model":"per_unit","amount":"100000"}"#), "usd", u64::MAX);
    }
}
