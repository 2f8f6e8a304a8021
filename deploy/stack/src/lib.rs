//! The supervisor: starts the real parts that Tollbook stands on, and its own services, as child
//! processes on free loopback ports, each with its own data; waits by condition; stops all by pid.
//!
//! `deploy/up` and every test use it, so a test runs on what a demo runs on. See the README.
//!
//! Invariants: no child outlives this process, however it ends; no child inherits this process's
//! environment; nothing is fetched twice. Absent on purpose: every word of the domain.

#[cfg(not(target_os = "linux"))]
compile_error!("the stack's promise that no child outlives its parent rests on Linux");

mod account;
mod cache;
mod child;
mod error;
mod family;
mod fetcher;
mod folder;
mod http;
mod log;
mod part;
pub mod ports;
mod ready;
mod secret;
mod service;
mod settings;
mod spawner;
mod table;
mod version;

pub use cache::Cache;
pub use child::Child;
pub use error::StackError;
pub use folder::Folder;
pub use part::Part;
pub use part::clickhouse::ClickHouse;
pub use part::clients::{Clients, CommandLine, Sdk};
pub use part::conformance::{CLIENT_PASSED, CLIENT_SCENARIOS, Conformance, Verdict};
pub use part::mcp_server::{McpServer, McpTools};
pub use part::nats::{Nats, NatsSettings, SyncInterval};
pub use part::postgres::{Postgres, PostgresSettings};
pub use part::stripe_sim::StripeSim;
pub use service::{Service, ServiceSettings};
pub use table::{Row, table};
