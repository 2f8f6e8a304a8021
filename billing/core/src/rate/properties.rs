//! Laws of all price models, over prices and quantities of any size.

use proptest::prelude::*;
use schemas::Quantity;

use super::{marginal, rate};
use crate::{
    money::{Exact, Minor, Rounding, Scale},
    price::{Begun, Price, Tier},
};

/// An amount with up to six decimals.
fn amounts() -> impl Strategy<Value = Exact> {
    (0u64..100_000, 0u64..1_000_000)
        .prop_map(|(whole, millionths)| format!("{whole}.{millionths:06}").parse().unwrap())
}

/// Any quantity, and often a small one.
pub(crate) fn quantities() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0u64..200, 2 => 0u64..10_000_000, 1 => any::<u64>()]
}

fn tiers() -> impl Strategy<Value = Vec<Tier>> {
    let bounds = prop::collection::btree_set(1u64..5_000, 0..6);
    (bounds, prop::collection::vec((amounts(), amounts(), any::<bool>()), 7)).prop_map(
        |(bounds, prices)| {
            let ends = bounds.into_iter().map(|end| Some(Quantity(end))).chain([None]);
            let tier = |(up_to, (unit, fee, with_fee)): (_, (Exact, Exact, bool))| Tier {
                up_to,
                unit,
                per: 1000,
                flat: if with_fee { fee } else { Exact::ZERO },
            };
            ends.zip(prices).map(tier).collect()
        },
    )
}

/// Any price that passes its check.
pub(crate) fn prices() -> impl Strategy<Value = Price> {
    prop_oneof![
        amounts().prop_map(|amount| Price::Flat { amount }),
        (amounts(), 0usize..4, quantities()).prop_map(|(amount, power, included)| {
            let per = [1, 10, 1_000, 1_000_000][power];
            Price::PerUnit { amount, per, included: Quantity(included) }
        }),
        (tiers(), any::<bool>())
            .prop_map(|(tiers, flat_at_zero)| Price::Graduated { tiers, flat_at_zero }),
        (tiers(), any::<bool>())
            .prop_map(|(tiers, flat_at_zero)| Price::Volume { tiers, flat_at_zero }),
        (amounts(), 1u64..5_000, quantities(), any::<bool>()).prop_map(
            |(amount, size, free, up)| {
                let begun = if up { Begun::Up } else { Begun::Down };
                Price::Package { amount, size, free: Quantity(free), begun }
            }
        ),
    ]
}

fn scales() -> impl Strategy<Value = Scale> {
    (0usize..3, 0usize..4).prop_map(|(currency, rule)| Scale {
        currency: ["jpy", "usd", "kwd"][currency].parse().unwrap(),
        rounding: [Rounding::HalfUp, Rounding::HalfEven, Rounding::Up, Rounding::Down][rule],
    })
}

proptest! {
    /// Whatever the price, the parts add up to the line, in money and in units, and rating twice is identical.
    #[test]
    fn parts_add_up_to_the_whole(price in prices(), quantity in quantities(), scale in scales()) {
        prop_assert_eq!(price.check(), Ok(()));
        let rated = rate(&price, Quantity(quantity), scale);
        prop_assert_eq!(&rated, &rate(&price, Quantity(quantity), scale));
        // Any u64 is rated or refused: never a panic, never a wrong amount.
        if let Ok(rated) = rated {
            prop_assert_eq!(Minor::sum(rated.parts.iter().map(|part| part.amount)), Ok(rated.amount));
            prop_assert_eq!(rated.exact.round(scale), Ok(rated.amount));
            let units: u128 = rated.parts.iter().map(|part| u128::from(part.quantity.0)).sum();
            prop_assert_eq!(units, if price.is_fee() { 0 } else { u128::from(quantity) });
        } else {
            prop_assert!(quantity > 1_000_000, "{quantity} units are too few to leave the range");
        }
    }

    /// Except for volume prices, more use never costs less.
    #[test]
    fn more_use_never_costs_less(price in prices(), usage in quantities(), extra in quantities(), scale in scales()) {
        prop_assume!(!matches!(price, Price::Volume { .. }));
        let both = (rate(&price, Quantity(usage), scale), rate(&price, Quantity(usage.saturating_add(extra)), scale));
        if let (Ok(less), Ok(more)) = both {
            prop_assert!(less.exact <= more.exact && less.amount <= more.amount);
        }
    }

    /// However a period's use is cut into pieces, the pieces cost what the whole costs.
    #[test]
    fn pieces_cost_what_the_whole_costs(price in prices(), cuts in prop::collection::vec(0u64..100_000, 0..6), scale in scales()) {
        let mut before = Quantity::ZERO;
        let mut sum = rate(&price, before, scale).unwrap().exact;
        for more in cuts.into_iter().map(Quantity) {
            sum = sum.checked_add(marginal(&price, before, more, scale).unwrap()).unwrap();
            before = before.checked_add(more).unwrap();
        }
        prop_assert_eq!(Ok(sum), rate(&price, before, scale).map(|rated| rated.exact));
    }

    /// Graduated prices never jump by more than the fees that they name and the dearest unit.
    #[test]
    fn a_graduated_step_costs_its_own_tier(tiers in tiers(), usage in 0u64..10_000, scale in scales()) {
        let price = Price::Graduated { tiers: tiers.clone(), flat_at_zero: false };
        let step = marginal(&price, Quantity(usage), Quantity(1), scale).unwrap();
        let place = tiers.iter().position(|tier| tier.up_to.is_none_or(|end| usage < end.0)).unwrap();
        let begins = usage == 0 || (place > 0 && tiers[place - 1].up_to == Some(Quantity(usage)));
        let unit = tiers[place].unit.divided_exactly(tiers[place].per).unwrap();
        let fee = if begins { tiers[place].flat } else { Exact::ZERO };
        prop_assert_eq!(Ok(step), unit.checked_add(fee));
    }
}
