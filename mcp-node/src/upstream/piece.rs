//! What comes back for one request, piece by piece.

use bytes::Bytes;
use mcp_node_core::Refusal;

/// One piece.
#[derive(Debug)]
pub enum Piece {
    /// A message of the server on the way to the answer.
    Message(Bytes),
    /// The answer, and whether it is an error. Nothing follows.
    Answer(Bytes, bool),
    /// There will be no answer.
    Refused(Refusal),
}
