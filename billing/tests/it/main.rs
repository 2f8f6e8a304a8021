//! Billing as a process, on a real NATS, a real PostgreSQL and a simulated Stripe that checks every request.
//!
//! Each test has parts of its own. Everything is waited for by condition; kills are SIGKILL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod batches;
mod contract;
mod files;
mod kills;
mod provision;
mod proxy;
mod quarantine;
mod reports;
mod setup;
mod shadow;
mod statements;
mod sweep;
mod trouble;
mod webhooks;
mod world;
