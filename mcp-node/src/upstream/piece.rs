//! What comes back for one request, piece by piece.

use bytes::Bytes;
use mcp_node_core::Refusal;
use schemas::Outcome;

/// One piece.
#[derive(Debug)]
pub enum AnswerPiece {
    /// A message of the server on the way to the answer.
    Message(Bytes),
    /// The answer, and what it says. Nothing follows.
    Answer(Bytes, Outcome),
    /// There will be no answer.
    Refused(Refusal),
}
