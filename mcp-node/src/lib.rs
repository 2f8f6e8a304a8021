//! The gateway in front of an MCP server: who calls, may they, what does it count for.
//!
//! [`node::Node`] is what a process holds: the spool, the publisher, the watchers and the [`Meter`]. The HTTP door
//! ([`http`]) and the upstreams ([`upstream`]) are one way to use it; an embedding server uses the meter alone.
//! The decisions are in `mcp-node-core`. Absent on purpose: the ledger's side of a lease, and prices.

pub mod access;
pub mod aggregate;
pub mod ask;
pub mod bridge;
pub mod call;
pub mod clock;
pub mod embed;
pub mod http;
pub mod keys;
pub mod labels;
pub mod meter;
pub mod node;
pub mod publish;
pub mod reach;
pub mod request;
pub mod server;
mod sessions;
pub mod spool;
pub mod traces;
pub mod upstream;
pub mod watch;
pub mod wire;

pub use embed::Metered;
pub use meter::{Call, Meter, MeterSettings, Origin, Permit};
pub use node::{Node, NodeSettings};
