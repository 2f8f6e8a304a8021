//! Settings of the ledger, read once at start.

use std::path::Path;

use ledger_core::{Policy, SealPolicy};
use runtime::settings::{Secret, SettingsError, load};
use schemas::lease::MAX_LEASE_TTL_MS;
use serde::Deserialize;

use crate::shard::decide::Policies;

/// Settings of the ledger process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub nats_url: String,
    /// Holds a password as a rule, so it does not show.
    pub postgres_url: Secret,
    /// Where `/health`, `/ready` and `/metrics` are served: `host:port`.
    pub listen: String,
    /// How long a lease lasts. Unit: milliseconds. Range: from 1,000 to [`MAX_LEASE_TTL_MS`].
    ///
    /// Also the longest time that a key which was revoked is served by a node that cannot be reached, and the time
    /// that an hour waits for a silent node's lease before it can close.
    pub lease_ttl_ms: u32,
    /// How often a running hour is sealed in part, so that billing hears of it. Unit: milliseconds. Range: from 100.
    pub seal_interval_ms: u32,
    /// How long after its end an hour is closed at the earliest. Unit: milliseconds.
    pub seal_lateness_ms: u32,
    /// For how long after its end a lease waits for its node to come back, before it is written off and its hour can
    /// close without it. Unit: hours. Range: `1..=840`; 840 = 35 days, as long as late usage can still be reported.
    pub forfeit_after_h: u32,
    /// How many shards a new log is born with. Range: `1..=256`. An existing log keeps its own number.
    pub shards: u16,
    /// Copies of each stream and bucket that is made here. 1, or 3 in production.
    pub replicas: usize,
    /// Where ClickHouse is, for `ledger audit` alone: `http://user:password@host:port/database`.
    #[serde(default)]
    pub clickhouse_url: Option<Secret>,
}

/// What a question to the log alone needs. The ledger's other settings may stand beside these; they are not read.
#[derive(Debug, Deserialize)]
pub struct LogConfig {
    pub nats_url: String,
    /// As in [`Config`].
    pub lease_ttl_ms: u32,
}

impl LogConfig {
    /// Reads the settings.
    ///
    /// # Errors
    /// Names the first of them that is missing or of the wrong type.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Ok(load(include_str!("../ledger.default.toml"), file, "LEDGER_")?)
    }

    /// How leases are cut.
    #[must_use]
    pub fn leases(&self) -> Policy {
        policy(self.lease_ttl_ms)
    }
}

fn policy(lease_ttl_ms: u32) -> Policy {
    Policy { ttl_ms: i64::from(lease_ttl_ms), held_retry_ms: 250 }
}

/// A setting out of its range.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("settings: {0} is out of its range")]
    Range(&'static str),
}

impl Config {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// Names the first setting that is missing, unknown or out of range.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let config: Self = load(include_str!("../ledger.default.toml"), file, "LEDGER_")?;
        match &config {
            c if !(1_000..=MAX_LEASE_TTL_MS).contains(&c.lease_ttl_ms) => {
                Err(ConfigError::Range("lease_ttl_ms"))
            }
            c if c.seal_interval_ms < 100 => Err(ConfigError::Range("seal_interval_ms")),
            c if !(1..=840).contains(&c.forfeit_after_h) => {
                Err(ConfigError::Range("forfeit_after_h"))
            }
            c if !(1..=256).contains(&c.shards) => Err(ConfigError::Range("shards")),
            c if !(1..=5).contains(&c.replicas) => Err(ConfigError::Range("replicas")),
            _ => Ok(config),
        }
    }

    /// The rules that decisions go by.
    pub(crate) fn policies(&self) -> Policies {
        Policies {
            leases: policy(self.lease_ttl_ms),
            seals: SealPolicy {
                interval_ms: i64::from(self.seal_interval_ms),
                lateness_ms: i64::from(self.seal_lateness_ms),
            },
            forfeit_after_ms: i64::from(self.forfeit_after_h) * 3_600_000,
        }
    }
}
