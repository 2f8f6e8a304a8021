//! Ingest against the real NATS and the real ClickHouse engine, each test with its own servers and data.

#![allow(clippy::unwrap_used, reason = "a test: what cannot be had fails it")]

mod crash;
mod model;
mod proxy;
mod records;
mod stops;
mod world;
