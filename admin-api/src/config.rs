//! Settings of the admin-api process.

use std::path::Path;

use runtime::settings::{Secret, SettingsError};
use serde::Deserialize;

/// What the process is told from outside; read once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub nats_url: String,
    /// The ledger's database; only its read model is read, in read-only transactions.
    pub postgres_url: Secret,
    /// `http://user:password@host:port/database`, the one that ingest writes; it is only read.
    pub clickhouse_url: Secret,
    /// `host:port` of everything here.
    pub listen: String,
    /// The bearer token of operators. At least 16 characters.
    pub operator_token: Secret,
    /// How browsers reach this process, as `https://billing.example.com`; empty = the address that it listens on.
    /// With `https` the session cookie is sent over TLS only.
    pub public_url: String,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("operator_token: at least 16 characters are needed")]
    Token,
    #[error("public_url: must be empty or begin with http:// or https:// and have no path")]
    PublicUrl,
}

/// Loads the defaults, then `file` if one is named, then `ADMIN_*` variables; the last to speak wins.
///
/// # Errors
/// Names the first key that is missing, unknown, of the wrong type or out of range.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let config: Config =
        runtime::settings::load(include_str!("../admin-api.default.toml"), file, "ADMIN_")?;
    config.check()?;
    Ok(config)
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        if self.operator_token.expose().trim().chars().count() < 16 {
            return Err(ConfigError::Token);
        }
        let rest = self
            .public_url
            .strip_prefix("https://")
            .or_else(|| self.public_url.strip_prefix("http://"));
        match rest {
            _ if self.public_url.is_empty() => Ok(()),
            Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@']) => Ok(()),
            _ => Err(ConfigError::PublicUrl),
        }
    }
}
