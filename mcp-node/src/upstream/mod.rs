//! The server behind this node: one over Streamable HTTP, or a child process a session over stdio.
//!
//! Both keep the same promises: a session belongs to the key that began it and shows to no other; an answer to a
//! `tools/call` goes to the client only after it was recorded; the client's key goes nowhere. Absent on purpose:
//! several upstreams a node, and translation between the protocol's two eras.

pub mod http;
mod slot;
pub mod stdio;

use std::time::Duration;

use mcp_node_core::Refusal;

pub use self::{http::HttpUpstream, stdio::StdioUpstream};

/// Two calls of one session cannot have one id at a time.
const ID_IN_USE: Refusal = Refusal::InvalidRequest("A request with this `id` is still running.");

/// What both kinds need to know.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamSettings {
    /// How long a call may take until its answer.
    pub request_patience: Duration,
    /// The largest answer, or event of a stream, that is held until it is recorded. Unit: bytes.
    pub max_answer_bytes: usize,
    /// A session that nobody used for this long ends.
    pub session_idle: Duration,
    /// The most sessions at a time.
    pub max_sessions: usize,
}

/// The server behind this node.
pub enum Upstream {
    Http(HttpUpstream),
    Stdio(StdioUpstream),
}

impl Upstream {
    /// Ends the streams that would never end by themselves; calls go on.
    pub fn end_streams(&self) {
        match self {
            Self::Http(upstream) => upstream.stop(),
            Self::Stdio(_) => {} // They end with their sessions, which running calls need.
        }
    }

    /// Ends streams, sessions and children: the node stops.
    pub async fn stop(&self) {
        match self {
            Self::Http(upstream) => upstream.stop(),
            Self::Stdio(upstream) => upstream.stop().await,
        }
    }
}
