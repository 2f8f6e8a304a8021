//! Process plumbing that every service shares: settings, logs, connections, HTTP, health, shutdown.
//!
//! It knows no domain word: streams and schemas are handed to it by name. Absent on purpose: retries that
//! hide an outcome. A lost answer is reported as unknown, and the caller's protocol settles it.

pub mod clickhouse;
pub mod health;
pub mod http;
pub mod nats;
pub mod postgres;
pub mod serve;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod traces;
