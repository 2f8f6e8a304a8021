use proptest::prelude::*;

use super::*;

fn exact(text: &str) -> Exact {
    text.parse().unwrap()
}

fn scale(currency: &str, rounding: Rounding) -> Scale {
    Scale { currency: currency.parse().unwrap(), rounding }
}

fn minor(units: i64) -> Minor {
    Minor::try_new(units).unwrap()
}

#[test]
fn decimals_read_and_show_one_spelling() {
    for text in ["0", "1", "-1", "0.1", "-0.000000000000001", "123456789.000000001"] {
        assert_eq!(exact(text).to_string(), text);
    }
    assert_eq!(exact("1.50").to_string(), "1.5");
    assert_eq!(exact("00.0").to_string(), "0");
}

#[test]
fn what_is_not_a_plain_decimal_is_refused() {
    let too_large = "9".repeat(40);
    for text in ["", "-", ".", ".5", "5.", "+1", "1e3", "1,5", " 1", "--1", "0x1", "1.-5"] {
        assert!(text.parse::<Exact>().is_err(), "{text}");
    }
    assert!("0.0000000000000001".parse::<Exact>().is_err(), "sixteen decimals");
    assert!(too_large.parse::<Exact>().is_err());
    assert!(serde_json::from_str::<Exact>("0.5").is_err(), "a JSON number is a float");
}

#[test]
fn rounding_rules() {
    use Rounding::{Down, HalfEven, HalfUp, Up};
    #[track_caller]
    fn check(currency: &str, rule: Rounding, amount: &str, units: i64) {
        let rounded = exact(amount).round(scale(currency, rule));
        assert_eq!(rounded, Ok(minor(units)), "{amount} {currency} {rule:?}");
    }
    // Stripe, decimal amounts: 1.5 of a cent is 2 cents.
    check("usd", HalfUp, "0.015", 2);
    check("usd", HalfUp, "0.014999999999999", 1);
    check("usd", HalfUp, "0.025", 3);
    check("usd", HalfUp, "-0.015", -2); // A reversal takes back what was billed.
    check("usd", HalfEven, "0.015", 2);
    check("usd", HalfEven, "0.025", 2);
    check("usd", HalfEven, "-0.025", -2);
    check("usd", HalfEven, "0.025000000000001", 3);
    check("usd", Up, "0.010000000000001", 2);
    check("usd", Up, "-0.011", -2);
    check("usd", Down, "0.019", 1);
    check("usd", Down, "-0.019", -1);
    check("jpy", HalfUp, "1.5", 2); // No minor unit: never times 100.
    check("jpy", HalfUp, "149.4", 149);
    check("kwd", HalfUp, "1.2345", 1235); // Thousandths.
    check("kwd", HalfUp, "0.0004", 0);
}

#[test]
fn what_leaves_its_range_is_an_error() {
    let largest = Exact(i128::MAX);
    assert_eq!(largest.checked_add(Exact(1)), Err(AmountError));
    assert_eq!(Exact(i128::MIN).checked_sub(Exact(1)), Err(AmountError));
    assert_eq!(exact("100000").times(u64::MAX), Err(AmountError));
    assert_eq!(largest.round(scale("usd", Rounding::Up)), Err(AmountError));
    assert_eq!(Minor::MAX.checked_add(minor(1)), Err(AmountError));
    assert_eq!(minor(-1).checked_sub(Minor::MAX), Err(AmountError));
    assert_eq!(Exact::ONE.part(1, 0, scale("usd", Rounding::Up)), Err(AmountError));
    assert_eq!(exact("1").divided_exactly(3), Err(AmountError));
    assert_eq!(exact("1").divided_exactly(0), Err(AmountError));
    assert_eq!(exact("0.8").divided_exactly(1000), Ok(exact("0.0008")));
}

#[test]
fn a_whole_amount_is_whole_in_its_own_currency() {
    let whole = |text: &str, currency: &str| exact(text).whole(currency.parse().unwrap());
    assert_eq!(whole("19.99", "usd"), Some(minor(1999)));
    assert_eq!(whole("19.995", "usd"), None);
    assert_eq!(whole("19.995", "kwd"), Some(minor(19_995)));
    assert_eq!(whole("20", "jpy"), Some(minor(20)));
    assert_eq!(whole("20.5", "jpy"), None);
}

#[test]
fn the_largest_remainder_gets_what_is_left() {
    let usd = "usd".parse().unwrap();
    let split = |total: i64, parts: &[&str]| {
        let parts: Vec<Exact> = parts.iter().map(|part| exact(part)).collect();
        split_rounded(minor(total), &parts, usd)
            .map(|parts| parts.into_iter().map(Minor::units).collect::<Vec<_>>())
    };
    assert_eq!(split(2, &["0.005", "0.005", "0.005"]), Ok(vec![1, 1, 0]), "the first of equals");
    assert_eq!(split(3, &["0.014", "0.016"]), Ok(vec![1, 2]));
    assert_eq!(split(0, &[]), Ok(vec![]));
    assert_eq!(split(5, &["0.01"]), Err(AmountError), "no rounding of one cent");
    assert_eq!(split(0, &["-0.01", "0.01"]), Err(AmountError));
    let weighed = |total: i64, weights: &[i64]| {
        let weights: Vec<Minor> = weights.iter().map(|weight| minor(*weight)).collect();
        split_by_weight(minor(total), &weights)
            .map(|parts| parts.into_iter().map(Minor::units).collect::<Vec<_>>())
    };
    assert_eq!(weighed(100, &[1, 1, 1]), Ok(vec![34, 33, 33]));
    assert_eq!(weighed(10, &[0, 5, 0]), Ok(vec![0, 10, 0]));
    assert_eq!(weighed(0, &[0, 0]), Ok(vec![0, 0]));
    assert_eq!(weighed(1, &[0, 0]), Err(AmountError));
}

proptest! {
    /// A decimal survives being written and read.
    #[test]
    fn a_decimal_reads_back(steps in -(10i128.pow(30))..10i128.pow(30)) {
        prop_assert_eq!(exact(&Exact(steps).to_string()), Exact(steps));
    }

    /// No rule moves an amount by a whole minor unit, and an amount and its negative mirror each other.
    #[test]
    fn rounding_stays_near(steps in -(10i128.pow(25))..10i128.pow(25), decimals in 0usize..3) {
        let currency = ["jpy", "usd", "kwd"][decimals];
        for rule in [Rounding::HalfUp, Rounding::HalfEven, Rounding::Up, Rounding::Down] {
            let scale = scale(currency, rule);
            let rounded = Exact(steps).round(scale).unwrap();
            prop_assert!((rounded.exact(scale.currency).0 - steps).abs() < scale.step());
            prop_assert_eq!(Exact(-steps).round(scale).unwrap().units(), -rounded.units());
        }
    }

    /// Parts add up to the rounded whole, and none is off by a whole minor unit.
    #[test]
    fn parts_add_up(parts in prop::collection::vec(0i128..10i128.pow(22), 1..12), rule in 0usize..4) {
        let rounding = [Rounding::HalfUp, Rounding::HalfEven, Rounding::Up, Rounding::Down][rule];
        let scale = scale("usd", rounding);
        let parts: Vec<Exact> = parts.into_iter().map(Exact).collect();
        let whole = parts.iter().try_fold(Exact::ZERO, |sum, part| sum.checked_add(*part)).unwrap();
        let total = whole.round(scale).unwrap();
        let split = split_rounded(total, &parts, scale.currency).unwrap();
        prop_assert_eq!(Minor::sum(split.iter().copied()), Ok(total));
        for (part, rounded) in parts.iter().zip(split) {
            prop_assert!((rounded.exact(scale.currency).0 - part.0).abs() < scale.step());
        }
    }

    /// A discount that is spread adds up, and takes from nobody more than a unit beyond his share.
    #[test]
    fn weighed_parts_add_up(weights in prop::collection::vec(0i64..1_000_000_000, 1..12), cut in 0u64..=100) {
        let weights: Vec<Minor> = weights.into_iter().map(minor).collect();
        let all = Minor::sum(weights.iter().copied()).unwrap();
        let total = minor(i64::try_from(i128::from(all.0) * i128::from(cut) / 100).unwrap());
        let split = split_by_weight(total, &weights).unwrap();
        prop_assert_eq!(Minor::sum(split.iter().copied()), Ok(total));
        prop_assert!(split.iter().zip(&weights).all(|(part, weight)| part <= weight));
    }
}
