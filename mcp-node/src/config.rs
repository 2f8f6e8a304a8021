//! The settings of the process `mcp-node`: defaults, then a file, then variables, then flags.

mod addresses;
mod how_much;
mod layers;
mod operations;
mod pairs;
mod servers;
mod settings;
mod switch;
mod upstream;
mod who;

use std::{
    ffi::OsString,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use runtime::{
    settings::{Secret, SettingsError},
    traces::TraceSettings,
};

use mcp_node_core::{metering::MeteringError, network::NetworkError};

use mcp_node::{
    MeterSettings, NodeSettings,
    access::AccessSettings,
    http::{DoorSettings, ListenSettings, TlsFiles},
    labels::Labels,
    spool::SpoolLimits,
    upstream::UpstreamSettings,
};

use self::{
    layers::{Layers, PREFIX, Tables},
    pairs::Pairs,
    switch::Switch,
    upstream::{UpstreamError, UpstreamIdentity},
    who::WhoError,
};
pub use self::{
    servers::{AggregateEntry, ServerEntry, ServerTarget, UrlTransport},
    settings::Settings,
};

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
    pub unknown_variables: Vec<String>,
    pub log_level: &'static str,
    pub log_format: Option<String>,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Load(#[from] SettingsError),
    #[error("a setting of {0}: {1}")]
    Setting(&'static str, String),
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

impl ConfigError {
    /// The same, with the key that it is of.
    fn of(self, key: &str) -> Self {
        match self {
            Self::Setting(source, why) => Self::Setting(source, format!("`{key}`: {why}")),
            other => other,
        }
    }

    fn of_figment(error: figment::Error) -> Self {
        Self::Load(SettingsError::from(error))
    }
}

impl Config {
    /// Reads the settings: file, variables, and the flags `args` with the program's name before them.
    ///
    /// # Errors
    /// Names the first that is missing, unknown, of the wrong type or out of its range.
    pub fn read(args: &[OsString]) -> Result<Self, ConfigError> {
        let Layers { mut settings, mut tables, unknown_variables } = layers::read(args)?;
        let (mut servers, together) = servers::read(&mut settings, &mut tables)?;
        let bound = || format!("{}:{}", settings.server_host, settings.server_port);
        let listen = settings.listen.take().unwrap_or_else(bound);
        let connection = Duration::from_millis(settings.connection_timeout);
        let told = upstream::told(&mut settings, &mut tables, &mut servers)?;
        let tls = who::tls(&mut settings)?;
        let traces = operations::traces(&mut settings)?;
        let access = who::access(&mut settings, &mut tables, is_loopback(&listen), tls.is_some())?;
        let addresses = addresses::addresses(&settings)?;
        Ok(Self {
            listening: ListenSettings {
                max_connections: settings.max_connections,
                head_timeout: connection,
                idle_timeout: Duration::from_millis(settings.idle_timeout),
            },
            upstream: operations::upstream(&settings)?,
            metering: how_much::read(&settings, &tables)?,
            unknown_variables,
            node: NodeSettings {
                spool_dir: settings.spool_dir,
                limits: SpoolLimits {
                    max_bytes: settings.spool_max_bytes,
                    hold: SpoolLimits::hold_for(Duration::from_millis(settings.request_timeout)),
                    ..SpoolLimits::default()
                },
                node_id: settings.node_id,
                labels: Labels {
                    tenant: settings.tenant_id,
                    organization: settings.organization_id,
                },
            },
            door: DoorSettings {
                max_request_bytes: settings.max_request_size,
                body_timeout: connection,
                heartbeat: Duration::from_millis(settings.heartbeat_ms),
                origins: listed(&settings.allowed_origins),
                hosts: listed(&settings.allowed_hosts),
                addresses,
                loopback: is_loopback(&listen),
            },
            access,
            tls,
            servers,
            together,
            told,
            connect_timeout: connection,
            drain: Duration::from_millis(settings.drain_ms),
            flush: Duration::from_millis(settings.flush_ms),
            traces,
            log_level: settings.log_level,
            log_format: settings.log_format,
            nats_url: settings.nats_url,
            ops_listen: settings.ops_listen,
            listen,
        })
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
