use proptest::prelude::*;

use super::*;
use crate::access::{Subscription, standing};

fn one(id: &str, status: &str, created: i64) -> Subscription {
    let (id, status) = (id.to_owned(), Status::of(status));
    Subscription { id, status, created: Timestamp(created), collection_paused: false, plan: None }
}

fn customer(subscriptions: &[Subscription]) -> Customer {
    Customer { deleted: false, subscriptions: subscriptions.to_vec() }
}

fn day(days: i64) -> Timestamp {
    Timestamp(days * DAY_MS)
}

fn overdue(list: &[(&str, i64)]) -> BTreeMap<String, Timestamp> {
    list.iter().map(|(id, days)| ((*id).to_owned(), day(*days))).collect()
}

#[test]
fn statuses() {
    // On the 10th day, the payment being due since the first.
    #[track_caller]
    fn check(status: &str, access: Option<Access>, stage: Option<&Stage>) {
        let set = customer(&[one("s", status, 1)]);
        let verdict = judge(&Ladder::default(), &set, &overdue(&[("s", 1)]), day(10));
        assert_eq!(verdict.as_ref().map(|verdict| verdict.standing.access), access, "{status}");
        assert_eq!(verdict.as_ref().map(|verdict| &verdict.stage), stage, "{status}");
    }
    let suspended = &Stage::Suspended { overdue_since: None };
    check("active", Some(Access::Active), Some(&Stage::Serving));
    check("trialing", Some(Access::Active), Some(&Stage::Serving));
    let spell = Stage::Overdue { since: day(1), notices: 3 };
    check("past_due", Some(Access::Active), Some(&spell));
    check("paused", Some(Access::Suspended), Some(suspended));
    check("unpaid", Some(Access::Suspended), Some(suspended));
    check("canceled", Some(Access::Suspended), Some(suspended));
    check("incomplete_expired", Some(Access::Suspended), Some(suspended));
    check("incomplete", None, None);
    check("a word of tomorrow", None, None);
}

#[test]
fn the_ladder() {
    // Day by day: the access, the notices due, the day to look again.
    #[track_caller]
    fn check(now: i64, access: Access, notices: Option<usize>, again: Option<i64>) {
        let set = customer(&[one("s", "past_due", 1)]);
        let verdict = judge(&Ladder::default(), &set, &overdue(&[("s", 0)]), day(now)).unwrap();
        let stage = match notices {
            Some(notices) => Stage::Overdue { since: day(0), notices },
            None => Stage::Suspended { overdue_since: Some(day(0)) },
        };
        assert_eq!((verdict.standing.access, verdict.stage), (access, stage), "day {now}");
        assert_eq!(verdict.look_again_at, again.map(day), "day {now}");
    }
    check(-1, Access::Active, Some(0), Some(0)); // A clock behind Stripe's.
    check(0, Access::Active, Some(1), Some(3));
    check(3, Access::Active, Some(2), Some(7));
    check(12, Access::Active, Some(3), Some(13));
    check(13, Access::Active, Some(4), Some(14));
    check(14, Access::Suspended, None, None); // Half-open: the grace's end is not in it.
    check(99, Access::Suspended, None, None);
}

#[test]
fn the_best_subscription_decides_and_grace_counts_for_each_alone() {
    #[track_caller]
    fn check(set: &[Subscription], spells: &[(&str, i64)], access: Access, reason: &str) {
        let verdict = judge(&Ladder::default(), &customer(set), &overdue(spells), day(20)).unwrap();
        assert_eq!((verdict.standing.access, verdict.standing.reason.as_str()), (access, reason));
    }
    let (old, new) = (one("old", "past_due", 1), one("new", "past_due", 2));
    let over = "payment overdue, grace over";
    check(std::slice::from_ref(&old), &[("old", 1)], Access::Suspended, over);
    check(
        &[old.clone(), new.clone()],
        &[("old", 1), ("new", 15)],
        Access::Active,
        "payment overdue",
    );
    check(&[old.clone(), new], &[("old", 15), ("new", 1)], Access::Active, "payment overdue");
    let trial = one("trial", "trialing", 0);
    check(&[old.clone(), trial], &[("old", 1)], Access::Active, "trial");
    let gone = one("gone", "canceled", 9);
    check(&[old.clone(), gone], &[("old", 1)], Access::Suspended, over);
    // Nobody knows since when: the provider's own ladder decides.
    check(&[old], &[], Access::Active, "payment overdue");
}

#[test]
fn actions() {
    let spell = |since, notices| Stage::Overdue { since: day(since), notices };
    let told = |since, notice| Action::Notify { since: day(since), notice };
    let suspended = Stage::Suspended { overdue_since: Some(day(0)) };
    assert_eq!(Stage::Serving.actions(None), [Action::Resume]);
    assert_eq!(suspended.actions(None), []); // Keys that never served have nothing to lose.
    assert_eq!(spell(0, 1).actions(Some(&Stage::Serving)), [told(0, 0)]);
    assert_eq!(spell(0, 3).actions(Some(&spell(0, 1))), [told(0, 1), told(0, 2)]);
    assert_eq!(spell(0, 1).actions(Some(&spell(0, 1))), []); // Looked again: nothing is told twice.
    assert_eq!(spell(9, 1).actions(Some(&spell(0, 4))), [told(9, 0)]); // Another invoice, another spell.
    assert_eq!(suspended.actions(Some(&spell(0, 4))), [Action::Suspend]);
    assert_eq!(Stage::Serving.actions(Some(&suspended)), [Action::Resume]);
    assert_eq!(Stage::Serving.actions(Some(&spell(0, 2))), []); // Paid in time.
    assert_eq!(suspended.actions(Some(&suspended)), []);
}

#[test]
fn a_ladder_that_cannot_be_climbed_is_refused() {
    assert!(Ladder::try_new(vec![], 1).is_ok());
    assert!(Ladder::try_new(vec![0, 5], 6).is_ok());
    for (notices, grace) in
        [(vec![], 0), (vec![0, 0], 5), (vec![5, 1], 9), (vec![5], 5), (vec![-1], 5)]
    {
        assert_eq!(
            Ladder::try_new(notices.clone(), grace),
            Err(LadderError),
            "{notices:?} {grace}"
        );
    }
}

const WORDS: [&str; 8] = [
    "active",
    "trialing",
    "past_due",
    "paused",
    "unpaid",
    "canceled",
    "incomplete_expired",
    "incomplete",
];

/// The customer after the first `changes` of a history of (subscription, status, day overdue since).
fn after(history: &[(u8, usize, i64)], changes: usize) -> (Customer, BTreeMap<String, Timestamp>) {
    let mut now = BTreeMap::new();
    for (id, word, since) in &history[..changes] {
        now.insert(format!("s{id}"), (*word, *since));
    }
    let list = now.iter().map(|(id, (word, _))| one(id, WORDS[*word], i64::from(id.as_bytes()[1])));
    let spells = now.iter().map(|(id, (_, since))| (id.clone(), day(*since))).collect();
    (customer(&list.collect::<Vec<_>>()), spells)
}

fn histories() -> impl Strategy<Value = Vec<(u8, usize, i64)>> {
    // Without `incomplete`: at Stripe it is where a subscription begins, and it says nothing.
    prop::collection::vec((0u8..3, 0usize..7, 0i64..40), 1..6)
}

proptest! {
    /// Every order of the events that tell of changes, with repeats and losses except of the last look, ends in the
    /// same stage and access.
    #[test]
    fn the_order_and_number_of_events_do_not_matter(
        history in histories(),
        looks in prop::collection::vec((any::<prop::sample::Index>(), 0i64..60), 0..12),
        end in 60i64..70,
    ) {
        let ladder = Ladder::default();
        let mut looks: Vec<(usize, i64)> =
            looks.into_iter().map(|(reached, at)| (reached.index(history.len()) + 1, at)).collect();
        // Stripe only goes on, and so does the time; the events that woke us may come in any order.
        looks.sort_by_key(|(reached, _)| *reached);
        let mut days: Vec<i64> = looks.iter().map(|(_, at)| *at).collect();
        days.sort_unstable();
        let mut held: Option<Stage> = None;
        let mut serves = false;
        let read = looks.iter().map(|(reached, _)| *reached).zip(days).chain([(history.len(), end)]);
        for (reached, at) in read {
            let (customer, spells) = after(&history, reached);
            let verdict = judge(&ladder, &customer, &spells, day(at)).unwrap();
            for action in verdict.stage.actions(held.as_ref()) {
                match action {
                    Action::Suspend => { prop_assert!(serves); serves = false; }
                    Action::Resume => { prop_assert!(!serves); serves = true; }
                    Action::Notify { .. } => prop_assert!(serves),
                }
            }
            prop_assert_eq!(serves, verdict.standing.access == Access::Active);
            held = Some(verdict.stage);
        }
        let (customer, spells) = after(&history, history.len());
        let alone = judge(&ladder, &customer, &spells, day(end)).unwrap();
        prop_assert_eq!(held, Some(alone.stage));
        prop_assert_eq!(serves, alone.standing.access == Access::Active);
    }

    /// However often one looks while a payment is open, each notice is told once and in order.
    #[test]
    fn each_notice_is_told_once(mut looks in prop::collection::vec(0i64..14 * 24, 0..30)) {
        looks.sort_unstable();
        let set = customer(&[one("s", "past_due", 1)]);
        let mut held = Some(Stage::Serving);
        let mut told = Vec::new();
        for hour in looks.into_iter().chain([14 * 24 - 1]) {
            let verdict = judge(&Ladder::default(), &set, &overdue(&[("s", 0)]), Timestamp(hour * 3_600_000)).unwrap();
            for action in verdict.stage.actions(held.as_ref()) {
                prop_assert!(matches!(action, Action::Notify { .. }), "{:?}", action);
                if let Action::Notify { notice, .. } = action { told.push(notice); }
            }
            held = Some(verdict.stage);
        }
        prop_assert_eq!(told, [0, 1, 2, 3]);
    }

    /// Until its grace is over an overdue customer stands as without dunning, and looking again when told misses nothing.
    #[test]
    fn time_alone_changes_nothing_before_the_time_it_names(history in histories(), at in 0i64..40 * 24, later in 0i64..40 * 24) {
        let (customer, spells) = after(&history, history.len());
        let (now, then) = (Timestamp(at * 3_600_000), Timestamp((at + later) * 3_600_000));
        let verdict = judge(&Ladder::default(), &customer, &spells, now).unwrap();
        let next = judge(&Ladder::default(), &customer, &spells, then).unwrap();
        if verdict.look_again_at.is_none_or(|again| then < again) {
            prop_assert_eq!(&verdict, &next);
        }
        // It may be another subscription that decides, never another access.
        if verdict.standing.access == Access::Active {
            prop_assert_eq!(standing(&customer).map(|standing| standing.access), Some(Access::Active));
        }
    }

    /// The list is a set: neither its order nor repeats matter.
    #[test]
    fn the_list_is_a_set(history in histories(), at in 0i64..60) {
        let (plain, spells) = after(&history, history.len());
        let mut turned = plain.clone();
        turned.subscriptions.reverse();
        turned.subscriptions.extend(plain.subscriptions.clone());
        let judged = |customer: &Customer| judge(&Ladder::default(), customer, &spells, day(at));
        prop_assert_eq!(judged(&turned), judged(&plain));
    }
}
