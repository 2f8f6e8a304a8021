//! The rules of billing: what use costs, what Stripe is told of it, and what a tenant's subscriptions amount to.
//!
//! Pure: every function takes the time and the random numbers it needs. Invariants: a meter report never changes
//! its body or its identifier; no outcome is forgotten; access is a function of the set of subscriptions alone; the
//! same usage, plans and engine give the same bill, byte for byte. Absent on purpose: HTTP, SQL and Stripe's own types
//! (see the crate `billing`).

pub mod access;
pub mod backoff;
pub mod coupon;
pub mod credit;
pub mod currency;
pub mod cycle;
pub mod dunning;
pub mod forecast;
pub mod invoice;
pub mod money;
pub mod plan;
pub mod price;
pub mod proration;
pub mod rate;
pub mod report;
pub mod term;
pub mod tie;
