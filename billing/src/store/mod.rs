//! All SQL of billing, and all conversions between rows and types. One file a table.
//!
//! Invariant: a fold's state and its checkpoint move in one transaction.

pub mod checkpoint;
pub mod customer;
pub mod drift;
pub mod dunning;
pub mod invoice;
pub mod price;
pub mod provision;
pub mod quarantine;
pub mod report;
pub mod shadow;
pub mod statement;
pub mod subscribed;
pub mod tenant;

use sqlx::{PgPool, migrate::Migrator};

/// The migrations of the schema `billing`.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// Why the store did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("postgres")]
    Sql(#[from] sqlx::Error),
    /// A row does not read back as what was written.
    #[error("{table}.{column} holds what it cannot hold: {what}")]
    Corrupt { table: &'static str, column: &'static str, what: String },
    /// A number does not fit PostgreSQL's.
    #[error("{0} does not fit a bigint")]
    TooLarge(u64),
}

impl StoreError {
    /// Whether the same may succeed when tried again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Sql(error) if runtime::postgres::is_transient(error))
    }
}

/// Connects to the schema `billing` and brings it up to date.
///
/// # Errors
/// See [`runtime::postgres::connect`].
pub async fn connect(url: &str) -> Result<PgPool, runtime::postgres::PostgresError> {
    runtime::postgres::connect(url, "billing", &MIGRATOR).await
}

fn big(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::TooLarge(number))
}

/// Where something stands in a list that was asked about with `unnest ... with ordinality`, which counts from 1.
fn place(ordinality: i64) -> Result<usize, StoreError> {
    usize::try_from(ordinality - 1).map_err(|error| corrupt("unnest", "ordinality", error))
}

pub(crate) fn corrupt(
    table: &'static str,
    column: &'static str,
    what: impl std::fmt::Display,
) -> StoreError {
    StoreError::Corrupt { table, column, what: what.to_string() }
}
