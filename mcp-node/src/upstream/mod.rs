//! The ways to a server: Streamable HTTP, or a channel a session (a child over stdio, HTTP+SSE, WebSocket).
//!
//! All keep the same promises: a session belongs to the key that began it and shows to no other; an answer to a
//! `tools/call` goes to the client only after it was recorded; the client's key goes nowhere. Absent on purpose:
//! which of several servers a request is for (the door knows), and the bridge to its era (`server`).

mod breaker;
pub mod duplex;
pub mod http;
mod piece;
mod signer;
mod stamp;
pub mod stdio;

use std::time::Duration;

use mcp_node_core::{Refusal, breaker::BreakerSettings};

use crate::sessions::SessionLimits;

pub use self::{
    duplex::{DuplexUpstream, RemoteServer, Transport},
    http::HttpUpstream,
    piece::AnswerPiece,
    signer::{Signer, SignerError, SignerSettings},
    stamp::UpstreamHeaders,
};

/// Two calls of one session cannot have one id at a time.
pub(crate) const ID_IN_USE: Refusal =
    Refusal::InvalidRequest("A request with this `id` is still running.");

/// What both kinds need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// How long a call may take until its answer.
    pub request_timeout: Duration,
    /// The largest answer, or event of a stream, that is held until it is recorded. Unit: bytes.
    pub max_answer_bytes: usize,
    /// A session that nobody used for this long ends.
    pub session_idle: Duration,
    /// The most sessions at a time.
    pub max_sessions: usize,
    /// When a server over HTTP that fails is asked no more for a while.
    pub breaker: BreakerSettings,
    /// The most memory that a child may use with all that it started; `None` = any. Unit: bytes.
    pub max_child_bytes: Option<u64>,
}

impl UpstreamSettings {
    /// What holds for the sessions of each server.
    #[must_use]
    pub(crate) fn sessions(&self) -> SessionLimits {
        SessionLimits { max: self.max_sessions, idle: self.session_idle }
    }
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            max_answer_bytes: 16 << 20,
            session_idle: Duration::from_secs(3_600),
            max_sessions: 10_000,
            breaker: BreakerSettings::default(),
            max_child_bytes: None,
        }
    }
}

/// How the server is reached.
pub enum Server {
    Http(HttpUpstream),
    Duplex(DuplexUpstream),
}
