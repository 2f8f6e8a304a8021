//! Which plan a subscription was on from when to when: what a set of sightings amounts to.
//!
//! The provider shows what a subscription is on now, and its events say what it was on at a moment; nothing of it
//! says since when. So each look and each event is one [`Sighting`], kept for ever, and the terms are a function of
//! the set of them: their order, number and repetition do not matter, and a sighting that comes late moves the
//! beginning of its term back to where it was. Absent on purpose: what a plan costs.

use schemas::Timestamp;

use crate::{plan::PlanRef, proration::Term};

/// At that moment the subscription was on this plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighting {
    pub at: Timestamp,
    pub plan: PlanRef,
}

/// The terms of a subscription that began at `began`, in order of time.
///
/// The first term begins with the subscription, whenever it was first looked at. Where two plans were seen at one
/// moment (a change within a second) the one that was not on before is the later one.
#[must_use]
pub fn terms(began: Timestamp, sightings: impl IntoIterator<Item = Sighting>) -> Vec<Term> {
    let mut seen: Vec<Sighting> = sightings.into_iter().collect();
    seen.sort();
    seen.dedup();
    let mut terms: Vec<Term> = Vec::new();
    for moment in seen.chunk_by(|one, next| one.at == next.at) {
        let holds = terms.last().map(|term: &Term| term.plan.clone());
        let Some(changed) = moment.iter().find(|one| holds.as_ref() != Some(&one.plan)) else {
            continue;
        };
        let from = if terms.is_empty() { began } else { changed.at.max(began) };
        if terms.last().is_some_and(|last| last.from >= from) {
            terms.pop(); // A term without any length.
            if terms.last().is_some_and(|last| last.plan == changed.plan) {
                continue;
            }
        }
        terms.push(Term { from, plan: changed.plan.clone() });
    }
    terms
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(at: i64, plan: &str) -> Sighting {
        Sighting { at: Timestamp(at), plan: PlanRef { plan: plan.to_owned(), version: 1 } }
    }

    fn shown(began: i64, sightings: &[Sighting]) -> Vec<(i64, String)> {
        let terms = terms(Timestamp(began), sightings.to_vec());
        terms.into_iter().map(|term| (term.from.0, term.plan.plan)).collect()
    }

    #[test]
    fn what_sightings_amount_to() {
        #[track_caller]
        fn check(sightings: &[(i64, &str)], terms: &[(i64, &str)]) {
            let sightings: Vec<Sighting> = sightings.iter().map(|(at, p)| seen(*at, p)).collect();
            let terms: Vec<_> = terms.iter().map(|(from, p)| (*from, (*p).to_owned())).collect();
            assert_eq!(shown(10, &sightings), terms, "{sightings:?}");
        }
        check(&[], &[]);
        check(&[(10, "a")], &[(10, "a")]);
        check(&[(15, "a")], &[(10, "a")]);
        check(&[(10, "a"), (20, "b"), (30, "b"), (40, "a")], &[(10, "a"), (20, "b"), (40, "a")]);
        // Told of late, a change is where it was.
        check(&[(10, "a"), (30, "b"), (20, "b")], &[(10, "a"), (20, "b")]);
        // Another event of the second of the change still shows the old plan.
        check(&[(10, "a"), (20, "a"), (20, "b"), (25, "b")], &[(10, "a"), (20, "b")]);
        check(&[(10, "b"), (20, "b"), (20, "a"), (25, "a")], &[(10, "b"), (20, "a")]);
        // A plan that did not hold for a moment.
        check(&[(10, "a"), (10, "b"), (20, "b")], &[(10, "a"), (20, "b")]);
        check(&[(5, "a"), (8, "b")], &[(10, "b")]);
    }

    proptest! {
        /// The same set in any order, with repeats, gives the same terms; they are in order and no two alike touch.
        #[test]
        fn the_order_and_number_of_sightings_do_not_matter(
            set in prop::collection::vec((0i64..40, 0u8..3), 0..12),
            again in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let plain: Vec<Sighting> =
                set.iter().map(|(at, plan)| seen(*at, &format!("p{plan}"))).collect();
            let mut turned: Vec<Sighting> = plain.iter().rev().cloned().collect();
            if !plain.is_empty() {
                turned.extend(again.iter().map(|index| plain[index.index(plain.len())].clone()));
            }
            let terms = shown(0, &plain);
            prop_assert_eq!(shown(0, &turned), terms.clone());
            prop_assert!(terms.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1));
            prop_assert_eq!(terms.is_empty(), plain.is_empty());
        }
    }
}
