//! Billing as a process, on a real NATS, a real PostgreSQL and a simulated Stripe that checks every request.
//!
//! Each test has parts of its own. Everything is waited for by condition; kills are SIGKILL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod contract;
mod kills;
mod proxy;
mod reports;
mod setup;
mod statements;
mod trouble;
mod webhooks;
mod world;
