use proptest::prelude::*;

use super::*;

fn key(charge: &str) -> Option<(PlanRef, String)> {
    Some((PlanRef { plan: "team".to_owned(), version: 1 }, charge.to_owned()))
}

fn amounts_of(rows: &[(&str, u64, i64)]) -> Amounts {
    let amount = |(charge, quantity, minor): &(&str, u64, i64)| {
        let amount = Minor::try_new(i128::from(*minor)).unwrap();
        (key(charge), Amount { quantity: Quantity(*quantity), amount })
    };
    rows.iter().map(amount).collect()
}

/// A period in which all agree: 70 units invoiced, 5 carried.
fn tied() -> Sides {
    Sides {
        ledger: Quantity(75),
        accepted: Quantity(75),
        stuck: Quantity::ZERO,
        summary: Quantity(75),
        invoiced: Quantity(70),
        carried: Quantity(5),
        free: Quantity::ZERO,
        late: Quantity::ZERO,
        has_invoice: true,
        rated: true,
        expected: amounts_of(&[("base", 0, 1900), ("calls", 70, 84)]),
        asked: amounts_of(&[("base", 1, 1900), ("calls", 70, 84)]),
    }
}

#[test]
fn verdicts_and_owners() {
    #[track_caller]
    fn check(change: impl Fn(&mut Sides), verdict: Verdict, owner: Owner) {
        let mut sides = tied();
        change(&mut sides);
        let found = tie(&sides);
        assert_eq!((found.verdict, found.owner), (verdict, owner), "{sides:?}");
    }
    check(|_| {}, Verdict::Ties, Owner::Nobody);
    check(|sides| sides.summary = Quantity(74), Verdict::Summary, Owner::Engineering);
    check(|sides| sides.summary = Quantity(76), Verdict::Summary, Owner::Engineering);
    check(|sides| sides.carried = Quantity(4), Verdict::Units, Owner::Engineering);
    check(|sides| sides.invoiced = Quantity(71), Verdict::Units, Owner::Engineering);
    check(|sides| sides.ledger = Quantity(76), Verdict::Units, Owner::Engineering);
    check(|sides| sides.free = Quantity(1), Verdict::Units, Owner::Engineering);
    let late = |sides: &mut Sides| (sides.carried, sides.late) = (Quantity(3), Quantity(2));
    check(late, Verdict::Late, Owner::Nobody);
    check(|sides| sides.late = Quantity(2), Verdict::Units, Owner::Engineering);
    check(|sides| sides.stuck = Quantity(1), Verdict::Stuck, Owner::Engineering);
    check(|sides| sides.rated = false, Verdict::Unrated, Owner::Operator);
    check(|sides| sides.has_invoice = false, Verdict::NoInvoice, Owner::Finance);
    let cent = amounts_of(&[("base", 1, 1900), ("calls", 70, 83)]);
    check(|sides| sides.asked = cent.clone(), Verdict::Amount, Owner::Finance);
    // The same sum on other charges is a difference all the same.
    let swapped = amounts_of(&[("base", 1, 84), ("calls", 70, 1900)]);
    check(|sides| sides.asked = swapped.clone(), Verdict::Amount, Owner::Finance);
    let fee = amounts_of(&[("base", 1, 1900), ("calls", 70, 84), ("extra", 1, 1)]);
    check(|sides| sides.asked = fee.clone(), Verdict::Amount, Owner::Finance);
    check(|sides| sides.asked.clear(), Verdict::Amount, Owner::Finance);
}

#[test]
fn what_differs_is_named() {
    let mut sides = tied();
    sides.asked = amounts_of(&[("base", 1, 1900), ("calls", 70, 85)]);
    let found = tie(&sides).differences;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].charge.as_deref(), Some("calls"));
    assert_eq!((found[0].expected.amount.units(), found[0].invoiced.amount.units()), (84, 85));
}

#[test]
fn a_period_without_anything_needs_no_invoice() {
    let nothing = Sides {
        ledger: Quantity::ZERO,
        accepted: Quantity::ZERO,
        summary: Quantity::ZERO,
        invoiced: Quantity::ZERO,
        carried: Quantity::ZERO,
        has_invoice: false,
        expected: amounts_of(&[("calls", 0, 0)]),
        asked: Amounts::new(),
        ..tied()
    };
    assert_eq!(tie(&nothing).verdict, Verdict::Ties);
}

#[test]
fn what_an_invoice_holds_is_a_beginning() {
    #[track_caller]
    fn check(reports: &[u64], invoiced: u64, count: Option<usize>) {
        let reports: Vec<Quantity> = reports.iter().copied().map(Quantity).collect();
        assert_eq!(held(&reports, Quantity(invoiced)), count, "{reports:?} {invoiced}");
    }
    check(&[], 0, Some(0));
    check(&[3, 4], 0, Some(0));
    check(&[3, 4], 3, Some(1));
    check(&[3, 4], 7, Some(2));
    check(&[3, 4], 4, None);
    check(&[3, 4], 8, None);
    check(&[u64::MAX, u64::MAX], u64::MAX, Some(1));
}

proptest! {
    /// One unit or cent more or less on any side is never called tied.
    #[test]
    fn no_difference_is_too_small(side in 0usize..6, up: bool) {
        let mut sides = tied();
        let bent = |quantity: Quantity| Quantity(if up { quantity.0 + 1 } else { quantity.0 - 1 });
        match side {
            0 => sides.ledger = bent(sides.ledger),
            1 => sides.accepted = bent(sides.accepted),
            2 => sides.summary = bent(sides.summary),
            3 => sides.invoiced = bent(sides.invoiced),
            4 => sides.carried = bent(sides.carried),
            _ => {
                let asked = sides.asked.get_mut(&key("calls")).unwrap();
                asked.amount = Minor::try_new(if up { 85 } else { 83 }).unwrap();
            }
        }
        prop_assert_ne!(tie(&sides).verdict, Verdict::Ties);
    }
}
