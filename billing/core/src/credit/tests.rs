use proptest::prelude::*;

use super::*;

fn grant(name: &str, left: u64) -> Grant {
    Grant {
        grant: name.into(),
        of: Of::Units(MeterName::tool_calls()),
        priority: 0,
        granted_at: Timestamp(0),
        expires_at: None,
        left,
        rollover: None,
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp(ms)
}

/// Who gave how much, in order.
fn gave(wallet: &mut Wallet, amount: u64, ms: i64) -> Vec<(String, u64)> {
    let draws = wallet.draw(amount, at(ms)).unwrap();
    draws.into_iter().map(|draw| (draw.grant, draw.used)).collect()
}

#[test]
fn the_order_is_priority_then_expiry_then_age() {
    #[track_caller]
    fn first(one: &Grant, other: &Grant) {
        for grants in [vec![one.clone(), other.clone()], vec![other.clone(), one.clone()]] {
            assert_eq!(gave(&mut Wallet::new(grants), 1, 50), [(one.grant.clone(), 1)]);
        }
    }
    // Stripe: priority, expiry, category, effective, created. We have no categories, and one date of beginning.
    let (plain, soon) = (grant("a", 5), Some(at(100)));
    let later = Grant { priority: 2, expires_at: soon, ..plain.clone() };
    first(&Grant { priority: 1, ..grant("b", 5) }, &later);
    let ends = Grant { expires_at: soon, granted_at: at(9), ..grant("b", 5) };
    first(&ends, &plain);
    first(&ends, &Grant { expires_at: Some(at(101)), ..plain.clone() });
    first(&grant("b", 5), &Grant { granted_at: at(9), ..plain.clone() });
    first(&plain, &grant("b", 5)); // The name last, so that there is one order.
}

#[test]
fn a_grant_counts_from_its_beginning_until_just_before_its_end() {
    let limited = Grant { granted_at: at(10), expires_at: Some(at(20)), ..grant("a", 5) };
    for (ms, balance) in [(9, 0), (10, 5), (19, 5), (20, 0)] {
        assert_eq!(Wallet::new(vec![limited.clone()]).balance(at(ms)), Ok(balance), "{ms}");
        assert_eq!(
            gave(&mut Wallet::new(vec![limited.clone()]), 9, ms).len(),
            usize::from(balance > 0)
        );
    }
}

#[test]
fn one_grant_after_the_other_and_then_overage() {
    let mut wallet = Wallet::new(vec![grant("a", 5), grant("b", 5)]);
    assert_eq!(gave(&mut wallet, 7, 1), [("a".to_owned(), 5), ("b".to_owned(), 2)]);
    assert_eq!(gave(&mut wallet, 7, 1), [("b".to_owned(), 3)]);
    assert_eq!((wallet.used(), wallet.overage(), wallet.balance(at(1))), (14, 4, Ok(0)));
    // A later grant does not pay for earlier use.
    wallet.step(&Step::Granted(grant("c", 9))).unwrap();
    assert_eq!((wallet.overage(), wallet.balance(at(1))), (4, Ok(9)));
}

#[test]
fn rollover() {
    // Balance, usage and overage after a reset.
    #[track_caller]
    fn check(used: u64, minimum: u64, maximum: u64, keep_overage: bool, then: (u64, u64, u64)) {
        let rollover = Some(Rollover { minimum, maximum });
        let mut wallet = Wallet::new(vec![Grant { rollover, ..grant("a", 100) }]);
        wallet.step(&Step::Used { amount: used, at: at(1) }).unwrap();
        wallet.step(&Step::Reset { at: at(2), keep_overage }).unwrap();
        assert_eq!((wallet.balance(at(2)).unwrap(), wallet.used(), wallet.overage()), then);
    }
    check(10, 0, 50, false, (50, 0, 0)); // OpenMeter: rolls over at most 50.
    check(110, 50, 50, true, (40, 0, 0)); // OpenMeter: 50 again, less the 10 that were too many.
    check(110, 50, 50, false, (50, 0, 0)); // Peers disagree; ours is selectable.
    check(170, 50, 50, true, (0, 0, 20)); // What is owed beyond that stays owed.
    check(10, 0, 0, false, (0, 0, 0));
    check(10, 0, 1000, false, (90, 0, 0));
    check(100, 30, 1000, false, (30, 0, 0)); // Topped up to the minimum.
}

#[test]
fn a_reset_leaves_alone_what_has_no_rollover_or_does_not_count() {
    let rollover = Some(Rollover { minimum: 7, maximum: 7 });
    let gone = Grant { expires_at: Some(at(5)), rollover, ..grant("gone", 3) };
    let mut wallet = Wallet::new(vec![grant("kept", 5), gone]);
    wallet.step(&Step::Reset { at: at(9), keep_overage: true }).unwrap();
    assert_eq!(wallet.balance(at(9)), Ok(5));
    assert_eq!(wallet.balance(at(4)), Ok(8), "what expired was not filled up");
}

#[test]
fn what_leaves_its_range_changes_nothing() {
    let mut wallet = Wallet::new(vec![grant("a", 5)]);
    wallet.draw(u64::MAX, at(1)).unwrap();
    let before = wallet.clone();
    assert_eq!(wallet.draw(1, at(1)), Err(AmountError));
    assert_eq!(wallet, before);
    let two = Wallet::new(vec![grant("a", u64::MAX), grant("b", 1)]);
    assert_eq!(two.balance(at(1)), Err(AmountError));
}

fn grants() -> impl Strategy<Value = Grant> {
    let rollover = prop::option::of((0u64..60, 0u64..60));
    let span = (0i64..50, prop::option::of(1i64..100));
    (0u32..3, span, 0u64..100, rollover, 0u32..1000).prop_map(
        |(priority, (from, until), left, rollover, name)| Grant {
            priority,
            granted_at: at(from),
            expires_at: until.map(|until| at(from + until)),
            rollover: rollover.map(|(minimum, maximum)| Rollover { minimum, maximum }),
            ..grant(&format!("g{name:04}"), left)
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        grants().prop_map(Step::Granted),
        (0u64..200, 0i64..120).prop_map(|(amount, ms)| Step::Used { amount, at: at(ms) }),
        (0i64..120, any::<bool>())
            .prop_map(|(ms, keep_overage)| Step::Reset { at: at(ms), keep_overage }),
    ];
    prop::collection::vec(step, 0..20)
}

fn run(mut wallet: Wallet, steps: &[Step]) -> Wallet {
    for step in steps {
        wallet.step(step).unwrap();
    }
    wallet
}

proptest! {
    /// One use cut into several at the same moment ends in the same wallet.
    #[test]
    fn a_use_in_pieces_is_the_use(list in prop::collection::vec(grants(), 0..6), pieces in prop::collection::vec(0u64..100, 0..6), ms in 0i64..120) {
        let whole = Step::Used { amount: pieces.iter().sum(), at: at(ms) };
        let cut: Vec<Step> = pieces.iter().map(|amount| Step::Used { amount: *amount, at: at(ms) }).collect();
        let wallet = Wallet::new(list);
        prop_assert_eq!(run(wallet.clone(), &[whole]), run(wallet, &cut));
    }

    /// Two runs one after the other are one run, wherever it is cut; and grants given one by one are grants given at once.
    #[test]
    fn two_runs_are_one(list in prop::collection::vec(grants(), 0..6), steps in steps(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(steps.len() + 1);
        let whole = run(Wallet::new(list.clone()), &steps);
        let granted: Vec<Step> = list.into_iter().map(Step::Granted).collect();
        let first = run(run(Wallet::default(), &granted), &steps[..cut]);
        prop_assert_eq!(run(first, &steps[cut..]), whole);
    }

    /// Used + left − overage = granted, as long as nothing expires or is reset.
    #[test]
    fn nothing_is_lost(list in prop::collection::vec(grants(), 0..6), uses in prop::collection::vec((0u64..200, 0i64..120), 0..12)) {
        let granted: u64 = list.iter().map(|grant| grant.left).sum();
        let uses: Vec<Step> = uses.into_iter().map(|(amount, ms)| Step::Used { amount, at: at(ms) }).collect();
        let wallet = run(Wallet::new(list), &uses);
        let left: u64 = wallet.grants().iter().map(|grant| grant.left).sum();
        prop_assert_eq!(wallet.used() + left - wallet.overage(), granted);
    }
}
