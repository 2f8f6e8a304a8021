//! Deliberate mistakes in the shell around the cores: each must be caught, or the simulation proves nothing.

use clap::ValueEnum;

/// One mistake that the world can be run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// The ledger writes without the expected sequence: an old owner is not fenced.
    NoFence,
    /// The ledger answers before its grant is on the log.
    AnswerFirst,
    /// The ledger decides before it has folded its own last message.
    DecideBlind,
    /// A checkpoint is written wherever the database's one is.
    NoCheckpointGuard,
    /// The node counts a lease's time from the answer instead of the first question.
    LateStart,
    /// The node mints a new lease id at every repetition of a question, and takes any answer.
    NewIdEachTime,
    /// After a crash the node ends its old epoch before it has sent what its spool holds.
    EpochEndsEarly,
    /// After a lost acknowledgement the node goes on behind what it sent, without asking the log.
    TrustLostAck,
    /// The node publishes without the expected sequence, at positions made anew each time.
    Renumber,
    /// A call is answered that the spool does not hold.
    AnswerBeforeSpool,
    /// The lease is closed before the last of its calls has been recorded.
    CloseEarly,
    /// A full disk is ignored: the call is answered, its record is lost.
    IgnoreFullDisk,
}
