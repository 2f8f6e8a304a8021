//! The end of doubt: the provider's own total of the hour says whether a row arrived.
//!
//! It can, since every row is dated inside its own hour and one row at most of a customer and meter is in doubt at
//! a time. What the total does not explain is disputed, never guessed at.

use schemas::{Quantity, Timestamp};

use super::{Progress, Row, State, state::is_too_old};

/// Both sides' books of one customer, meter and hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Books {
    /// The sum of our rows that the provider has accepted.
    pub accepted: Quantity,
    /// Whether another row of the hour is in doubt or dispute: then totals tell nothing.
    pub clouded: bool,
    /// What the provider says that the hour holds.
    pub told: Quantity,
}

/// What must be stored after the provider's books were read at `now`, for a row in doubt.
///
/// Without the row: it goes out again under its identifier, which the provider does not know, or is carried if it
/// has grown too old. With the row: accepted. Else: disputed.
#[must_use]
pub fn read_back(row: &Row, progress: &Progress, books: Books, now: Timestamp) -> Progress {
    let with = books.accepted.checked_add(row.quantity);
    let state = if books.clouded {
        State::Disputed
    } else if with == Ok(books.told) {
        State::Accepted
    } else if books.told != books.accepted {
        State::Disputed
    } else if is_too_old(row, now) {
        State::Carried
    } else {
        State::Pending
    };
    let first_sent_at = if state == State::Pending { None } else { progress.first_sent_at };
    Progress { state, first_sent_at, due_at: now, ..progress.clone() }
}

#[cfg(test)]
mod tests {
    use super::{super::row::tests::row, *};
    use crate::report::{CARRY_AFTER_MS, RETRY_FOR_MS};

    #[test]
    fn the_providers_books_end_the_doubt() {
        #[track_caller]
        fn check(accepted: u64, told: u64, clouded: bool, age_ms: i64, state: State) {
            let row = row(0, 1, 5);
            let doubt = Progress {
                state: State::Ambiguous,
                first_sent_at: Some(Timestamp(1)),
                last_sent_at: Some(Timestamp(2)),
                attempts: 3,
                server_errors: 1,
                due_at: Timestamp(3),
            };
            let books = Books { accepted: Quantity(accepted), told: Quantity(told), clouded };
            let after = read_back(&row, &doubt, books, Timestamp(age_ms));
            assert_eq!(after.state, state, "accepted {accepted}, told {told}");
            // Only a row that is known not to have arrived begins a new time of retries.
            assert_eq!(after.first_sent_at.is_none(), state == State::Pending);
        }
        check(0, 5, false, RETRY_FOR_MS, State::Accepted);
        check(0, 0, false, RETRY_FOR_MS, State::Pending);
        check(7, 12, false, RETRY_FOR_MS, State::Accepted);
        check(7, 7, false, RETRY_FOR_MS, State::Pending);
        check(7, 9, false, RETRY_FOR_MS, State::Disputed);
        check(7, 0, false, RETRY_FOR_MS, State::Disputed);
        check(7, 7, true, RETRY_FOR_MS, State::Disputed);
        check(7, 12, true, RETRY_FOR_MS, State::Disputed);
        check(7, 7, false, CARRY_AFTER_MS, State::Carried);
        check(7, 12, false, CARRY_AFTER_MS, State::Accepted);
        check(u64::MAX, 4, false, RETRY_FOR_MS, State::Disputed);
    }
}
