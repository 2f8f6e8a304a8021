//! An overdue payment: how long the keys still serve, and what the customer is told meanwhile.
//!
//! ```text
//!            overdue                    grace over
//! Serving ───────────▶ Overdue(told n) ───────────▶ Suspended
//!    ▲  ◀── paid ──────┘  └─ a notice falls due: n + 1    │
//!    └────────────────────── paid ────────────────────────┘     any ── ended, paused, unpaid ──▶ Suspended
//! ```
//!
//! Where a customer stands ([`judge`]) is a function of its subscriptions as re-read, of since when each is overdue (as
//! re-read from its oldest open invoice), and of the time: never of events, of their order, or of when somebody looked.
//! What is to be done ([`Stage::actions`]) is the step from the stage that was last acted on to that one. Invariants:
//! each notice of an overdue spell is told once, in order; keys serve as long as the best subscription says so; no
//! event can bring back an older stage. Absent on purpose: trying cards again (the provider does), and the words of
//! the notices.

use std::collections::BTreeMap;

use schemas::{Access, Timestamp};

use crate::access::{Customer, Meaning, Standing, Status, standing_by};

/// Milliseconds in a day.
const DAY_MS: i64 = 86_400_000;

/// What happens to an overdue customer, and when, from the moment its oldest open invoice fell due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    notices_ms: Vec<i64>,
    grace_ms: i64,
}

/// A ladder whose steps are not in order, or that lie outside its grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("notices must be in order, from 0 on, and before the end of the grace")]
pub struct LadderError;

impl Default for Ladder {
    /// Two weeks of grace: as long as Stripe by default tries the card again (eight times in two weeks).
    fn default() -> Self {
        Self { notices_ms: [0, 3, 7, 13].map(|days| days * DAY_MS).to_vec(), grace_ms: 14 * DAY_MS }
    }
}

impl Ladder {
    /// A ladder of its own. Units: milliseconds since the payment fell due.
    ///
    /// # Errors
    /// Notices that are not in order, or not within the grace; no grace at all.
    pub fn try_new(notices_ms: Vec<i64>, grace_ms: i64) -> Result<Self, LadderError> {
        let ordered = notices_ms.windows(2).all(|pair| pair[0] < pair[1]);
        let within = notices_ms.iter().all(|at| (0..grace_ms).contains(at));
        if grace_ms > 0 && ordered && within {
            Ok(Self { notices_ms, grace_ms })
        } else {
            Err(LadderError)
        }
    }

    fn ends_at(&self, since: Timestamp) -> Timestamp {
        since.plus_ms(self.grace_ms)
    }

    /// How many notices are due.
    fn notices(&self, since: Timestamp, now: Timestamp) -> usize {
        self.notices_ms.iter().filter(|after| since.plus_ms(**after) <= now).count()
    }

    /// When the next notice falls due, or else the grace ends.
    fn next(&self, since: Timestamp, now: Timestamp) -> Timestamp {
        let notices = self.notices_ms.iter().map(|after| since.plus_ms(*after));
        notices.into_iter().find(|at| *at > now).unwrap_or(self.ends_at(since))
    }
}

/// Where a customer stands on the ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    Serving,
    /// A payment is open; the keys serve until the grace ends.
    Overdue {
        /// When it fell due: it names the spell.
        since: Timestamp,
        /// How many notices are due by now.
        notices: usize,
    },
    Suspended {
        /// The overdue spell that led here, if one did.
        overdue_since: Option<Timestamp>,
    },
}

/// What is to be done to get from one stage to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Suspend,
    Resume,
    /// Tell the customer; notices of a spell count from 0.
    Notify {
        since: Timestamp,
        notice: usize,
    },
}

/// Where a customer stands, what that means for its keys, and when to look again though nothing happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub standing: Standing,
    pub stage: Stage,
    /// The moment at which time alone changes the verdict.
    pub look_again_at: Option<Timestamp>,
}

/// Judges a customer as it stands now. `None` = it says nothing, so whatever holds goes on holding.
///
/// `overdue` says of each subscription since when its oldest open invoice is due. Of one that is past due and not in it
/// nothing is known: its keys serve, and the provider's own ladder (unpaid, canceled) decides.
#[must_use]
pub fn judge(
    ladder: &Ladder,
    customer: &Customer,
    overdue: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> Option<Verdict> {
    let since = |id: &str| overdue.get(id).copied();
    let (standing, decider) = standing_by(customer, |one| match (&one.status, since(&one.id)) {
        (Status::PastDue, Some(since)) if ladder.ends_at(since) <= now => Some(Meaning::GRACE_OVER),
        (status, _) => status.meaning(),
    })?;
    let past_due = decider.filter(|one| one.status == Status::PastDue);
    let since = past_due.and_then(|one| since(&one.id));
    let (stage, look_again_at) = match (standing.access, since) {
        (Access::Active, None) => (Stage::Serving, None),
        (Access::Active, Some(since)) => {
            let notices = ladder.notices(since, now);
            (Stage::Overdue { since, notices }, Some(ladder.next(since, now)))
        }
        (Access::Suspended, overdue_since) => (Stage::Suspended { overdue_since }, None),
    };
    Some(Verdict { standing, stage, look_again_at })
}

impl Stage {
    /// What is to be done to get here from the stage that was last acted on; `None` = none yet, the keys serve not.
    ///
    /// Acting on the same stage again is nothing to do.
    #[must_use]
    pub fn actions(&self, before: Option<&Self>) -> Vec<Action> {
        let served = before.is_some_and(Self::serves);
        let mut actions = match (served, self.serves()) {
            (true, false) => vec![Action::Suspend],
            (false, true) => vec![Action::Resume],
            (true, true) | (false, false) => vec![],
        };
        if let Self::Overdue { since, notices } = *self {
            let told = match before {
                Some(Self::Overdue { since: same, notices }) if *same == since => *notices,
                _ => 0,
            };
            actions.extend((told..notices).map(|notice| Action::Notify { since, notice }));
        }
        actions
    }

    fn serves(&self) -> bool {
        match self {
            Self::Serving | Self::Overdue { .. } => true,
            Self::Suspended { .. } => false,
        }
    }
}

#[cfg(test)]
#[path = "dunning/tests.rs"]
mod tests;
