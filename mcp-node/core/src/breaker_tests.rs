//! The breaker, step by step and over any run.

use proptest::prelude::*;

use super::*;

fn settings() -> BreakerSettings {
    let (open_ms, max_open_ms) = (1_000, 4_000);
    BreakerSettings { failures: 3, percent: 50, window_ms: 10_000, fewest: 8, open_ms, max_open_ms }
}

fn end(breaker: &mut Breaker, now_ms: u64, how: Ended) -> Option<Change> {
    let ticket = breaker.enter(now_ms).unwrap();
    breaker.ended(now_ms, ticket, how, CHANCE)
}

#[test]
fn failures_one_after_the_other_open_it_and_a_success_between_them_does_not() {
    use Ended::{Badly, Unknown, Well};
    let rows: [(&[Ended], bool); 6] = [
        (&[Badly, Badly], false),
        (&[Badly, Badly, Badly], true),
        (&[Badly, Badly, Well, Badly, Badly], false),
        (&[Badly, Badly, Unknown, Badly], true),
        (&[Well, Well, Badly, Badly, Badly], true),
        // Half of eight, never three in a row.
        (&[Well, Badly, Well, Badly, Well, Badly, Well, Badly], true),
    ];
    for (ends, opens) in rows {
        let mut breaker = Breaker::new(settings());
        let last = ends.iter().map(|how| end(&mut breaker, 5, *how)).last().flatten();
        assert_eq!(last.is_some(), opens, "{ends:?}");
        assert_eq!(breaker.closed_for_ms(5).is_some(), opens, "{ends:?}");
    }
}

#[test]
fn a_window_that_is_over_says_nothing() {
    let mut breaker = Breaker::new(settings());
    for step in 0..40_u64 {
        let how = if step % 2 == 0 { Ended::Badly } else { Ended::Well };
        assert_eq!(end(&mut breaker, step * 2_000, how), None, "{step}");
    }
}

#[test]
fn one_probe_decides_and_each_that_fails_doubles_the_wait() {
    let mut breaker = Breaker::new(settings());
    let mut now_ms = 100;
    for _ in 0..2 {
        assert_eq!(end(&mut breaker, now_ms, Ended::Badly), None);
    }
    let mut opened = end(&mut breaker, now_ms, Ended::Badly);
    for expected in [1_000, 2_000, 4_000, 4_000] {
        assert_eq!(opened, Some(Change::Opened(expected)));
        assert_eq!(breaker.enter(now_ms + 1), Err(expected - 1));
        now_ms += expected;
        let probe = breaker.enter(now_ms).unwrap();
        assert!(probe.probe);
        assert_eq!(breaker.enter(now_ms), Err(PROBE_WAIT_MS), "one at a time");
        opened = breaker.ended(now_ms, probe, Ended::Badly, CHANCE);
    }
    let probe = breaker.enter(now_ms + 4_000).unwrap();
    assert_eq!(breaker.ended(now_ms, probe, Ended::Well, 0), Some(Change::Closed));
    assert!(!breaker.enter(now_ms).unwrap().probe);
}

#[test]
fn what_began_before_it_opened_says_nothing_and_a_probe_without_an_end_is_followed_by_another() {
    let mut breaker = Breaker::new(settings());
    let early = breaker.enter(0).unwrap();
    for _ in 0..3 {
        end(&mut breaker, 0, Ended::Badly);
    }
    assert_eq!(breaker.ended(1, early, Ended::Well, 0), None);
    assert!(breaker.closed_for_ms(1).is_some(), "an old success does not close it");
    let probe = breaker.enter(1_000).unwrap();
    assert_eq!(breaker.ended(1_000, early, Ended::Badly, 0), None);
    assert_eq!(breaker.ended(1_000, probe, Ended::Unknown, 0), None);
    assert!(breaker.enter(1_000).unwrap().probe);
}

#[test]
fn without_a_bound_it_never_opens() {
    let mut breaker = Breaker::new(BreakerSettings { failures: 0, ..settings() });
    assert!((0..100).all(|now| end(&mut breaker, now, Ended::Badly).is_none()));
}

#[derive(Clone, Debug)]
enum Step {
    Enter,
    End(prop::sample::Index, Ended, u64),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let how =
        prop_oneof![1 => Just(Ended::Well), 3 => Just(Ended::Badly), 1 => Just(Ended::Unknown)];
    let step = prop_oneof![
        4 => Just(Step::Enter),
        4 => (any::<prop::sample::Index>(), how, 0..=CHANCE).prop_map(|(which, how, chance)| Step::End(which, how, chance)),
        2 => (0..6_000_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Nothing passes before a said wait is over, one probe runs at a time, every wait is within its bounds, and
    /// whatever happened, an upstream is asked again.
    #[test]
    fn it_holds_what_it_says_over_any_run(steps in steps()) {
        let (mut breaker, mut now_ms, mut out) = (Breaker::new(settings()), 0, Vec::<Ticket>::new());
        let mut open_until_ms = 0;
        for step in steps {
            match step {
                Step::Enter => match breaker.enter(now_ms) {
                    Ok(ticket) => {
                        prop_assert!(now_ms >= open_until_ms, "it was said to be open");
                        out.push(ticket);
                    }
                    Err(ms) => prop_assert!((1..=4_000).contains(&ms)),
                },
                Step::End(which, how, chance) if !out.is_empty() => {
                    let ticket = out.swap_remove(which.index(out.len()));
                    if let Some(Change::Opened(ms)) = breaker.ended(now_ms, ticket, how, chance) {
                        prop_assert!((500..=4_000).contains(&ms) && how == Ended::Badly);
                        open_until_ms = now_ms + ms;
                    }
                }
                Step::End(..) => {}
                Step::Wait(ms) => now_ms += ms,
            }
            let running = out.iter().filter(|ticket| ticket.probe && ticket.term == breaker.term).count();
            prop_assert!(running <= 1, "one probe at a time");
        }
        for ticket in out {
            breaker.ended(now_ms, ticket, Ended::Unknown, 0);
        }
        prop_assert!(breaker.enter(now_ms + 4_000).is_ok());
    }
}
