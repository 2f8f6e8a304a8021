//! Each transition as a row of a table, and a simulated provider that forgets: once, whatever fails.

use proptest::prelude::*;

use super::{
    super::{Books, read_back, row::tests::row},
    *,
};
use schemas::Quantity;

const NOW: Timestamp = Timestamp(50 * HOUR_MS);
const OURS: &str = "tb1:ours";

fn pending() -> Progress {
    Progress::sealed(Timestamp(0))
}

fn doubtful(first: Timestamp, last: Timestamp) -> Progress {
    Progress {
        state: State::Ambiguous,
        first_sent_at: Some(first),
        last_sent_at: Some(last),
        attempts: 1,
        ..pending()
    }
}

#[test]
fn what_to_do_next() {
    #[track_caller]
    fn check(progress: &Progress, now: Timestamp, action: Action) {
        assert_eq!(next(&row(0, 1, 5), progress, now), action, "{progress:?} at {now}");
    }
    let end = Timestamp(RETRY_FOR_MS);
    let old = Timestamp(CARRY_AFTER_MS);
    check(&pending(), NOW, Action::Send);
    check(&Progress { due_at: NOW, ..pending() }, NOW.plus_ms(-1), Action::Wait(NOW));
    check(&Progress { due_at: NOW, ..pending() }, NOW, Action::Send);
    // In doubt: the same again for 23 hours, then the provider's books, when they are believed to show it.
    check(&doubtful(Timestamp(0), Timestamp(0)), end.plus_ms(-1), Action::Send);
    check(&doubtful(Timestamp(0), Timestamp(0)), end, Action::ReadBack);
    let just_sent = doubtful(Timestamp(0), end.plus_ms(-1));
    check(&just_sent, end, Action::Wait(end.plus_ms(READ_BACK_AFTER_MS - 1)));
    check(&just_sent, end.plus_ms(READ_BACK_AFTER_MS - 1), Action::ReadBack);
    // A sender that died is a send whose end is unknown.
    check(
        &Progress { state: State::Sent, ..doubtful(Timestamp(0), Timestamp(0)) },
        Timestamp(1),
        Action::Send,
    );
    check(
        &Progress { state: State::Sent, ..doubtful(Timestamp(0), Timestamp(0)) },
        end,
        Action::ReadBack,
    );
    // Old hours are carried if they surely did not arrive, and looked up if they may have.
    check(&pending(), old.plus_ms(-1), Action::Send);
    check(&pending(), old, Action::Carry);
    check(&doubtful(old.plus_ms(-HOUR_MS), old.plus_ms(-HOUR_MS)), old, Action::ReadBack);
    for state in [State::Accepted, State::Rejected, State::Disputed, State::Carried] {
        check(&Progress { state, ..doubtful(Timestamp(0), Timestamp(0)) }, old, Action::Rest);
    }
}

#[test]
fn how_a_send_ends() {
    #[track_caller]
    fn check(before: &Progress, outcome: &Outcome, state: State) -> Progress {
        let sent = write_ahead(before, NOW);
        assert_eq!((sent.state, sent.last_sent_at), (State::Sent, Some(NOW)));
        let after = conclude(before, &sent, OURS, outcome, NOW, 0);
        assert_eq!(after.state, state, "{outcome:?}");
        assert_eq!(after.attempts, before.attempts + 1);
        after
    }
    let doubt = doubtful(Timestamp(0), Timestamp(0));
    check(&pending(), &Outcome::Accepted, State::Accepted);
    check(&pending(), &Outcome::Duplicate { identifier: OURS.into() }, State::Accepted);
    check(&pending(), &Outcome::Duplicate { identifier: "tb1:other".into() }, State::Rejected);
    check(&pending(), &Outcome::Duplicate { identifier: format!("{OURS}1") }, State::Rejected);
    check(&pending(), &Outcome::Refused, State::Rejected);

    let unknown = check(&pending(), &Outcome::Unknown, State::Ambiguous);
    assert_eq!(unknown.first_sent_at, Some(NOW));
    assert!(unknown.due_at > NOW);
    let again = check(&doubt, &Outcome::Unknown, State::Ambiguous);
    assert_eq!(again.first_sent_at, doubt.first_sent_at, "the first send counts, not the last");
    let failed =
        check(&pending(), &Outcome::ServerError { retry_after_ms: None }, State::Ambiguous);
    assert_eq!(failed.server_errors, 1);

    let slow = Outcome::NotExecuted { retry_after_ms: Some(70_000) };
    let throttled = check(&pending(), &slow, State::Pending);
    assert_eq!((throttled.first_sent_at, throttled.due_at), (None, NOW.plus_ms(70_000)));
    let throttled = check(&doubt, &slow, State::Ambiguous);
    assert_eq!(
        throttled.first_sent_at, doubt.first_sent_at,
        "a refused retry does not end the doubt"
    );
    check(&Progress { state: State::Sent, ..doubt }, &slow, State::Ambiguous);
}

#[test]
fn a_stored_server_error_is_left_behind_with_its_key() {
    let keys: Vec<String> = (0..8)
        .map(|server_errors| idempotency_key(OURS, &Progress { server_errors, ..pending() }))
        .collect();
    let second = format!("{OURS}#2");
    let third = format!("{OURS}#3");
    assert_eq!(keys, [OURS, OURS, OURS, &second, &second, &second, &third, &third]);
}

/// A provider with Stripe's memory: it knows an identifier for 24 hours and answers errors for known ones.
#[derive(Default)]
struct Provider {
    /// When the identifier was last taken.
    taken_at: Option<Timestamp>,
    total: u64,
}

impl Provider {
    fn take(&mut self, now: Timestamp, quantity: u64) -> Outcome {
        if self.taken_at.is_some_and(|at| now.ms_since(at) < 24 * HOUR_MS) {
            return Outcome::Duplicate { identifier: OURS.into() };
        }
        self.taken_at = Some(now);
        self.total += quantity;
        Outcome::Accepted
    }
}

/// What happens around one send.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Fine,
    KilledBeforeSend,
    KilledAfterEffect,
    LostBeforeEffect,
    LostAfterEffect,
    FailedBeforeEffect,
    FailedAfterEffect,
    Throttled,
}

fn fates() -> impl Strategy<Value = Vec<(Fate, i64)>> {
    use Fate::{
        FailedAfterEffect, FailedBeforeEffect, Fine, KilledAfterEffect, KilledBeforeSend,
        LostAfterEffect, LostBeforeEffect, Throttled,
    };
    let fate = prop::sample::select(vec![
        Fine,
        KilledBeforeSend,
        KilledAfterEffect,
        LostBeforeEffect,
        LostAfterEffect,
        FailedBeforeEffect,
        FailedAfterEffect,
        Throttled,
    ]);
    // The time that passes before the next look at the row: from nothing to days.
    let pause = prop_oneof![0i64..10_000, 0..HOUR_MS, 0..60 * HOUR_MS];
    prop::collection::vec((fate, pause), 1..40)
}

/// Lives one row through its fates, then through good days; gives its end and the provider's books.
fn live(fates: &[(Fate, i64)], quantity: u64, other: u64) -> (Progress, Provider) {
    let row = row(0, 1, quantity);
    let mut now = Timestamp(HOUR_MS);
    let mut progress = Progress::sealed(now);
    let mut provider = Provider::default();
    let mut fates = fates.iter();
    for _ in 0..500 {
        let (fate, pause) = fates.next().copied().unwrap_or((Fate::Fine, HOUR_MS));
        match next(&row, &progress, now) {
            Action::Rest => break,
            Action::Wait(until) => now = now.max(until),
            Action::Carry => progress.state = State::Carried,
            Action::ReadBack => {
                let told = Quantity(provider.total + other);
                let books = Books { accepted: Quantity(other), clouded: false, told };
                progress = read_back(&row, &progress, books, now);
            }
            Action::Send => progress = send(&progress, fate, &mut provider, quantity, now),
        }
        assert!(provider.total <= quantity, "counted twice: {progress:?}");
        now = now.plus_ms(pause);
    }
    (progress, provider)
}

fn send(
    before: &Progress,
    fate: Fate,
    provider: &mut Provider,
    quantity: u64,
    now: Timestamp,
) -> Progress {
    let sent = write_ahead(before, now);
    let end = |outcome: &Outcome| conclude(before, &sent, OURS, outcome, now, 3);
    let lost = Outcome::Unknown;
    let failed = Outcome::ServerError { retry_after_ms: None };
    match fate {
        Fate::Fine => end(&provider.take(now, quantity)),
        Fate::KilledBeforeSend => sent.clone(),
        Fate::KilledAfterEffect => {
            provider.take(now, quantity);
            sent.clone()
        }
        Fate::LostBeforeEffect => end(&lost),
        Fate::LostAfterEffect => {
            provider.take(now, quantity);
            end(&lost)
        }
        Fate::FailedBeforeEffect => end(&failed),
        Fate::FailedAfterEffect => {
            provider.take(now, quantity);
            end(&failed)
        }
        Fate::Throttled => end(&Outcome::NotExecuted { retry_after_ms: None }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is killed, lost or refused, and however long it takes: a row ends accepted and counted once, or
    /// carried and not counted.
    #[test]
    fn a_row_is_counted_once_or_carried(fates in fates(), quantity in 1u64..9, other in 0u64..9) {
        let (progress, provider) = live(&fates, quantity, other);
        match progress.state {
            State::Accepted => prop_assert_eq!(provider.total, quantity),
            State::Carried => prop_assert_eq!(provider.total, 0),
            state => prop_assert!(false, "ended {:?}", state),
        }
    }
}

#[test]
fn a_retry_a_day_late_would_count_twice() {
    // The reason for the 23 hours, shown on the model itself: it forgets.
    let mut provider = Provider::default();
    provider.take(Timestamp(0), 5);
    assert_eq!(
        provider.take(Timestamp(RETRY_FOR_MS), 5),
        Outcome::Duplicate { identifier: OURS.into() }
    );
    provider.take(Timestamp(24 * HOUR_MS), 5);
    assert_eq!(provider.total, 10);
}
