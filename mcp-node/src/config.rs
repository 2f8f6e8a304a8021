//! The settings of the process `mcp-node`: defaults, then a file, then `MCP_*` variables, then flags.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use axum::http::Uri;
use clap::Parser;
use runtime::settings::{Secret, SettingsError, load};
use schemas::NodeId;
use serde::Deserialize;

use mcp_node::{
    NodeSettings,
    http::DoorSettings,
    spool::SpoolLimits,
    upstream::{UpstreamSettings, stdio::ServerCommand},
};

const PREFIX: &str = "MCP_";

/// What may be said on the command line.
#[derive(Debug, Parser)]
#[command(name = "mcp-node", version, about = "Meters the tool calls of an MCP server")]
pub struct Flags {
    /// A TOML file of settings.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The address of the MCP server, if it speaks Streamable HTTP.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where to listen: host:port; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where NATS is.
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// The folder that keeps what the ledger has not counted yet.
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// The node's name, if the folder has none yet.
    #[arg(long)]
    node_id: Option<NodeId>,
    /// The command that serves MCP on standard input and output.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Everything that can be set. Units and ranges stand in README.md, "Settings".
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    nats_url: Secret,
    listen: Option<String>,
    server_host: IpAddr,
    server_port: u16,
    node_id: Option<NodeId>,
    spool_dir: PathBuf,
    spool_max_bytes: u64,
    upstream_url: Option<String>,
    max_request_size: usize,
    max_answer_size: usize,
    max_connections: usize,
    connection_timeout: u64,
    request_timeout: u64,
    session_idle_ms: u64,
    drain_ms: u64,
    flush_ms: u64,
    allowed_origins: String,
}

/// The server behind the node.
#[derive(Debug)]
pub enum Behind {
    Url(Uri),
    Command(ServerCommand),
}

/// The settings, checked.
#[derive(Debug)]
pub struct Config {
    pub nats_url: Secret,
    pub listen: String,
    pub node: NodeSettings,
    pub door: DoorSettings,
    pub behind: Behind,
    pub upstream: UpstreamSettings,
    pub connect_patience: Duration,
    pub drain: Duration,
    pub flush: Duration,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Load(#[from] SettingsError),
    #[error("name the MCP server: `--upstream URL`, or its command behind `--`")]
    NoUpstream,
    #[error("name one MCP server: an URL or a command, not both")]
    TwoUpstreams,
    #[error("`{0}` is not an http or https URL")]
    NotAnUrl(String),
    #[error("{0} is out of its range: {1}")]
    Range(&'static str, &'static str),
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// Names the first that is missing, unknown, of the wrong type or out of its range.
    pub fn read(flags: Flags) -> Result<Self, ConfigError> {
        let file: File =
            load(include_str!("../mcp-node.default.toml"), flags.config.as_deref(), PREFIX)?;
        file.check_ranges()?;
        let url = flags.upstream.or(file.upstream_url.clone());
        let behind = behind(url, flags.command)?;
        let bound = || format!("{}:{}", file.server_host, file.server_port);
        let origins =
            file.allowed_origins.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        Ok(Self {
            nats_url: flags.nats_url.map_or(file.nats_url.clone(), Secret::new),
            listen: flags.listen.or(file.listen.clone()).unwrap_or_else(bound),
            node: NodeSettings {
                spool_dir: flags.spool_dir.unwrap_or(file.spool_dir.clone()),
                limits: SpoolLimits { max_bytes: file.spool_max_bytes, ..SpoolLimits::default() },
                node_id: flags.node_id.or(file.node_id.clone()),
            },
            door: DoorSettings {
                max_request_bytes: file.max_request_size,
                body_patience: Duration::from_millis(file.connection_timeout),
                origins: origins.map(str::to_owned).collect(),
            },
            behind,
            upstream: UpstreamSettings {
                request_patience: Duration::from_millis(file.request_timeout),
                max_answer_bytes: file.max_answer_size,
                session_idle: Duration::from_millis(file.session_idle_ms),
                max_sessions: file.max_connections,
            },
            connect_patience: Duration::from_millis(file.connection_timeout),
            drain: Duration::from_millis(file.drain_ms),
            flush: Duration::from_millis(file.flush_ms),
        })
    }
}

impl File {
    fn check_ranges(&self) -> Result<(), ConfigError> {
        let day = 86_400_000;
        let ranges = [
            ("spool_max_bytes", self.spool_max_bytes >= 1 << 20, "at least 1 MiB"),
            (
                "max_request_size",
                (1_024..=1 << 30).contains(&self.max_request_size),
                "1 KiB to 1 GiB",
            ),
            (
                "max_answer_size",
                (1_024..=1 << 30).contains(&self.max_answer_size),
                "1 KiB to 1 GiB",
            ),
            ("max_connections", (1..=1_000_000).contains(&self.max_connections), "1 to 1,000,000"),
            (
                "connection_timeout",
                (100..=600_000).contains(&self.connection_timeout),
                "100 to 600,000 ms",
            ),
            ("request_timeout", (100..=day).contains(&self.request_timeout), "100 ms to a day"),
            (
                "session_idle_ms",
                (1_000..=30 * day).contains(&self.session_idle_ms),
                "1 s to 30 days",
            ),
            ("drain_ms", self.drain_ms <= 3_600_000, "at most an hour"),
            ("flush_ms", self.flush_ms <= 3_600_000, "at most an hour"),
        ];
        match ranges.into_iter().find(|(_, within, _)| !within) {
            Some((name, _, range)) => Err(ConfigError::Range(name, range)),
            None => Ok(()),
        }
    }
}

fn behind(url: Option<String>, command: Vec<String>) -> Result<Behind, ConfigError> {
    let mut words = command.into_iter();
    match (url, words.next()) {
        (None, None) => Err(ConfigError::NoUpstream),
        (Some(_), Some(_)) => Err(ConfigError::TwoUpstreams),
        (None, Some(program)) => {
            // The server is somebody else's program: what opens our log is not its business.
            let hidden = vec![format!("{PREFIX}NATS_URL")];
            Ok(Behind::Command(ServerCommand { program, args: words.collect(), hidden }))
        }
        (Some(text), None) => {
            let uri: Option<Uri> = text.parse().ok();
            let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
            uri.filter(|uri| uri.host().is_some())
                .map(Behind::Url)
                .ok_or(ConfigError::NotAnUrl(text))
        }
    }
}
