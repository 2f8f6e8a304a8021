//! Packs of units: free units first, then whole packs.

use schemas::{AmountError, Quantity};

use super::{Part, Rule, part};
use crate::{money::Exact, price::Begun};

/// The free units, then the packs that the others need.
pub(super) fn parts(
    price: Exact,
    size: u64,
    free: Quantity,
    begun: Begun,
    quantity: Quantity,
) -> Result<Vec<Part>, AmountError> {
    if size == 0 {
        return Err(AmountError);
    }
    let within = quantity.at_most(free).0;
    let over = quantity.left_after(free).0;
    let mut parts = Vec::with_capacity(2);
    if within > 0 {
        parts.push(part(within, Rule::Included, Exact::ZERO));
    }
    if over > 0 {
        let packs = match begun {
            Begun::Up => over.div_ceil(size),
            Begun::Down => over / size,
        };
        parts.push(part(over, Rule::Packs { packs, size, price }, price.times(packs)?));
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
    fn packages() {
        // OpenMeter: 10 for 15; nothing at 0, where it and we agree.
        let ten = price(r#"{"model":"package","amount":"15","size":10}"#);
        check(&ten, "usd", 0, "0", 0);
        check(&ten, "usd", 1, "15", 1_500);
        check(&ten, "usd", 10, "15", 1_500);
        check(&ten, "usd", 11, "30", 3_000);
        // A peers' case: packages of 20 at 5.
        let twenty = price(r#"{"model":"package","amount":"5","size":20}"#);
        check(&twenty, "usd", 45, "15", 1_500);
        check(&twenty, "usd", 40, "10", 1_000);
        // Stripe selects up or down in `transform_quantity.round` and names no default; ours is up.
        let down = price(r#"{"model":"package","amount":"5","size":20,"begun":"down"}"#);
        check(&down, "usd", 45, "10", 1_000);
        check(&down, "usd", 19, "0", 0);
    }

    #[test]
    fn free_units_come_first() {
        let free = price(r#"{"model":"package","amount":"5","size":20,"free":100}"#);
        check(&free, "usd", 100, "0", 0);
        check(&free, "usd", 101, "5", 500);
        check(&free, "usd", 120, "5", 500);
        check(&free, "usd", 121, "10", 1_000);
        let pack = Rule::Packs { packs: 2, size: 20, price: "5".parse().unwrap() };
        assert_eq!(parts(&free, 121), [(100, Rule::Included, 0), (21, pack, 1_000)]);
    }

    #[test]
    fn the_largest_quantity_is_rated_or_refused() {
        let huge = price(r#"{"model":"package","amount":"5","size":18446744073709551615}"#);
        check(&huge, "usd", u64::MAX, "5", 500);
        check_refused(&price(r#"{"model":"package","amount":"5","size":1}"#), "usd", u64::MAX);
        check_refused(&price(r#"{"model":"package","amount":"5","size":0}"#), "usd", 1);
    }
}
