//! A pool on one service's own schema, with its migrations applied.

use std::{str::FromStr, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// PostgreSQL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("schema name `{0}`: only a-z and _ are taken")]
    SchemaName(String),
    #[error("postgres")]
    Sql(#[from] sqlx::Error),
    #[error("migrations of schema `{schema}`")]
    Migrate { schema: String, source: sqlx::migrate::MigrateError },
}

/// Connects, makes the schema if it is missing, and applies the migrations that are not yet.
///
/// All connections of the pool see only this schema (`search_path`). Waits up to 30 s for a server that starts.
///
/// # Errors
/// No server, no right to create the schema, a migration that fails or was changed after it was applied.
pub async fn connect(
    url: &str,
    schema: &str,
    migrator: &Migrator,
) -> Result<PgPool, PostgresError> {
    let options = options(url, schema)?;
    let mut first = wait_for(&options).await?;
    sqlx::query(AssertSqlSafe(format!("create schema if not exists {schema}")))
        .execute(&mut first)
        .await?;
    migrator
        .run(&mut first)
        .await
        .map_err(|source| PostgresError::Migrate { schema: schema.to_owned(), source })?;
    first.close().await?;
    pool(options, false).await
}

/// Connects for reading another service's schema: every transaction is read-only.
///
/// # Errors
/// No server. A schema or table that is not there yet is an error of the query that wants it.
pub async fn connect_read_only(url: &str, schema: &str) -> Result<PgPool, PostgresError> {
    let options = options(url, schema)?.options([("default_transaction_read_only", "on")]);
    wait_for(&options).await?.close().await?;
    pool(options, true).await
}

fn options(url: &str, schema: &str) -> Result<PgConnectOptions, PostgresError> {
    if schema.is_empty() || !schema.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return Err(PostgresError::SchemaName(schema.to_owned()));
    }
    Ok(PgConnectOptions::from_str(url)?
        .application_name(&format!("tollbook {schema}"))
        .options([("search_path", schema), ("timezone", "UTC")]))
}

async fn pool(options: PgConnectOptions, lazy: bool) -> Result<PgPool, PostgresError> {
    let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(10));
    Ok(if lazy { pool.connect_lazy_with(options) } else { pool.connect_with(options).await? })
}

async fn wait_for(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match PgConnection::connect_with(options).await {
            Ok(connection) => return Ok(connection),
            Err(error) if tokio::time::Instant::now() < deadline && is_transient(&error) => {
                tracing::info!(%error, "Waiting for PostgreSQL");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the same statement may succeed when tried again: the connection broke, the server starts or stops,
/// or the transaction lost against another (SQLSTATE classes 08, 40, 53, 57).
#[must_use]
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}
