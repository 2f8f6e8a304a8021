//! What an MCP node decides: who may call, what may be spent, what a call counts for, how it is kept.
//!
//! Pure and sans-io: input and [`Now`] in, decisions and [`lease_book::Action`]s out. No clock, no randomness
//! of its own, no runtime. Absent on purpose: HTTP, files and NATS (the crate `mcp-node` around it) and any
//! knowledge of how the ledger divides a quota.

pub mod address_limit;
pub mod aggregate;
pub mod billable;
pub mod breaker;
pub mod forwarded;
pub mod gate;
pub mod glob;
pub mod keyed_breaker;
pub mod lease_book;
pub mod message;
pub mod metering;
pub mod mirror;
pub mod network;
pub mod pointer;
pub mod quota_note;
pub mod rate_limit;
pub mod refusal;
pub mod reply;
pub mod scope;
pub mod splice;
pub mod spool_format;
pub mod sse;
pub mod task;
pub mod token;
pub mod tool_list;
pub mod violations;

pub use lease_book::{Action, LeaseBook, Take, Unit};
pub use message::Message;
pub use refusal::Refusal;

use schemas::Timestamp;

/// One moment by the two clocks of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Never goes back; only differences mean something. Unit: milliseconds. Leases end by it.
    pub mono_ms: u64,
    /// What the calendar says, as far as this machine knows. Stamps events; never ends a lease.
    pub wall: Timestamp,
}
