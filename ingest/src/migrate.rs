//! Makes the tables: numbered files of idempotent statements, each applied once and never changed afterwards.
//!
//! DDL is not transactional and two processes may start at once, so every statement must be harmless when
//! repeated (`IF NOT EXISTS`); the table `schema_migrations` says what was begun and done. Only a plain database
//! (`Atomic`) is taken: on a replicated one two replicas could run two INSERTs of one stream at once.

use std::collections::HashMap;

use clickhouse::{Client, error::Error};
use runtime::clickhouse::Address;
use sha2::{Digest, Sha256};

/// The tables cannot be made, or are not what this program knows.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("ClickHouse refused {what}")]
    Refused { what: String, source: Error },
    #[error("migration {version} was changed after it was applied")]
    Changed { version: u32 },
    #[error("migration {version} was applied by a newer program")]
    Newer { version: u32 },
    #[error("database {database} has the engine {engine}; exactly-once is proven for Atomic only")]
    Engine { database: String, engine: String },
}

struct Migration {
    version: u32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),* $(,)?) => {
        &[$(Migration { version: $version, name: $name, sql: include_str!(concat!("../clickhouse/", $name, ".sql")) }),*]
    };
}

const MIGRATIONS: &[Migration] = migrations![
    1 "0001_usage_events",
    2 "0002_stream_incarnations",
    3 "0003_quarantine",
    4 "0004_usage_hour",
    5 "0005_held_and_released",
    6 "0006_server_and_trace",
];

const BOOK: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, name String, checksum String, \
                    state Enum8('started' = 1, 'done' = 2), at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')) \
                    ENGINE = MergeTree ORDER BY (version, at)";

/// Makes the database if it is missing, and applies what is not applied.
///
/// # Errors
/// No server, no right to make tables, or a database that this program must not write to.
pub async fn migrate(url: &str) -> Result<Client, crate::IngestError> {
    let address = runtime::clickhouse::address(url)?;
    let client = runtime::clickhouse::client(url)?;
    make_database(&address, &client).await?;
    check_engine(&client, &address.database).await?;
    run(&client, "the book of migrations", BOOK).await?;
    let done = applied(&client).await?;
    if let Some(version) =
        done.keys().find(|version| MIGRATIONS.iter().all(|m| m.version != **version))
    {
        return Err(MigrateError::Newer { version: *version }.into());
    }
    for migration in MIGRATIONS {
        match done.get(&migration.version) {
            Some(checksum) if *checksum == migration.checksum() => {}
            Some(_) => return Err(MigrateError::Changed { version: migration.version }.into()),
            None => migration.apply(&client).await?,
        }
    }
    Ok(client)
}

impl Migration {
    fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.sql.as_bytes()))
    }

    async fn apply(&self, client: &Client) -> Result<(), MigrateError> {
        self.note(client, "started").await?;
        for statement in statements(self.sql) {
            run(client, self.name, &statement).await?;
        }
        self.note(client, "done").await?;
        tracing::info!(version = self.version, name = self.name, "Migrated ClickHouse");
        Ok(())
    }

    async fn note(&self, client: &Client, state: &str) -> Result<(), MigrateError> {
        const NOTE: &str = "INSERT INTO schema_migrations (version, name, checksum, state) \
                            SELECT {version:UInt32}, {name:String}, {checksum:String}, {state:String}";
        let note = client.query_raw(NOTE).param("version", self.version).param("name", self.name);
        let note = note.param("checksum", self.checksum()).param("state", state);
        note.execute().await.map_err(|source| refused(self.name, source))
    }
}

fn refused(what: &str, source: Error) -> MigrateError {
    MigrateError::Refused { what: what.to_owned(), source }
}

async fn run(client: &Client, what: &str, statement: &str) -> Result<(), MigrateError> {
    client.query_raw(statement).execute().await.map_err(|source| refused(what, source))
}

/// The statements of a file, without comments. Our files have no `--` or `;` inside a literal.
fn statements(sql: &str) -> Vec<String> {
    let code: Vec<&str> =
        sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    code.join("\n").split(';').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

async fn applied(client: &Client) -> Result<HashMap<u32, String>, MigrateError> {
    const DONE: &str = "SELECT version, argMax(checksum, at) FROM schema_migrations WHERE state = 'done' GROUP BY version";
    let rows: Vec<(u32, String)> = client
        .query_raw(DONE)
        .fetch_all()
        .await
        .map_err(|source| refused("the book of migrations", source))?;
    Ok(rows.into_iter().collect())
}

async fn check_engine(client: &Client, database: &str) -> Result<(), MigrateError> {
    const ENGINE: &str = "SELECT engine FROM system.databases WHERE name = {name:String}";
    let engine: String = client
        .query_raw(ENGINE)
        .param("name", database)
        .fetch_one()
        .await
        .map_err(|source| refused("to say its databases", source))?;
    if engine == "Atomic" {
        return Ok(());
    }
    Err(MigrateError::Engine { database: database.to_owned(), engine })
}

async fn make_database(address: &Address, client: &Client) -> Result<(), MigrateError> {
    // The request must not name the database that is not there yet.
    let client = client.clone().with_database("system");
    run(
        &client,
        "to make the database",
        &format!("CREATE DATABASE IF NOT EXISTS {}", address.database),
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_whole_statements_that_can_be_repeated() {
        let mut versions = Vec::new();
        for migration in MIGRATIONS {
            versions.push(migration.version);
            assert!(
                migration.name.starts_with(&format!("{:04}_", migration.version)),
                "{}",
                migration.name
            );
            for statement in statements(migration.sql) {
                let again = ["IF NOT EXISTS", "MODIFY COLUMN"];
                let repeats = again.iter().any(|word| statement.contains(word));
                assert!(repeats, "not idempotent: {statement}");
                assert!(!statement.contains("--") && !statement.contains(';'), "{statement}");
            }
        }
        assert!(versions.is_sorted() && versions.first() == Some(&1));
        assert_eq!(statements(MIGRATIONS[3].sql).len(), 2);
    }
}
