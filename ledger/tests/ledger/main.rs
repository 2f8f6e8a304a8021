//! The ledger process on real NATS and PostgreSQL, killed and started at will.

#![allow(clippy::unwrap_used)] // The lint knows test functions, but not their helpers.

mod crash;
mod once;
mod questions;
mod world;
