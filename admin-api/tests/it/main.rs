//! The admin API over real HTTP, on a real NATS, ClickHouse and PostgreSQL; each test with its own.

#![allow(clippy::unwrap_used, reason = "a test: what cannot be had fails it")]

mod api;
mod idempotency;
mod page;
mod refusals;
mod usage;
mod world;
