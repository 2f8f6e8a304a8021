//! Settings of the ingest process; every number has its unit in its name.

use std::path::Path;

use runtime::settings::{Secret, SettingsError};
use serde::Deserialize;

/// What the process is told from outside; read once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub nats_url: String,
    /// `http://user:password@host:port/database`; the database is made if it is missing.
    pub clickhouse_url: Secret,
    /// Where `/health`, `/ready` and `/metrics` answer, `host:port`.
    pub listen: String,
    /// A batch is sent when it has this many rows (a message is never split, so it can be some more).
    /// Range: `1..=200_000`: one INSERT must stay one part.
    pub batch_rows: usize,
    /// At the head of the log, batches are at least this far apart. Unit: milliseconds. Range: `1..=5_000`.
    pub flush_ms: u64,
    /// Rollups are at least this far apart. Unit: milliseconds. Range: `1..=60_000`.
    pub roll_ms: u64,
    /// Take a stream that was made anew as such, with its own `src`, instead of stopping.
    pub accept_new_stream: bool,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{name}: not in {range}")]
    Range { name: &'static str, range: &'static str },
}

/// Loads the defaults, then `file` if one is named, then `INGEST_*` variables; the last to speak wins.
///
/// # Errors
/// Names the first key that is missing, unknown, of the wrong type or out of range.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let config: Config =
        runtime::settings::load(include_str!("../ingest.default.toml"), file, "INGEST_")?;
    config.check()?;
    Ok(config)
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |name, range| Err(ConfigError::Range { name, range });
        if !(1..=200_000).contains(&self.batch_rows) {
            return refuse("batch_rows", "1..=200000");
        }
        if !(1..=5_000).contains(&self.flush_ms) {
            return refuse("flush_ms", "1..=5000");
        }
        if !(1..=60_000).contains(&self.roll_ms) {
            return refuse("roll_ms", "1..=60000");
        }
        Ok(())
    }
}
