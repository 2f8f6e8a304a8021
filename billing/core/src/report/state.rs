//! The state machine of one meter report.
//!
//! ```text
//! pending ──write_ahead──▶ sent ──conclude──▶ accepted | rejected | ambiguous (or pending again: it never ran)
//!    │                      │ (a kill)           ambiguous ──write_ahead──▶ sent, same body, same identifier
//!    └─ too old ▶ carried   └────────────────▶   ambiguous ──23 h──▶ read_back ▶ accepted | pending | disputed
//! ```
//! Invariants: a row whose end is unknown is sent again only inside the time in which the provider is sure to know
//! its identifier; after that only the provider's own books decide. Nothing is re-dated and nothing is dropped.
//! Sources: Stripe keeps identifiers "at least 24 hours" and takes timestamps of the past 35 days.

use schemas::Timestamp;

use super::Row;
use crate::backoff::Backoff;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// How long after its first send a row of unknown end may be sent again. Unit: milliseconds. One hour inside the
/// day for which Stripe promises to know an identifier.
pub const RETRY_FOR_MS: i64 = 23 * HOUR_MS;
/// How long after the last send the provider's books are believed to show it. Unit: milliseconds.
pub const READ_BACK_AFTER_MS: i64 = 15 * MINUTE_MS;
/// The age of an hour from which on it is not sent any more. Unit: milliseconds. One day inside Stripe's 35.
pub const CARRY_AFTER_MS: i64 = 34 * 24 * HOUR_MS;
/// The pauses between sends of one row.
pub const BACKOFF: Backoff = Backoff { first_ms: 1_000, longest_ms: 5 * MINUTE_MS };
/// A server error is stored under its idempotency key and answered again; after so many the key changes.
const SERVER_ERRORS_PER_KEY: u32 = 3;

/// Where a report stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Never left, or is known not to have arrived.
    Pending,
    /// Written ahead: it is on its way, or the process died.
    Sent,
    /// It left and nobody knows whether it arrived.
    Ambiguous,
    /// The provider has it.
    Accepted,
    /// The provider refused it for what it is: a person must look.
    Rejected,
    /// The provider's books match neither "arrived" nor "did not": a person must look.
    Disputed,
    /// Too old to be reported; it is owed by another way.
    Carried,
}

impl State {
    /// Whether the sender has nothing more to do with it.
    #[must_use]
    pub fn is_settled(self) -> bool {
        match self {
            Self::Pending | Self::Sent | Self::Ambiguous => false,
            Self::Accepted | Self::Rejected | Self::Disputed | Self::Carried => true,
        }
    }
}

/// All that changes about a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub state: State,
    /// The first send since the row was last known not to have arrived.
    pub first_sent_at: Option<Timestamp>,
    pub last_sent_at: Option<Timestamp>,
    /// Sends in all.
    pub attempts: u32,
    /// Server errors in all.
    pub server_errors: u32,
    /// Nothing is done before.
    pub due_at: Timestamp,
}

impl Progress {
    /// A row that was just sealed.
    #[must_use]
    pub fn sealed(at: Timestamp) -> Self {
        Self {
            state: State::Pending,
            first_sent_at: None,
            last_sent_at: None,
            attempts: 0,
            server_errors: 0,
            due_at: at,
        }
    }
}

/// What to do with a row now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing any more.
    Rest,
    /// Nothing before this time.
    Wait(Timestamp),
    /// Write ahead, then send.
    Send,
    /// Ask the provider for its books of the row's hour.
    ReadBack,
    /// Mark it as carried.
    Carry,
}

/// How one send ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The provider took it.
    Accepted,
    /// The provider says that it knows this identifier already.
    Duplicate { identifier: String },
    /// The provider refuses the report itself.
    Refused,
    /// It was not executed, and not for its own fault: throttled, or our credentials were refused.
    NotExecuted { retry_after_ms: Option<i64> },
    /// The provider failed; it may have executed it.
    ServerError { retry_after_ms: Option<i64> },
    /// No answer: it may have been executed.
    Unknown,
}

/// What to do with a row at `now`. A row in `Sent` is taken for one whose sender died: never ask while it flies.
#[must_use]
pub fn next(row: &Row, progress: &Progress, now: Timestamp) -> Action {
    if progress.state.is_settled() {
        return Action::Rest;
    }
    if now < progress.due_at {
        return Action::Wait(progress.due_at);
    }
    match (progress.state, progress.first_sent_at) {
        (State::Sent | State::Ambiguous, Some(first))
            if is_too_old(row, now) || now.ms_since(first) >= RETRY_FOR_MS =>
        {
            let settled_at = progress.last_sent_at.unwrap_or(first).plus_ms(READ_BACK_AFTER_MS);
            if now < settled_at { Action::Wait(settled_at) } else { Action::ReadBack }
        }
        (State::Pending, _) if is_too_old(row, now) => Action::Carry,
        _ => Action::Send,
    }
}

/// Whether the provider is near to refusing the row for its age.
pub(super) fn is_too_old(row: &Row, now: Timestamp) -> bool {
    now.ms_since(row.hour.start()) >= CARRY_AFTER_MS
}

/// What must be stored before a send at `now`.
#[must_use]
pub fn write_ahead(before: &Progress, now: Timestamp) -> Progress {
    Progress {
        state: State::Sent,
        first_sent_at: before.first_sent_at.or(Some(now)),
        last_sent_at: Some(now),
        attempts: before.attempts.saturating_add(1),
        ..before.clone()
    }
}

/// What must be stored after a send: `before` is the progress that [`write_ahead`] was given, `sent` what it gave.
///
/// `identifier` is the row's own: only a duplicate of exactly that is a delivery. `random` spreads the pause.
#[must_use]
pub fn conclude(
    before: &Progress,
    sent: &Progress,
    identifier: &str,
    outcome: &Outcome,
    now: Timestamp,
    random: u64,
) -> Progress {
    let pause = |retry_after_ms: Option<i64>| {
        now.plus_ms(BACKOFF.pause_ms(sent.attempts, random).max(retry_after_ms.unwrap_or(0)))
    };
    let settled = |state| Progress { state, due_at: now, ..sent.clone() };
    match outcome {
        Outcome::Accepted => settled(State::Accepted),
        Outcome::Duplicate { identifier: named } if named == identifier => settled(State::Accepted),
        Outcome::Duplicate { .. } | Outcome::Refused => settled(State::Rejected),
        // This send never ran, so the row stands as it stood: clean if it was, in doubt if it was.
        Outcome::NotExecuted { retry_after_ms } => Progress {
            state: if before.state == State::Pending { State::Pending } else { State::Ambiguous },
            first_sent_at: before.first_sent_at,
            due_at: pause(*retry_after_ms),
            ..sent.clone()
        },
        Outcome::ServerError { retry_after_ms } => Progress {
            state: State::Ambiguous,
            server_errors: sent.server_errors.saturating_add(1),
            due_at: pause(*retry_after_ms),
            ..sent.clone()
        },
        Outcome::Unknown => {
            Progress { state: State::Ambiguous, due_at: pause(None), ..sent.clone() }
        }
    }
}

/// The key of the next send: the identifier, with a number once a key holds a stored server error.
///
/// The identifier stays, so the provider still knows the row for the same one.
#[must_use]
pub fn idempotency_key(identifier: &str, progress: &Progress) -> String {
    match progress.server_errors / SERVER_ERRORS_PER_KEY {
        0 => identifier.to_owned(),
        keys => format!("{identifier}#{}", keys.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests;
