//! Tiers in which all units cost what the last one's tier costs.

use schemas::{AmountError, Quantity};

use super::{Part, push_tier};
use crate::price::Tier;

/// All units and the fee of the one tier that the quantity falls into; at 0 nothing, unless the price says so.
pub(super) fn parts(
    tiers: &[Tier],
    flat_at_zero: bool,
    quantity: Quantity,
) -> Result<Vec<Part>, AmountError> {
    let mut parts = Vec::with_capacity(2);
    if quantity == Quantity::ZERO && !flat_at_zero {
        return Ok(parts);
    }
    let covers = |tier: &Tier| tier.up_to.is_none_or(|end| quantity <= end);
    let place = tiers.iter().position(covers).ok_or(AmountError)?;
    push_tier(&mut parts, place, &tiers[place], quantity.0)?;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use schemas::Quantity;

    use crate::{
        price::Price,
        rate::{
            marginal,
            testing::{check, check_refused, price, scale},
        },
    };

    /// OpenMeter's case.
    fn openmeter(flat_at_zero: bool) -> Price {
        price(&format!(
            r#"{{"model":"volume","flat_at_zero":{flat_at_zero},"tiers":[{{"up_to":5,"flat":"100"}},
                {{"up_to":10,"flat":"150"}},{{"up_to":15,"unit":"10"}},{{"unit":"5"}}]}}"#
        ))
    }

    #[test]
    fn volume_prices() {
        for (quantity, total) in [(3, 100), (5, 100), (14, 140), (15, 150), (16, 80), (100, 500)] {
            check(&openmeter(true), "usd", quantity, &total.to_string(), total * 100);
            check(&openmeter(false), "usd", quantity, &total.to_string(), total * 100);
        }
        check(&openmeter(false), "usd", 7, "150", 15_000);
        // A peers' case that names where tiers begin: from 0 at 1.0, from 100 at 0.5, from 200 at 0.25.
        let halves = price(
            r#"{"model":"volume","tiers":[{"up_to":100,"unit":"1"},{"up_to":200,"unit":"0.5"},{"unit":"0.25"}]}"#,
        );
        check(&halves, "usd", 150, "75", 7_500);
        check(&halves, "usd", 100, "100", 10_000);
        check(&halves, "usd", 101, "50.5", 5_050);
        check(&halves, "kwd", 101, "50.5", 50_500);
    }

    #[test]
    fn a_fee_without_use_is_charged_only_if_the_price_says_so() {
        check(&openmeter(true), "usd", 0, "100", 10_000); // OpenMeter: always so.
        check(&openmeter(false), "usd", 0, "0", 0); // Ours, by default: no use, no charge for use.
    }

    #[test]
    fn more_use_may_cost_less() {
        let more = marginal(&openmeter(false), Quantity(15), Quantity(1), scale("usd"));
        assert_eq!(more.unwrap().to_string(), "-70");
    }

    #[test]
    fn the_largest_quantity_is_rated_or_refused() {
        check_refused(&openmeter(false), "usd", u64::MAX);
        let fee = price(r#"{"model":"volume","tiers":[{"flat":"3"}]}"#);
        check(&fee, "usd", u64::MAX, "3", 300);
        check_refused(&price(r#"{"model":"volume","tiers":[{"up_to":5,"unit":"1"}]}"#), "usd", 6);
    }
}
