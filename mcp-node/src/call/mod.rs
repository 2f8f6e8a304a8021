//! One call, from its admission to its settlement: the only place where an answer becomes a record and leaves.
//!
//! ```text
//! transport ── Step ──► Driver: record ──► deliver ──► settled
//! (HTTP, stdio, bridges)   a call, a task's result, or nothing is owed
//! ```
//! A transport ([`Source`]) says what came, step by step; the [`Driver`] alone records, and it records before the last
//! byte leaves. What was not recorded is not delivered; what cannot be told apart from an answer is never passed on as
//! something else (`mcp_node_core::reply`). Absent on purpose: how a request reaches its server.

pub mod client;
pub mod driver;
pub mod in_flight;
pub mod quota_hints;
pub mod tasks;

pub use self::{
    client::ClientEnd,
    driver::{AnswerForm, Driver, End, PendingRecord, Source, Step, outcome_of},
    in_flight::{DeliveryDecision, InFlightCall},
    quota_hints::QuotaHints,
    tasks::{TaskPoll, Tasks},
};
