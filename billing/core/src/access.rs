//! What a tenant's subscriptions amount to: may its keys serve, and why.
//!
//! A function of the set of subscriptions as re-read from the provider, never of the events that told of a change:
//! so it does not matter in which order events come, how often, or whether one is lost. The best status decides.
//! Absent on purpose: how long an overdue tenant still serves (see `dunning`, which decides by the same ranks).

use schemas::{Access, Timestamp};

/// A subscription's status as the provider names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Active,
    Trialing,
    /// A payment failed, the provider still tries.
    PastDue,
    Paused,
    /// The provider has given up trying.
    Unpaid,
    Canceled,
    /// The first payment never came.
    IncompleteExpired,
    /// The first payment is open.
    Incomplete,
    /// One that this code does not know.
    Unknown(String),
}

impl Status {
    /// Reads the provider's word; any word is taken.
    #[must_use]
    pub fn of(word: &str) -> Self {
        match word {
            "active" => Self::Active,
            "trialing" => Self::Trialing,
            "past_due" => Self::PastDue,
            "paused" => Self::Paused,
            "unpaid" => Self::Unpaid,
            "canceled" => Self::Canceled,
            "incomplete_expired" => Self::IncompleteExpired,
            "incomplete" => Self::Incomplete,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// The provider's word for it.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::Trialing => "trialing",
            Self::PastDue => "past_due",
            Self::Paused => "paused",
            Self::Unpaid => "unpaid",
            Self::Canceled => "canceled",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Incomplete => "incomplete",
            Self::Unknown(word) => word,
        }
    }

    /// What it means for the keys; `None` = says nothing.
    pub(crate) fn meaning(&self) -> Option<Meaning> {
        let meaning = |rank, access, words| Some(Meaning { rank, access, words });
        match self {
            Self::Active => meaning(8, Access::Active, "subscription active"),
            Self::Trialing => meaning(7, Access::Active, "trial"),
            Self::PastDue => meaning(6, Access::Active, "payment overdue"),
            Self::Paused => meaning(4, Access::Suspended, "subscription paused"),
            Self::Unpaid => meaning(3, Access::Suspended, "unpaid"),
            Self::Canceled => meaning(2, Access::Suspended, "canceled"),
            Self::IncompleteExpired => meaning(1, Access::Suspended, "first payment never came"),
            // Not decided yet, or a word of tomorrow: it neither gives access nor takes any.
            Self::Incomplete | Self::Unknown(_) => None,
        }
    }
}

/// What a subscription means for the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// The higher wins.
    pub rank: u8,
    pub access: Access,
    /// For people.
    pub words: &'static str,
}

impl Meaning {
    /// An overdue payment whose grace is over: better than all that was ended or paused, worse than all that serves.
    pub(crate) const GRACE_OVER: Self =
        Self { rank: 5, access: Access::Suspended, words: "payment overdue, grace over" };
}

/// One subscription as it stands at the provider now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    pub id: String,
    pub status: Status,
    pub created: Timestamp,
    /// Whether invoices are not collected for now; the status says nothing of it.
    pub collection_paused: bool,
    /// The plan that it is on, as `starter@1`, if its prices name one.
    pub plan: Option<String>,
}

/// Everything that the provider says of one customer now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Customer {
    /// The customer was deleted there: nothing can be billed to it any more.
    pub deleted: bool,
    pub subscriptions: Vec<Subscription>,
}

/// What a customer's subscriptions amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub access: Access,
    /// In words for people.
    pub reason: String,
    /// The subscription that decided, if one did.
    pub subscription: Option<String>,
    /// The plan that it is on.
    pub plan: Option<String>,
}

/// What the customer's present state means; `None` = it says nothing, so whatever holds goes on holding.
///
/// Of several subscriptions with the best status the newest decides, then the one with the greatest id: the order
/// and number of entries in the list change nothing.
#[must_use]
pub fn standing(customer: &Customer) -> Option<Standing> {
    standing_by(customer, |one| one.status.meaning()).map(|(standing, _)| standing)
}

/// As [`standing`], by another meaning; with the subscription that decided, if one did.
pub(crate) fn standing_by(
    customer: &Customer,
    meaning: impl Fn(&Subscription) -> Option<Meaning>,
) -> Option<(Standing, Option<&Subscription>)> {
    if customer.deleted {
        let reason = "customer deleted".to_owned();
        let (access, subscription, plan) = (Access::Suspended, None, None);
        return Some((Standing { access, reason, subscription, plan }, None));
    }
    let meanings = customer.subscriptions.iter().filter_map(|one| Some((meaning(one)?, one)));
    let (Meaning { access, words, .. }, best) =
        meanings.max_by_key(|(meaning, one)| (meaning.rank, one.created, one.id.as_str()))?;
    let flag = if best.collection_paused { ", collection paused" } else { "" };
    let (reason, subscription) = (format!("{words}{flag}"), Some(best.id.clone()));
    let plan = best.plan.clone();
    Some((Standing { access, reason, subscription, plan }, Some(best)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(id: &str, status: &str, created: i64) -> Subscription {
        Subscription {
            id: id.to_owned(),
            status: Status::of(status),
            created: Timestamp(created),
            collection_paused: false,
            plan: Some(format!("{id}@1")),
        }
    }

    fn customer(subscriptions: &[Subscription]) -> Customer {
        Customer { deleted: false, subscriptions: subscriptions.to_vec() }
    }

    #[test]
    fn statuses() {
        #[track_caller]
        fn check(status: &str, access: Option<Access>, reason: &str) {
            let standing = standing(&customer(&[one("sub_1", status, 1)]));
            assert_eq!(standing.as_ref().map(|s| s.access), access, "{status}");
            assert_eq!(standing.map(|s| s.reason).unwrap_or_default(), reason, "{status}");
        }
        check("trialing", Some(Access::Active), "trial");
        check("active", Some(Access::Active), "subscription active");
        check("past_due", Some(Access::Active), "payment overdue");
        check("paused", Some(Access::Suspended), "subscription paused");
        check("unpaid", Some(Access::Suspended), "unpaid");
        check("canceled", Some(Access::Suspended), "canceled");
        check("incomplete_expired", Some(Access::Suspended), "first payment never came");
        check("incomplete", None, "");
        check("a word of tomorrow", None, "");
    }

    #[test]
    fn the_end_of_an_old_subscription_does_not_suspend_a_newer_one() {
        let set = customer(&[one("sub_new", "active", 2), one("sub_old", "canceled", 1)]);
        let standing = standing(&set).unwrap();
        assert_eq!(
            (standing.access, standing.subscription.as_deref(), standing.plan.as_deref()),
            (Access::Active, Some("sub_new"), Some("sub_new@1"))
        );
    }

    #[test]
    fn an_open_first_payment_neither_gives_nor_takes() {
        assert_eq!(standing(&customer(&[one("sub_1", "incomplete", 1)])), None);
        assert_eq!(standing(&customer(&[])), None);
        let both = customer(&[one("sub_1", "canceled", 1), one("sub_2", "incomplete", 2)]);
        assert_eq!(standing(&both).unwrap().reason, "canceled");
    }

    #[test]
    fn a_deleted_customer_has_no_access_whatever_its_subscriptions_say() {
        let gone = Customer { deleted: true, subscriptions: vec![one("sub_1", "active", 1)] };
        assert_eq!(standing(&gone).unwrap().access, Access::Suspended);
    }

    #[test]
    fn a_paused_collection_is_shown_and_changes_nothing() {
        let set =
            customer(&[Subscription { collection_paused: true, ..one("sub_1", "active", 1) }]);
        let standing = standing(&set).unwrap();
        assert_eq!(standing.access, Access::Active);
        assert_eq!(standing.reason, "subscription active, collection paused");
    }

    /// The customer at the provider as it changes, and the events that tell of each change.
    ///
    /// Each entry is (subscription, status); a subscription never leaves the list, as at Stripe.
    fn histories() -> impl Strategy<Value = Vec<(u8, usize)>> {
        prop::collection::vec((0u8..3, 0usize..WORDS.len()), 1..6)
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

    /// The customer after the first `changes` of a history.
    fn after(history: &[(u8, usize)], changes: usize) -> Customer {
        let mut now = std::collections::BTreeMap::new();
        for (subscription, word) in &history[..changes] {
            now.insert(*subscription, *word);
        }
        let list =
            now.iter().map(|(id, word)| one(&format!("sub_{id}"), WORDS[*word], i64::from(*id)));
        customer(&list.collect::<Vec<_>>())
    }

    /// What a worker holds that meets the events of `deliveries` (indices of changes) in that order, the provider
    /// having gone on meanwhile: at the n-th delivery it is at least as far as `progress[n]` says.
    fn worked(
        history: &[(u8, usize)],
        deliveries: &[usize],
        progress: &[usize],
    ) -> Option<Standing> {
        let mut held: Option<Standing> = None;
        let mut reached = 0;
        for (place, change) in deliveries.iter().enumerate() {
            reached = reached
                .max(change + 1)
                .max(progress.get(place).copied().unwrap_or(0).min(history.len()));
            if let Some(standing) = standing(&after(history, reached)) {
                held = Some(standing);
            }
        }
        held
    }

    /// A history in which no subscription falls back to `incomplete`: at Stripe it is where one begins.
    fn begins_incomplete(history: &[(u8, usize)]) -> bool {
        let mut decided = std::collections::BTreeSet::new();
        history.iter().all(|(id, word)| {
            if WORDS[*word] == "incomplete" {
                return !decided.contains(id);
            }
            decided.insert(*id);
            true
        })
    }

    proptest! {
        /// Every order of the events, with repeats, ends in the same state: what the last state amounts to.
        #[test]
        fn the_order_and_number_of_events_do_not_matter(
            history in histories().prop_filter("legal", |history| begins_incomplete(history)),
            seed in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            progress in prop::collection::vec(0usize..7, 0..18),
            shuffle in any::<u64>(),
        ) {
            let mut deliveries: Vec<usize> = (0..history.len()).collect();
            deliveries.extend(seed.iter().map(|index| index.index(history.len())));
            let mut dice = shuffle;
            for place in (1..deliveries.len()).rev() {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let other = usize::try_from(dice >> 33).unwrap() % (place + 1);
                deliveries.swap(place, other);
            }
            let end = standing(&after(&history, history.len()));
            prop_assert_eq!(worked(&history, &deliveries, &progress), end);
        }

        /// Nor does the order or repetition of the entries in the list.
        #[test]
        fn the_list_is_a_set(history in histories(), twice: bool) {
            let plain = after(&history, history.len());
            let mut turned = plain.clone();
            turned.subscriptions.reverse();
            if twice {
                turned.subscriptions.extend(plain.subscriptions.clone());
            }
            prop_assert_eq!(standing(&turned), standing(&plain));
        }
    }

    #[test]
    fn all_permutations_of_a_life_end_alike() {
        // incomplete → active → past_due → unpaid, then a second subscription, then the first is canceled.
        let history = [(0, 7), (0, 0), (0, 2), (0, 4), (1, 0), (0, 5)];
        let end = standing(&after(&history, history.len()));
        let mut orders = 0;
        permutations(&mut (0..history.len()).collect::<Vec<_>>(), 0, &mut |order| {
            orders += 1;
            let repeated: Vec<usize> =
                order.iter().flat_map(|change| [*change, order[0]]).collect();
            assert_eq!(worked(&history, order, &[]), end, "{order:?}");
            assert_eq!(worked(&history, &repeated, &[]), end, "{repeated:?}");
        });
        assert_eq!(orders, 720);
    }

    fn permutations(items: &mut Vec<usize>, from: usize, each: &mut impl FnMut(&[usize])) {
        if from == items.len() {
            return each(items);
        }
        for place in from..items.len() {
            items.swap(from, place);
            permutations(items, from + 1, each);
            items.swap(from, place);
        }
    }
}
