//! What a quantity costs by a price: the simulator's own arithmetic, from the documents of a price and its tiers.
//!
//! Independent of every other rating code on purpose: it is the other side of a comparison. Exact decimals in minor units of the
//! price's currency, rounded half up once per line. A negative quantity costs nothing. The flat amount of the first tier is
//! charged at zero usage too. Absent on purpose: taxes, conversion between currencies.

use crate::error::ApiError;
use crate::settings::GraduatedLines;
use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::Value;

/// One line's worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub quantity: Decimal,
    /// The unit amount in minor units, where one applies to the whole part.
    pub unit: Option<Decimal>,
    /// Minor units, rounded.
    pub amount: i64,
    /// The tier's number from 1, where tiers are parts.
    pub tier: Option<usize>,
}

/// Rates a quantity. `tiers` are those of a tiered price.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn rate(
    price: &Value,
    tiers: Option<&Value>,
    quantity: Decimal,
    shape: GraduatedLines,
) -> Result<Vec<Part>, ApiError> {
    let quantity = quantity.max(Decimal::ZERO);
    if price["billing_scheme"] != "tiered" {
        return per_unit(price, quantity).map(|part| vec![part]);
    }
    let tiers = read_tiers(tiers);
    match (price["tiers_mode"].as_str(), shape) {
        (Some("volume"), _) => volume(&tiers, quantity).map(|part| vec![part]),
        (_, GraduatedLines::PerTier) => graduated(&tiers, quantity),
        (_, GraduatedLines::One) => {
            let exact = tiers_reached(&tiers, quantity)
                .try_fold(Decimal::ZERO, |sum, (_, units, tier)| sum.checked_add(tier.cost(units)?))
                .ok_or_else(too_large)?;
            Ok(vec![Part { quantity, unit: None, amount: round(exact)?, tier: None }])
        }
    }
}

/// Half up, away from zero at a tie: 1.5 is 2.
///
/// # Errors
/// 400 past 63 bits.
pub fn round(exact: Decimal) -> Result<i64, ApiError> {
    let whole = exact.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero);
    whole.to_i64().ok_or_else(too_large)
}

/// `amount × part / whole`, rounded half up: a share of a period by the second.
///
/// # Errors
/// 400 past 63 bits.
pub fn share(amount: i64, part: i64, whole: i64) -> Result<i64, ApiError> {
    let exact = Decimal::from(amount)
        .checked_mul(Decimal::from(part))
        .and_then(|product| product.checked_div(Decimal::from(whole)));
    round(exact.ok_or_else(too_large)?)
}

fn too_large() -> ApiError {
    ApiError::invalid("quantity", "The amount is too large.")
}

/// A decimal text of a price; none when the field is null.
pub fn decimal(text: &Value) -> Option<Decimal> {
    text.as_str().and_then(|text| Decimal::from_str_exact(text).ok())
}

fn per_unit(price: &Value, quantity: Decimal) -> Result<Part, ApiError> {
    let unit = decimal(&price["unit_amount_decimal"]).unwrap_or_default();
    let units = packages(quantity, &price["transform_quantity"]);
    let exact = unit.checked_mul(units).ok_or_else(too_large)?;
    Ok(Part { quantity, unit: Some(unit), amount: round(exact)?, tier: None })
}

fn packages(quantity: Decimal, transform: &Value) -> Decimal {
    let Some(size) = transform["divide_by"].as_i64().filter(|size| *size > 0) else {
        return quantity;
    };
    let packages = quantity / Decimal::from(size);
    if transform["round"] == "up" { packages.ceil() } else { packages.floor() }
}

struct Tier {
    /// The last unit of the tier; none for the last tier.
    up_to: Option<Decimal>,
    unit: Option<Decimal>,
    flat: Decimal,
}

impl Tier {
    fn cost(&self, units: Decimal) -> Option<Decimal> {
        self.unit.unwrap_or_default().checked_mul(units)?.checked_add(self.flat)
    }
}

fn read_tiers(tiers: Option<&Value>) -> Vec<Tier> {
    let rows = tiers.and_then(Value::as_array).into_iter().flatten();
    rows.map(|row| Tier {
        up_to: row["up_to"].as_i64().map(Decimal::from),
        unit: decimal(&row["unit_amount_decimal"]),
        flat: decimal(&row["flat_amount_decimal"]).unwrap_or_default(),
    })
    .collect()
}

/// Number, units and rule of each tier that the quantity reaches; always the first one.
fn tiers_reached(
    tiers: &[Tier],
    quantity: Decimal,
) -> impl Iterator<Item = (usize, Decimal, &Tier)> {
    let mut floor = Decimal::ZERO;
    tiers.iter().enumerate().map_while(move |(index, tier)| {
        if index > 0 && quantity <= floor {
            return None;
        }
        let top = tier.up_to.map_or(quantity, |up_to| up_to.min(quantity));
        let units = top - floor;
        floor = tier.up_to.unwrap_or(quantity);
        Some((index + 1, units, tier))
    })
}

fn graduated(tiers: &[Tier], quantity: Decimal) -> Result<Vec<Part>, ApiError> {
    tiers_reached(tiers, quantity)
        .map(|(number, units, tier)| {
            let amount = round(tier.cost(units).ok_or_else(too_large)?)?;
            Ok(Part { quantity: units, unit: tier.unit, amount, tier: Some(number) })
        })
        .collect()
}

fn volume(tiers: &[Tier], quantity: Decimal) -> Result<Part, ApiError> {
    let own = tiers.iter().find(|tier| tier.up_to.is_none_or(|up_to| quantity <= up_to));
    let tier = own.or(tiers.last());
    let exact = tier.map_or(Some(Decimal::ZERO), |tier| tier.cost(quantity));
    let amount = round(exact.ok_or_else(too_large)?)?;
    Ok(Part { quantity, unit: tier.and_then(|tier| tier.unit), amount, tier: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn amounts(price: &Value, tiers: &Value, quantity: &str, shape: GraduatedLines) -> Vec<i64> {
        let quantity = Decimal::from_str_exact(quantity).unwrap();
        let parts = rate(price, Some(tiers), quantity, shape).unwrap();
        parts.into_iter().map(|part| part.amount).collect()
    }

    #[test]
    fn an_amount_is_rounded_half_up_once() {
        #[track_caller]
        fn check(unit: &str, transform: &Value, quantity: &str, expect: i64) {
            let price = json!({ "billing_scheme": "per_unit", "unit_amount_decimal": unit, "transform_quantity": transform });
            let got = amounts(&price, &Value::Null, quantity, GraduatedLines::One);
            assert_eq!(got, [expect], "{unit} x {quantity}");
        }
        check("0.5", &Value::Null, "3", 2);
        check("0.4", &Value::Null, "1", 0);
        check("0.000000000001", &Value::Null, "500000000000", 1);
        check("1000", &Value::Null, "2", 2000);
        check("7", &Value::Null, "0.5", 4);
        check("7", &Value::Null, "-3", 0);
        check("100", &json!({ "divide_by": 10, "round": "up" }), "11", 200);
        check("100", &json!({ "divide_by": 10, "round": "down" }), "19", 100);
        check("100", &json!({ "divide_by": 10, "round": "up" }), "0", 0);
    }

    fn tiers() -> Value {
        json!([
            { "up_to": 10, "unit_amount_decimal": "5", "flat_amount_decimal": "100" },
            { "up_to": 20, "unit_amount_decimal": "2.5", "flat_amount_decimal": null },
            { "up_to": null, "unit_amount_decimal": null, "flat_amount_decimal": "7" },
        ])
    }

    #[test]
    fn graduated_tiers_each_take_their_units() {
        let price = json!({ "billing_scheme": "tiered", "tiers_mode": "graduated" });
        let cases: [(&str, &[i64]); 6] = [
            ("0", &[100]),
            ("10", &[150]),
            ("11", &[150, 3]),
            ("13", &[150, 8]),
            ("20", &[150, 25]),
            ("1000", &[150, 25, 7]),
        ];
        for (quantity, parts) in cases {
            assert_eq!(amounts(&price, &tiers(), quantity, GraduatedLines::PerTier), parts);
        }
        for (quantity, whole) in [("0", 100), ("11", 153), ("13", 158), ("1000", 182)] {
            assert_eq!(amounts(&price, &tiers(), quantity, GraduatedLines::One), [whole]);
        }
    }

    #[test]
    fn a_line_per_tier_rounds_each_tier_and_one_line_rounds_once() {
        let price = json!({ "billing_scheme": "tiered", "tiers_mode": "graduated" });
        let tiers = json!([
            { "up_to": 1, "unit_amount_decimal": "0.5" }, { "up_to": null, "unit_amount_decimal": "0.5" },
        ]);
        assert_eq!(amounts(&price, &tiers, "2", GraduatedLines::PerTier), [1, 1]);
        assert_eq!(amounts(&price, &tiers, "2", GraduatedLines::One), [1]);
    }

    #[test]
    fn volume_takes_the_tier_of_the_whole_quantity() {
        let price = json!({ "billing_scheme": "tiered", "tiers_mode": "volume" });
        for (quantity, expect) in [("0", 100), ("10", 150), ("11", 28), ("20", 50), ("21", 7)] {
            assert_eq!(amounts(&price, &tiers(), quantity, GraduatedLines::One), [expect]);
        }
    }

    #[test]
    fn shares_of_a_period_are_by_the_second() {
        assert_eq!(share(1000, 1, 3).unwrap(), 333);
        assert_eq!(share(1000, 2, 3).unwrap(), 667);
        assert_eq!(share(-1000, 1, 2).unwrap(), -500);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let price = json!({ "billing_scheme": "per_unit", "unit_amount_decimal": "99999999" });
        let many = Decimal::from_str_exact("999999999999999999").unwrap();
        assert!(rate(&price, None, many, GraduatedLines::One).is_err());
    }
}
