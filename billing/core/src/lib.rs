//! The rules of billing: what Stripe is told of usage, and what a tenant's subscriptions amount to.
//!
//! Pure: every function takes the time and the random numbers it needs. Invariants: a meter report never changes
//! its body or its identifier; no outcome is forgotten; access is a function of the set of subscriptions alone.
//! Absent on purpose: HTTP, SQL and Stripe's own types (see the crate `billing`), and prices, which get a room of
//! their own (`rate`).

pub mod access;
pub mod backoff;
pub mod report;
