//! Commands that become facts, and reads for people: the admin API and the usage page.
//!
//! Writing is one thing only: appending a decision to `CONTROL` against the sequence it was made from. Reading
//! comes from a fold of `CONTROL` in memory, the ledger's read model, and ClickHouse. Absent on purpose: a database
//! of its own, and any way to change what was counted.

pub mod auth;
pub mod config;
pub mod control;
pub mod directory;
pub mod error;
mod mint;
pub mod pages;
pub mod read;
pub mod router;
pub mod routes;
mod run;

pub use config::Config;
pub use run::{AdminError, run};
