//! What goes over the wire between clients, the node and servers, whoever reads it: header names and revisions, ids,
//! frames, and what the node answers itself.
//!
//! Absent on purpose: who sent it, what it is for, and where it goes.

pub mod answer;
pub mod era;
pub mod frames;
pub mod lanes;
pub mod websocket;

use mcp_node_core::message::{Id, IdKey};

pub use self::era::FIRST_MODERN;

/// The header that names a session.
pub const SESSION: &str = "mcp-session-id";
/// The header that names the protocol's revision.
pub const VERSION: &str = "mcp-protocol-version";

/// A request's id: as it was written, and by its value.
#[derive(Clone, Debug)]
pub struct RequestId {
    pub raw: String,
    pub key: IdKey,
}

impl From<&Id<'_>> for RequestId {
    fn from(id: &Id<'_>) -> Self {
        Self { raw: id.raw.to_owned(), key: id.key() }
    }
}
