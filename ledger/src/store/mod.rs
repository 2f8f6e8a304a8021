//! PostgreSQL: one transaction holds what some messages changed and the checkpoint behind them.
//!
//! Invariant: a checkpoint moves only from the sequence it was read at, so of two owners one fails. The rows are
//! the fold's memory and the read model; both are functions of the log, and `ledger rebuild` can prove it.

mod load;
mod write;

use std::sync::LazyLock;

use sqlx::migrate::Migrator;

pub use self::{
    load::{load, unpublished_keys},
    write::{Write, set_published},
};

/// The schema of this service.
pub const SCHEMA: &str = "ledger";

/// Its migrations.
pub static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| sqlx::migrate!("./migrations"));

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("postgres")]
    Sql(#[from] sqlx::Error),
    #[error("the checkpoint of shard {shard} is not at {expected}: another ledger owns it now")]
    Fenced { shard: u16, expected: u64 },
    #[error("a stored row cannot be read: {0}")]
    Row(String),
    #[error(
        "the checkpoint is of a LOG made at {checkpoint}, this one was made at {found}: it was made anew"
    )]
    OtherLog { checkpoint: i64, found: i64 },
}

/// A sequence or quantity as PostgreSQL holds it.
pub(crate) fn big(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A sequence or quantity as it was put there: never negative.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
