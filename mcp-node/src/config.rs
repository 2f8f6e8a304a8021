//! The settings of the process `mcp-node`: defaults, then a file, then variables, then flags.

mod addresses;
mod flags;
mod how_much;
mod operations;
mod pairs;
mod servers;
mod switch;
mod upstream;
mod who;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use runtime::{
    settings::{Secret, SettingsError, load_beside_others},
    traces::TraceSettings,
};
use schemas::NodeId;
use serde::Deserialize;

use mcp_node_core::{metering::MeteringError, network::NetworkError};

use mcp_node::{
    MeterSettings, NodeSettings,
    access::AccessSettings,
    http::{DoorSettings, ListenSettings, TlsFiles},
    labels::Labels,
    spool::SpoolLimits,
    upstream::UpstreamSettings,
};

pub use self::{
    flags::Flags,
    servers::{AggregateEntry, ServerEntry, ServerTarget, UrlTransport},
};
use self::{
    pairs::Pairs,
    switch::Switch,
    upstream::{UpstreamError, UpstreamIdentity},
    who::WhoError,
};

const PREFIX: &str = "MCP_";
/// Variables that keep the names that operators know, without our prefix.
const TENANT: &str = "TENANT_ID";
const ORGANIZATION: &str = "ORGANIZATION_ID";
const OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Everything that can be set. Units and ranges stand in README.md, "Settings".
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    nats_url: Secret,
    listen: Option<String>,
    server_host: IpAddr,
    server_port: u16,
    ops_listen: Option<String>,
    node_id: Option<NodeId>,
    spool_dir: PathBuf,
    spool_max_bytes: u64,
    upstream_url: Option<String>,
    #[serde(default)]
    upstream_transport: servers::UrlTransport,
    #[serde(default)]
    upstream: Vec<servers::UpstreamTable>,
    aggregate: Switch,
    max_request_size: usize,
    max_answer_size: usize,
    max_connections: usize,
    max_sessions: usize,
    connection_timeout: u64,
    idle_timeout: u64,
    request_timeout: u64,
    session_idle_ms: u64,
    child_max_bytes: u64,
    heartbeat_ms: u64,
    breaker_failures: u32,
    breaker_percent: u32,
    breaker_window_ms: u64,
    breaker_open_ms: u64,
    breaker_most_open_ms: u64,
    drain_ms: u64,
    flush_ms: u64,
    allowed_origins: String,
    allowed_hosts: String,
    allowed_addresses: String,
    trusted_proxies: String,
    forwarded_header: String,
    address_connections_per_minute: u32,
    address_unauthorized_per_minute: u32,
    tool_scopes: Pairs,
    jwt_issuer: Option<String>,
    jwt_audience: Option<String>,
    jwt_jwks: Option<String>,
    jwt_key_claim: String,
    public_url: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    upstream_headers: Pairs,
    forward_identity: Switch,
    internal_jwt: Switch,
    internal_jwt_key_file: Option<PathBuf>,
    internal_jwt_header: String,
    internal_jwt_issuer: Option<String>,
    internal_jwt_audience: Option<String>,
    quota_meta: String,
    refuse_as: String,
    cancelled: String,
    tenant_per_minute: u32,
    tenant_burst: u32,
    tenant_concurrent: u32,
    connection_per_minute: u32,
    connection_burst: u32,
    connection_concurrent: u32,
    backoff_after: u32,
    backoff_window_ms: u64,
    backoff_steps: u32,
    backoff_most_ms: u64,
    block_ms: u64,
    #[serde(default)]
    meter: Vec<how_much::Meter>,
    #[serde(default)]
    weights: BTreeMap<String, u64>,
    otlp_endpoint: Option<String>,
    trace_percent: u8,
    log_level: String,
    log_format: Option<String>,
    tenant_id: Option<String>,
    organization_id: Option<String>,
}

/// The settings, checked.
#[derive(Debug)]
pub struct Config {
    pub nats_url: Secret,
    pub listen: String,
    /// Where health and metrics are served, if not beside `/mcp`.
    pub ops_listen: Option<String>,
    pub listening: ListenSettings,
    pub node: NodeSettings,
    pub metering: MeterSettings,
    pub door: DoorSettings,
    pub access: AccessSettings,
    pub tls: Option<TlsFiles>,
    /// The servers; the first is at `/mcp`.
    pub servers: Vec<ServerEntry>,
    /// Those that are one at `/mcp`; empty = none are.
    pub together: Vec<AggregateEntry>,
    pub told: UpstreamIdentity,
    pub upstream: UpstreamSettings,
    pub connect_timeout: Duration,
    pub drain: Duration,
    pub flush: Duration,
    /// Where spans go; `None` = there are none.
    pub traces: Option<TraceSettings>,
    /// Variables that begin as ours do and mean nothing here.
    pub strangers: Vec<String>,
    pub log_level: &'static str,
    pub log_format: Option<String>,
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
    #[error("`{0}` is no name of a server, or the name of two: 1 to 64 of a-z, 0-9, `-`, `_`")]
    Name(String),
    #[error("`{0}` is no prefix: at most 64 of A-Z, a-z, 0-9, `-`, `_`, `.`")]
    Prefix(String),
    #[error("aggregate, several servers as one: {0}")]
    Aggregate(&'static str),
    #[error("`{0}` is no URL of a server: http, https, ws or wss, with a transport that fits")]
    NotAnUrl(String),
    #[error(transparent)]
    Who(#[from] WhoError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("{0} is out of its range: {1}")]
    Range(&'static str, &'static str),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Metering(#[from] MeteringError),
    #[error("`{0}` is neither a meter nor a weight")]
    NotMetered(String),
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// Names the first that is missing, unknown, of the wrong type or out of its range.
    pub fn read(flags: Flags) -> Result<Self, ConfigError> {
        let defaults = include_str!("../mcp-node.default.toml");
        // Other programs around MCP have variables that begin as ours do.
        let (mut file, strangers): (File, _) =
            load_beside_others(defaults, flags.config.as_deref(), PREFIX)?;
        file.take_variables();
        let command = flags.over(&mut file)?;
        file.check_ranges()?;
        let (mut servers, together) = servers::read(&mut file, command)?;
        let bound = || format!("{}:{}", file.server_host, file.server_port);
        let listen = file.listen.take().unwrap_or_else(bound);
        let connection = Duration::from_millis(file.connection_timeout);
        let told = upstream::told(&mut file, &mut servers)?;
        let tls = who::tls(&mut file)?;
        let traces = operations::traces(&mut file)?;
        let access = who::access(&mut file, is_loopback(&listen), tls.is_some())?;
        let addresses = addresses::addresses(&file)?;
        Ok(Self {
            listening: ListenSettings {
                max_connections: file.max_connections,
                head_timeout: connection,
                idle_timeout: Duration::from_millis(file.idle_timeout),
            },
            upstream: operations::upstream(&file)?,
            metering: how_much::read(&file)?,
            strangers,
            node: NodeSettings {
                spool_dir: file.spool_dir,
                limits: SpoolLimits {
                    max_bytes: file.spool_max_bytes,
                    hold: SpoolLimits::hold_for(Duration::from_millis(file.request_timeout)),
                    ..SpoolLimits::default()
                },
                node_id: file.node_id,
                labels: Labels { tenant: file.tenant_id, organization: file.organization_id },
            },
            door: DoorSettings {
                max_request_bytes: file.max_request_size,
                body_timeout: connection,
                heartbeat: Duration::from_millis(file.heartbeat_ms),
                origins: listed(&file.allowed_origins),
                hosts: listed(&file.allowed_hosts),
                addresses,
                loopback: is_loopback(&listen),
            },
            access,
            tls,
            servers,
            together,
            told,
            connect_timeout: connection,
            drain: Duration::from_millis(file.drain_ms),
            flush: Duration::from_millis(file.flush_ms),
            traces,
            log_level: level(&file.log_level)?,
            log_format: file.log_format,
            nats_url: file.nats_url,
            ops_listen: file.ops_listen,
            listen,
        })
    }
}

impl File {
    /// Takes in the variables without our prefix; one that is empty says nothing.
    fn take_variables(&mut self) {
        let said = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        self.tenant_id = said(TENANT).or(self.tenant_id.take());
        self.organization_id = said(ORGANIZATION).or(self.organization_id.take());
        self.otlp_endpoint = self.otlp_endpoint.take().or(said(OTLP_ENDPOINT));
    }

    fn check_ranges(&self) -> Result<(), ConfigError> {
        const DAY: u64 = 86_400_000;
        let size = |bytes: usize| (1_024..=1 << 30).contains(&bytes);
        let many = |count: usize| (1..=1_000_000).contains(&count);
        let (connection, request) = (self.connection_timeout, self.request_timeout);
        let ranges = [
            ("spool_max_bytes", self.spool_max_bytes >= 1 << 20, "at least 1 MiB"),
            ("max_request_size", size(self.max_request_size), "1 KiB to 1 GiB"),
            ("max_answer_size", size(self.max_answer_size), "1 KiB to 1 GiB"),
            ("max_connections", many(self.max_connections), "1 to 1,000,000"),
            ("max_sessions", many(self.max_sessions), "1 to 1,000,000"),
            ("connection_timeout", (100..=600_000).contains(&connection), "100 to 600,000 ms"),
            ("idle_timeout", (1_000..=DAY).contains(&self.idle_timeout), "1,000 ms to a day"),
            ("request_timeout", (100..=DAY).contains(&request), "100 ms to a day"),
            (
                "session_idle_ms",
                (1_000..=30 * DAY).contains(&self.session_idle_ms),
                "1 s to 30 days",
            ),
            ("heartbeat_ms", (100..=3_600_000).contains(&self.heartbeat_ms), "100 ms to an hour"),
            ("trace_percent", self.trace_percent <= 100, "0 to 100"),
            ("drain_ms", self.drain_ms <= 3_600_000, "at most an hour"),
            ("flush_ms", self.flush_ms <= 3_600_000, "at most an hour"),
            ("log_format", self.has_known_format(), "text or json"),
        ];
        match ranges.into_iter().find(|(_, within, _)| !within) {
            Some((name, _, range)) => Err(ConfigError::Range(name, range)),
            None => Ok(()),
        }
    }

    fn has_known_format(&self) -> bool {
        matches!(self.log_format.as_deref(), None | Some("text" | "json"))
    }
}

fn level(text: &str) -> Result<&'static str, ConfigError> {
    match text.to_ascii_lowercase().as_str() {
        "error" => Ok("error"),
        "warn" | "warning" => Ok("warn"),
        "info" => Ok("info"),
        "debug" => Ok("debug"),
        "trace" => Ok("trace"),
        _ => Err(ConfigError::Range("log_level", "error, warn, info, debug or trace")),
    }
}

fn listed(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Whether only this machine can reach an address; one that cannot be resolved will not be bound either.
fn is_loopback(listen: &str) -> bool {
    let mut addresses = listen.to_socket_addrs().into_iter().flatten().peekable();
    addresses.peek().is_some() && addresses.all(|address: SocketAddr| address.ip().is_loopback())
}
