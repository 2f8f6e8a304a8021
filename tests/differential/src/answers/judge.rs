//! What must hold of a case: seen by the client as a success ⇔ counted once.

use schemas::Outcome;

use super::clients::{Report, Saw};
use crate::usage::Recorded;

/// How a case breaks the law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Difference {
    /// The client has a result, and it was not counted.
    SeenNotCounted,
    /// It was counted, and the client has nothing.
    CountedNotSeen,
    /// It was counted, and the client was told of an error.
    CountedErrorSeen,
    CountedTwice,
    /// One call was recorded as several.
    RecordedTwice,
    /// The client was handed two answers of one call.
    TwoAnswers,
}

impl Difference {
    /// Whether it shows whatever the timing was. The others are run again, alone and with more time.
    #[must_use]
    pub fn is_certain(self) -> bool {
        !matches!(self, Self::CountedNotSeen)
    }
}

/// Judges one case. A result that reached the client and that its schema refused may count or not: which shapes of a
/// result are taken differs between the clients.
#[must_use]
pub fn judge(report: &Report, recorded: &Recorded) -> Option<Difference> {
    let rounds = recorded.outcomes.iter().filter(|outcome| **outcome == Outcome::InputRequired);
    let settled = recorded.outcomes.len() - rounds.count();
    match report.saw {
        Saw::Unconnected => None,
        _ if recorded.units > 1 => Some(Difference::CountedTwice),
        Saw::Success if recorded.units == 0 => Some(Difference::SeenNotCounted),
        Saw::Nothing if recorded.units > 0 => Some(Difference::CountedNotSeen),
        Saw::Error | Saw::ToolError | Saw::Later if recorded.units > 0 => {
            Some(Difference::CountedErrorSeen)
        }
        _ if report.answers > 1 => Some(Difference::TwoAnswers),
        _ if settled > 1 => Some(Difference::RecordedTwice),
        _ => None,
    }
}
