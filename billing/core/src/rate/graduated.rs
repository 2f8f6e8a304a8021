//! Tiers in which each unit costs what its own tier costs.

use schemas::{AmountError, Quantity};

use super::{Part, push_tier};
use crate::price::Tier;

/// Tier by tier; a tier's fee falls due with its first unit, the first tier's at once if it says so.
pub(super) fn parts(
    tiers: &[Tier],
    flat_at_zero: bool,
    quantity: Quantity,
) -> Result<Vec<Part>, AmountError> {
    let mut parts = Vec::with_capacity(tiers.len());
    let mut below = Quantity::ZERO;
    for (place, tier) in tiers.iter().enumerate() {
        let reached = quantity > below || (place == 0 && flat_at_zero);
        if !reached {
            return Ok(parts);
        }
        let end = tier.up_to.unwrap_or(Quantity(u64::MAX));
        let inside = quantity.at_most(end).left_after(below);
        push_tier(&mut parts, place, tier, inside.0)?;
        below = end;
    }
    // Only an unchecked price ends before infinity: nothing may be served for nothing.
    if quantity > below { Err(AmountError) } else { Ok(parts) }
}

#[cfg(test)]
mod tests {
    use schemas::Quantity;

    use crate::{
        price::Price,
        rate::{
            Rule, marginal,
            testing::{check, check_refused, parts, price, scale},
        },
    };

    /// OpenMeter's case: two tiers with a fee only, then two with a price only.
    fn openmeter() -> Price {
        price(
            r#"{"model":"graduated","tiers":[{"up_to":5,"flat":"100"},{"up_to":10,"flat":"50"},
                {"up_to":15,"unit":"5"},{"unit":"1"}]}"#,
        )
    }

    #[test]
    fn graduated_prices() {
        check(&openmeter(), "usd", 0, "0", 0); // No use, no fee; see below.
        check(&openmeter(), "usd", 1, "100", 10_000);
        check(&openmeter(), "usd", 5, "100", 10_000); // `up_to` is in the tier, as at Stripe.
        check(&openmeter(), "usd", 6, "150", 15_000);
        check(&openmeter(), "usd", 15, "175", 17_500);
        check(&openmeter(), "usd", 22, "182", 18_200); // OpenMeter: 100 + 50 + 25 + 7.
        // A peers' case that names where tiers begin: from 0 at 1.0, from 100 at 0.5, from 200 at 0.25. Ours names where
        // they end, inclusive, as Stripe and OpenMeter do: the 100th unit is still the first tier's.
        let halves = price(
            r#"{"model":"graduated","tiers":[{"up_to":100,"unit":"1"},{"up_to":200,"unit":"0.5"},{"unit":"0.25"}]}"#,
        );
        check(&halves, "usd", 150, "125", 12_500);
        check(&halves, "usd", 100, "100", 10_000);
        check(&halves, "usd", 101, "100.5", 10_050);
        check(&halves, "usd", 201, "150.25", 15_025);
        check(&halves, "jpy", 101, "100.5", 101);
    }

    #[test]
    fn a_fee_without_use_is_charged_only_if_the_price_says_so() {
        // OpenMeter's volume price charges the first tier's fee at 0; we do so only where the price asks for it.
        let asked = price(
            r#"{"model":"graduated","flat_at_zero":true,"tiers":[{"up_to":5,"flat":"100"},{"flat":"7"}]}"#,
        );
        check(&asked, "usd", 0, "100", 10_000);
        check(&asked, "usd", 5, "100", 10_000);
        check(&asked, "usd", 6, "107", 10_700);
    }

    #[test]
    fn more_use_costs_what_the_whole_costs_more() {
        // OpenMeter: 12 units before, 10 more: 3 × 5 + 7 × 1 = 22.
        let more = marginal(&openmeter(), Quantity(12), Quantity(10), scale("usd"));
        assert_eq!(more.unwrap().to_string(), "22");
        assert_eq!(
            parts(&openmeter(), 12)[4],
            (2, Rule::TierUnits { tier: 3, price: "5".parse().unwrap(), per: 1 }, 1000)
        );
        assert_eq!(
            marginal(&openmeter(), Quantity(1), Quantity(u64::MAX), scale("usd")),
            Err(schemas::AmountError)
        );
    }

    #[test]
    fn parts_of_a_cent_go_to_the_largest_remainder() {
        let fine = price(
            r#"{"model":"graduated","tiers":[{"up_to":1,"unit":"0.004"},{"up_to":2,"unit":"0.003"},{"unit":"0.004"}]}"#,
        );
        check(&fine, "usd", 3, "0.011", 1);
        let amounts: Vec<i64> = parts(&fine, 3).iter().map(|(_, _, amount)| *amount).collect();
        assert_eq!(amounts, [1, 0, 0]);
    }

    #[test]
    fn the_largest_quantity_is_rated_or_refused() {
        check_refused(&openmeter(), "usd", u64::MAX);
        let free = price(r#"{"model":"graduated","tiers":[{"up_to":5,"unit":"1"},{"unit":"0"}]}"#);
        check(&free, "usd", u64::MAX, "5", 500);
        let unchecked = price(r#"{"model":"graduated","tiers":[{"up_to":5,"unit":"1"}]}"#);
        check(&unchecked, "usd", 5, "5", 500);
        check_refused(&unchecked, "usd", 6); // What no tier covers is never served for nothing.
    }
}
