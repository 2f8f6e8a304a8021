//! The ledger process: folds each shard it owns into PostgreSQL, grants leases, publishes what nodes must know.
//!
//! The rules are in `ledger-core`; here are only the loops around them. A shard's loop owns all that belongs to
//! the shard; loops share nothing but connections.

pub mod config;
mod owner;
pub mod questions;
mod shard;
pub mod store;
mod streams;

use std::sync::Arc;

use async_nats::jetstream::kv::Store;
use runtime::{health::Health, nats::Nats};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// What every shard's loop works with.
pub(crate) struct Shared {
    pub nats: Nats,
    pub pool: PgPool,
    pub keys: Store,
    pub watermarks: Store,
    /// How many shards the log was born with.
    pub shards: u16,
    pub policies: shard::decide::Policies,
    pub health: Health,
}

/// Why the ledger stopped.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Nats(#[from] runtime::nats::NatsError),
    #[error(transparent)]
    Setup(#[from] runtime::nats::SetupError),
    #[error("cannot use PostgreSQL")]
    Postgres(#[from] runtime::postgres::PostgresError),
    #[error("LOG says it has `{0}` shards, which is no number from 1 to 256")]
    Shards(String),
    #[error("serving HTTP")]
    Http(#[from] std::io::Error),
}

/// Runs the ledger until `stop`.
///
/// # Errors
/// When it cannot start, or its HTTP port fails.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), LedgerError> {
    let health = Health::default();
    health.wait_for("start", "starting");
    let listener = runtime::serve::bind(&config.listen).await?;
    let http = tokio::spawn(runtime::serve::serve(listener, health.router(), stop.clone()));
    let nats = runtime::nats::connect(&config.nats_url, "ledger").await?;
    let (keys, watermarks) = streams::ensure(&nats, &config).await?;
    let shards = streams::shards(&nats).await?;
    let pool =
        runtime::postgres::connect(config.postgres_url.expose(), store::SCHEMA, &store::MIGRATIONS)
            .await?;
    let policies = config.policies();
    let shared =
        Arc::new(Shared { nats, pool, keys, watermarks, shards, policies, health: health.clone() });
    health.wait_for("shards", "no shard is owned yet");
    health.ready("start");
    owner::run(shared, config.postgres_url, stop).await;
    http.await.map_err(std::io::Error::other)??;
    Ok(())
}
