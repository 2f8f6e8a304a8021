//! What may be said on the command line: each setting once, under the name that it has in the file.

use std::{net::IpAddr, path::PathBuf};

use clap::Parser;
use runtime::settings::Secret;
use schemas::NodeId;

use super::{ConfigError, File, Pairs, Switch, how_much};

/// Meters the tool calls of an MCP server: `mcp-node --upstream URL`, or `mcp-node -- command args`.
#[derive(Clone, Debug, Parser)]
#[command(name = "mcp-node", version)]
pub struct Flags {
    /// A TOML file of settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address of the MCP server: http or https, or ws or wss for WebSocket.
    #[arg(long, visible_alias = "upstream-url", value_name = "URL")]
    upstream: Option<String>,
    /// What the server at that address speaks: auto, http (Streamable HTTP), sse (HTTP+SSE of 2024-11-05) or websocket.
    #[arg(long, value_name = "TRANSPORT")]
    upstream_transport: Option<super::UrlTransport>,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where to listen, without a port.
    #[arg(long, value_name = "ADDRESS")]
    server_host: Option<IpAddr>,
    /// At which port to listen.
    #[arg(long, value_name = "PORT")]
    server_port: Option<u16>,
    /// Where to serve /health, /ready and /metrics instead of beside /mcp.
    #[arg(long, value_name = "HOST:PORT")]
    ops_listen: Option<String>,
    /// Where NATS is.
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// The node's name, if the spool folder has none yet.
    #[arg(long, value_name = "NAME")]
    node_id: Option<NodeId>,
    /// The folder that keeps what the ledger has not counted yet.
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,
    /// How much the folder may hold before no more calls are served.
    #[arg(long, value_name = "BYTES")]
    spool_max_bytes: Option<u64>,
    /// The largest request.
    #[arg(long, value_name = "BYTES")]
    max_request_size: Option<usize>,
    /// The largest answer, or event of a stream.
    #[arg(long, value_name = "BYTES")]
    max_answer_size: Option<usize>,
    /// The most connections of clients at a time.
    #[arg(long, value_name = "COUNT")]
    max_connections: Option<usize>,
    /// The most sessions at a time.
    #[arg(long, value_name = "COUNT")]
    max_sessions: Option<usize>,
    /// How long a connection to the server, the head or the body of a request may take.
    #[arg(long, value_name = "MS")]
    connection_timeout: Option<u64>,
    /// Idle time after which a client's connection is closed (ms, 1,000 to 86,400,000; default 90,000).
    #[arg(long, value_name = "MS")]
    idle_timeout: Option<u64>,
    /// How long the server may take to answer.
    #[arg(long, value_name = "MS")]
    request_timeout: Option<u64>,
    /// After how long a session that nobody uses ends.
    #[arg(long, value_name = "MS")]
    session_idle_ms: Option<u64>,
    /// After how long a quiet stream of events shows that it lives.
    #[arg(long, value_name = "MS")]
    heartbeat_ms: Option<u64>,
    /// The most memory of a child with all that it started; 0 = any.
    #[arg(long, value_name = "BYTES")]
    child_max_bytes: Option<u64>,
    /// So many failures of the server one after the other, and it is asked no more for a while; 0 = never.
    #[arg(long, value_name = "COUNT")]
    breaker_failures: Option<u32>,
    /// So does this share of failures.
    #[arg(long, value_name = "PERCENT")]
    breaker_percent: Option<u32>,
    /// The time in which that share is counted.
    #[arg(long, value_name = "MS")]
    breaker_window_ms: Option<u64>,
    /// For how long it is not asked, at first.
    #[arg(long, value_name = "MS")]
    breaker_open_ms: Option<u64>,
    /// For how long it is not asked, at most.
    #[arg(long, value_name = "MS")]
    breaker_most_open_ms: Option<u64>,
    /// How long running calls may take at a stop.
    #[arg(long, value_name = "MS")]
    drain_ms: Option<u64>,
    /// How long the log may take at a stop to have everything.
    #[arg(long, value_name = "MS")]
    flush_ms: Option<u64>,
    /// From where pages in browsers may call, comma-separated.
    #[arg(long, value_name = "ORIGINS")]
    allowed_origins: Option<String>,
    /// By which names the node may be called, comma-separated.
    #[arg(long, value_name = "HOSTS")]
    allowed_hosts: Option<String>,
    /// Client addresses that may call: IP addresses and networks (CIDR), comma-separated (default: all).
    #[arg(long, value_name = "NETWORKS")]
    allowed_addresses: Option<String>,
    /// Proxies whose forwarded client address is believed: IP addresses and networks (CIDR), comma-separated.
    #[arg(long, value_name = "NETWORKS")]
    trusted_proxies: Option<String>,
    /// The header in which trusted proxies name the client: x-forwarded-for (default) or forwarded (RFC 7239).
    #[arg(long, value_name = "HEADER")]
    forwarded_header: Option<String>,
    /// New connections per minute from one client address (0 = unlimited; default 0).
    #[arg(long, value_name = "COUNT")]
    address_connections_per_minute: Option<u32>,
    /// Requests with a refused key or token per minute from one client address before it gets 429 (0 = unlimited;
    /// default 300).
    #[arg(long, value_name = "COUNT")]
    address_unauthorized_per_minute: Option<u32>,
    /// Which scope which tools need: `tool=scope,beginning*=scope`.
    #[arg(long, value_name = "TOOL=SCOPE,...")]
    tool_scopes: Option<Pairs>,
    /// Whose tokens (JWT) may name an API key.
    #[arg(long, value_name = "ISSUER")]
    jwt_issuer: Option<String>,
    /// What those tokens must be meant for.
    #[arg(long, value_name = "AUDIENCE")]
    jwt_audience: Option<String>,
    /// The issuer's public keys, if its metadata does not name them.
    #[arg(long, value_name = "FILE|URL")]
    jwt_jwks: Option<String>,
    /// The claim that holds the API key's id.
    #[arg(long, value_name = "CLAIM")]
    jwt_key_claim: Option<String>,
    /// The address of /mcp as clients reach it.
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// The node's certificate chain (PEM): it serves HTTPS then.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM).
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Whose certificates (PEM) clients may show.
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Headers that the server gets with every request: `name=value`, `name=env:NAME` or `name=file:/path`.
    #[arg(long, value_name = "NAME=VALUE,...")]
    upstream_headers: Option<Pairs>,
    /// Whether all [[upstream]] of the file are one server at /mcp.
    #[arg(long, value_name = "ON|OFF", num_args = 0..=1, default_missing_value = "on")]
    aggregate: Option<Switch>,
    /// Whether the server is told tenant, project, organization and key.
    #[arg(long, value_name = "ON|OFF", num_args = 0..=1, default_missing_value = "on")]
    forward_identity: Option<Switch>,
    /// Whether the server gets a token of this node's own about the caller.
    #[arg(long, value_name = "ON|OFF", num_args = 0..=1, default_missing_value = "on")]
    internal_jwt: Option<Switch>,
    /// The keys that those tokens are signed by, where several nodes share them.
    #[arg(long, value_name = "FILE")]
    internal_jwt_key_file: Option<PathBuf>,
    /// The header that those tokens go in.
    #[arg(long, value_name = "NAME")]
    internal_jwt_header: Option<String>,
    /// What those tokens say in `iss`.
    #[arg(long, value_name = "TEXT")]
    internal_jwt_issuer: Option<String>,
    /// What those tokens say in `aud`.
    #[arg(long, value_name = "TEXT")]
    internal_jwt_audience: Option<String>,
    /// Whether results of limited keys say in `_meta` what is left: on or off.
    #[arg(long, value_name = "ON|OFF")]
    quota_meta: Option<String>,
    /// How a call that may not come now is told so: error, or result (a result that failed, for models to read).
    #[arg(long, value_name = "FORM")]
    refuse_as: Option<String>,
    /// What a call counts for in `tool_calls` that its client cancelled when the server may have begun with it: `reserved`
    /// (what was set aside for it) or `free`.
    #[arg(long)]
    cancelled: Option<String>,
    /// Calls a minute of all keys of one tenant on this node; 0 = any number.
    #[arg(long, value_name = "COUNT")]
    tenant_per_minute: Option<u32>,
    /// Calls of one tenant at once after a pause; 0 = what comes in ten seconds.
    #[arg(long, value_name = "COUNT")]
    tenant_burst: Option<u32>,
    /// Calls of one tenant that run at the same time; 0 = any number.
    #[arg(long, value_name = "COUNT")]
    tenant_concurrent: Option<u32>,
    /// Calls a minute of one connection; 0 = any number.
    #[arg(long, value_name = "COUNT")]
    connection_per_minute: Option<u32>,
    /// Calls of one connection at once after a pause; 0 = what comes in ten seconds.
    #[arg(long, value_name = "COUNT")]
    connection_burst: Option<u32>,
    /// Calls of one connection that run at the same time; 0 = any number.
    #[arg(long, value_name = "COUNT")]
    connection_concurrent: Option<u32>,
    /// Calls before the told time, within the window, that double a key's wait; 0 = it never doubles.
    #[arg(long, value_name = "COUNT")]
    backoff_after: Option<u32>,
    /// The window in which they count, and after which without one a step is taken back.
    #[arg(long, value_name = "MS")]
    backoff_window_ms: Option<u64>,
    /// How often a wait is doubled before the key is blocked.
    #[arg(long, value_name = "COUNT")]
    backoff_steps: Option<u32>,
    /// The longest doubled wait.
    #[arg(long, value_name = "MS")]
    backoff_most_ms: Option<u64>,
    /// How long a block lasts.
    #[arg(long, value_name = "MS")]
    block_ms: Option<u64>,
    /// A meter besides tool_calls, as a table of the file: {name="tokens",from="/_meta/tokens",reserve=1000}.
    #[arg(long, value_name = "TABLE")]
    meter: Vec<String>,
    /// What a call of a tool weighs in tool_calls; `*` stands for any characters.
    #[arg(long, value_name = "TOOL=UNITS")]
    weight: Vec<String>,
    /// The URL of a collector that takes spans (OTLP over HTTP); without one there are none.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How many of a hundred traces that begin here are recorded.
    #[arg(long, value_name = "PERCENT")]
    trace_percent: Option<u8>,
    /// error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Who runs this node: stands in log lines that know no other tenant.
    #[arg(long, value_name = "ID")]
    tenant_id: Option<String>,
    /// The organization that stands in log lines.
    #[arg(long, value_name = "ID")]
    organization_id: Option<String>,
    /// The command that serves MCP on standard input and output.
    #[arg(last = true)]
    command: Vec<String>,
}

impl Flags {
    /// Writes what was said over `file`, and returns the server's command.
    ///
    /// # Errors
    /// A meter or a weight that cannot be read.
    pub(super) fn over(self, file: &mut File) -> Result<Vec<String>, ConfigError> {
        if !self.meter.is_empty() {
            let meters = self.meter.iter().map(|text| how_much::meter(text));
            file.meter = meters.collect::<Result<_, _>>()?;
        }
        for text in &self.weight {
            let (tool, units) = how_much::weight(text)?;
            file.weights.insert(tool, units);
        }
        /// Fields that are a value in the file, then fields that may be missing there too.
        macro_rules! over {
            ($($value:ident)*; $($option:ident)*) => {
                $(if let Some(said) = self.$value {
                    file.$value = said;
                })*
                $(file.$option = self.$option.or(file.$option.take());)*
            };
        }
        over!(
            server_host server_port spool_dir spool_max_bytes max_request_size max_answer_size max_connections
            max_sessions connection_timeout idle_timeout request_timeout session_idle_ms drain_ms flush_ms allowed_origins
            allowed_hosts allowed_addresses trusted_proxies forwarded_header address_connections_per_minute
            address_unauthorized_per_minute aggregate tool_scopes jwt_key_claim upstream_headers forward_identity internal_jwt
            internal_jwt_header quota_meta refuse_as cancelled tenant_per_minute tenant_burst tenant_concurrent
            connection_per_minute connection_burst connection_concurrent backoff_after backoff_window_ms
            backoff_steps backoff_most_ms block_ms child_max_bytes heartbeat_ms breaker_failures breaker_percent
            breaker_window_ms breaker_open_ms breaker_most_open_ms trace_percent log_level upstream_transport;
            tls_cert tls_key tls_client_ca jwt_issuer jwt_audience jwt_jwks public_url internal_jwt_key_file internal_jwt_issuer
            internal_jwt_audience listen ops_listen node_id otlp_endpoint log_format tenant_id organization_id
        );
        if let Some(url) = self.nats_url {
            file.nats_url = Secret::new(url);
        }
        file.upstream_url = self.upstream.or(file.upstream_url.take());
        Ok(self.command)
    }
}
