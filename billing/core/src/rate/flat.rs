//! A fee for the period, whatever is used. Its part for a part of the period is `proration`'s.

use super::{Part, Rule, part};
use crate::money::Exact;

/// The whole fee, as one part without units.
pub(super) fn parts(amount: Exact) -> Vec<Part> {
    vec![part(0, Rule::Fee { price: amount }, amount)]
}

#[cfg(test)]
mod tests {
    use crate::rate::testing::{check, price};

    #[test]
    fn flat_prices() {
        let fee = price(r#"{"model":"flat","amount":"49"}"#);
        check(&fee, "usd", 0, "49", 4900);
        check(&fee, "usd", u64::MAX, "49", 4900); // Whatever is used.
        check(&fee, "jpy", 7, "49", 49);
        check(&fee, "kwd", 7, "49", 49_000);
        check(&price(r#"{"model":"flat","amount":"0.005"}"#), "usd", 0, "0.005", 1);
        check(&price(r#"{"model":"flat","amount":"0"}"#), "usd", 9, "0", 0);
    }
}
