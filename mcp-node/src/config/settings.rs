//! Every setting, once: the key of the file, the variable and the flag, with its help, its range and its default.
//!
//! `README.md` has this as a table, which a test writes and compares. Absent on purpose: what is a table in the file
//! (servers, meters, weights), see [`super::layers`], and what several settings say together.

use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};
use mcp_node_core::{forwarded::ForwardedHeader, metering::Cancelled};
use runtime::settings::Secret;
use schemas::NodeId;

use super::{Pairs, Switch, UrlTransport};

const DAY_MS: u64 = 86_400_000;
const HOUR_MS: u64 = 3_600_000;

/// A whole number within a range, both ends included.
fn within<T: TryFrom<u64> + Clone + Send + Sync + 'static>(
    range: std::ops::RangeInclusive<u64>,
) -> RangedU64ValueParser<T>
where
    <T as TryFrom<u64>>::Error: Send + Sync + 'static + std::error::Error,
{
    RangedU64ValueParser::new().range(range)
}

/// How a call that cannot be served now is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RefuseAs {
    Error,
    Result,
}

/// Meters the tool calls of an MCP server: `mcp-node --upstream URL`, or `mcp-node -- command args`.
#[derive(Clone, Debug, Parser)]
#[command(name = "mcp-node", version, args_override_self = true)]
pub struct Settings {
    /// TOML file with settings; keys are the names of the variables in lower case without `MCP_`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// URL of the MCP server: http, https, ws or wss. Or give its command after `--`, or `[[upstream]]` in the file.
    #[arg(long = "upstream", visible_alias = "upstream-url", value_name = "URL")]
    pub upstream_url: Option<String>,
    /// Transport of the server at that URL: auto, http (Streamable HTTP), sse (HTTP+SSE of 2024-11-05) or websocket; see
    /// "Transports".
    #[arg(long, value_name = "TRANSPORT", default_value = "auto")]
    pub upstream_transport: UrlTransport,
    /// Serve all `[[upstream]]` of the file, at least two, as one server at `/mcp` (on or off).
    #[arg(long, value_name = "ON|OFF", num_args = 0..=1, default_missing_value = "on", default_value = "off")]
    pub aggregate: Switch,

    /// Address and port to listen on; port 0 picks a free one. Unset: the next two.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// IP address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub server_host: IpAddr,
    /// Port to listen on (0 to 65,535; 0 picks a free one).
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub server_port: u16,
    /// Separate address and port for `/health`, `/ready` and `/metrics`. Unset: beside `/mcp`.
    #[arg(long, value_name = "HOST:PORT")]
    pub ops_listen: Option<String>,
    /// URL of the NATS server or cluster.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub nats_url: Secret,
    /// Name of this node: 1 to 64 of a-z, 0-9, `-`, `_`. Unset: generated once and kept in the spool folder.
    #[arg(long, value_name = "NAME")]
    pub node_id: Option<NodeId>,

    /// Folder for records that the ledger has not counted yet; it must survive restarts.
    #[arg(long, value_name = "DIR", default_value = "mcp-node-spool")]
    pub spool_dir: PathBuf,
    /// Maximum size of the spool folder (bytes, at least 1,048,576); when it is full, calls are refused.
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 30, value_parser = within::<u64>(1 << 20..=u64::MAX))]
    pub spool_max_bytes: u64,

    /// Maximum size of a request body (bytes, 1,024 to 1,073,741,824).
    #[arg(long, value_name = "BYTES", default_value_t = 5 << 20, value_parser = within::<usize>(1 << 10..=1 << 30))]
    pub max_request_size: usize,
    /// Maximum size of a response body, or of one event of a stream (bytes, 1,024 to 1,073,741,824).
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, value_parser = within::<usize>(1 << 10..=1 << 30))]
    pub max_answer_size: usize,
    /// Maximum number of client connections (1 to 1,000,000).
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = within::<usize>(1..=1_000_000))]
    pub max_connections: usize,
    /// Maximum number of sessions (1 to 1,000,000); over stdio each session is a process.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = within::<usize>(1..=1_000_000))]
    pub max_sessions: usize,
    /// Timeout for connecting to the server, for a TLS handshake, and for the head and the body of a request (ms, 100 to
    /// 600,000).
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = within::<u64>(100..=600_000))]
    pub connection_timeout: u64,
    /// Idle time after which a client connection is closed (ms, 1,000 to 86,400,000).
    #[arg(long, value_name = "MS", default_value_t = 90_000, value_parser = within::<u64>(1_000..=DAY_MS))]
    pub idle_timeout: u64,
    /// Timeout for the answer of the server (ms, 100 to 86,400,000).
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = within::<u64>(100..=DAY_MS))]
    pub request_timeout: u64,
    /// Idle time after which a session ends (ms, 1,000 to 2,592,000,000).
    #[arg(long, value_name = "MS", default_value_t = 3_600_000, value_parser = within::<u64>(1_000..=30 * DAY_MS))]
    pub session_idle_ms: u64,
    /// Interval of comments that keep a quiet stream of events alive (ms, 100 to 3,600,000).
    #[arg(long, value_name = "MS", default_value_t = 15_000, value_parser = within::<u64>(100..=HOUR_MS))]
    pub heartbeat_ms: u64,
    /// Memory limit of a child process and all that it starts (bytes, at least 1,048,576; 0 = unlimited).
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub child_max_bytes: u64,
    /// Time that running calls get when the node stops (ms, 0 to 3,600,000).
    #[arg(long, value_name = "MS", default_value_t = 15_000, value_parser = within::<u64>(0..=HOUR_MS))]
    pub drain_ms: u64,
    /// Time that unpublished records get when the node stops (ms, 0 to 3,600,000); the rest is published after the next start.
    #[arg(long, value_name = "MS", default_value_t = 8_000, value_parser = within::<u64>(0..=HOUR_MS))]
    pub flush_ms: u64,

    /// Consecutive failures of the server that open the circuit breaker (0 = never).
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub breaker_failures: u32,
    /// Percentage of failed requests in the window that opens the circuit breaker (1 to 100).
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = within::<u32>(1..=100))]
    pub breaker_percent: u32,
    /// Window in which that percentage is measured (ms, 1,000 to 86,400,000).
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = within::<u64>(1_000..=DAY_MS))]
    pub breaker_window_ms: u64,
    /// Time that the breaker stays open at first (ms, 10 to 86,400,000); it doubles with each failed probe.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = within::<u64>(10..=DAY_MS))]
    pub breaker_open_ms: u64,
    /// Maximum time that the breaker stays open (ms, 10 to 86,400,000, and not below `breaker_open_ms`).
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = within::<u64>(10..=DAY_MS))]
    pub breaker_most_open_ms: u64,

    /// Origins from which pages in browsers may call (comma-separated). Unset: none.
    #[arg(long, value_name = "ORIGINS", default_value = "", hide_default_value = true)]
    pub allowed_origins: String,
    /// Host names, without port, under which the node may be called (comma-separated). Unset: see "Who may".
    #[arg(long, value_name = "HOSTS", default_value = "", hide_default_value = true)]
    pub allowed_hosts: String,
    /// Client addresses that may call: IP addresses and networks like `10.0.0.0/8` (comma-separated). Unset: all.
    #[arg(long, value_name = "NETWORKS", default_value = "", hide_default_value = true)]
    pub allowed_addresses: String,
    /// Proxies whose forwarded client address is believed: IP addresses and networks (comma-separated). Unset: none.
    #[arg(long, value_name = "NETWORKS", default_value = "", hide_default_value = true)]
    pub trusted_proxies: String,
    /// Header in which trusted proxies name the client: x-forwarded-for or forwarded (RFC 7239).
    #[arg(long, value_name = "HEADER", default_value = "x-forwarded-for", value_parser = forwarded_header)]
    pub forwarded_header: ForwardedHeader,
    /// New connections per minute from one client address (0 = unlimited).
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub address_connections_per_minute: u32,
    /// Requests with a refused key or token per minute from one client address before it gets 429 (0 = unlimited).
    #[arg(long, value_name = "COUNT", default_value_t = 300)]
    pub address_unauthorized_per_minute: u32,

    /// Scopes that tools require: `tool=scope,prefix*=scope`; in the file a table. Unset: no tool requires one.
    #[arg(long, value_name = "TOOL=SCOPE,...")]
    pub tool_scopes: Option<Pairs>,
    /// Issuer (`iss`) of tokens (JWT) that may stand for an API key. Unset: API keys alone.
    #[arg(long, value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Audience (`aud`) that those tokens must have; required with an issuer.
    #[arg(long, value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// File or URL of the issuer's public keys (JWKS). Unset: what the issuer's metadata names.
    #[arg(long, value_name = "FILE|URL")]
    pub jwt_jwks: Option<String>,
    /// Claim that holds the id of the API key.
    #[arg(long, value_name = "CLAIM", default_value = "tollbook_key")]
    pub jwt_key_claim: String,
    /// URL of `/mcp` as clients reach it. Unset: the name that it is called by, on a loopback address.
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Certificate chain of the node (PEM file): it then serves HTTPS; read again at SIGHUP. Unset: HTTP.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM file); read again at SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authorities of client certificates (PEM file). Unset: clients are asked for none.
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Headers that a single server gets with every request: `name=value,...`, where a value may be `env:NAME` or
    /// `file:/path`; in the file a table. Unset: none.
    #[arg(long, value_name = "NAME=VALUE,...")]
    pub upstream_headers: Option<Pairs>,
    /// Tell the server the tenant, project, organization and key of the caller in headers (on or off).
    #[arg(long, value_name = "ON|OFF", num_args = 0..=1, default_missing_value = "on", default_value = "off")]
    pub forward_identity: Switch,
    /// Give the server a token (JWT) of this node about the caller (on or off).
    #[arg(long, value_name = "ON|OFF", num_args = 0..=1, default_missing_value = "on", default_value = "off")]
    pub internal_jwt: Switch,
    /// Keys that sign those tokens (PEM file, PKCS #8, Ed25519): the first signs, all are published; turns the tokens on.
    /// Unset: `internal-jwt.pem` in the spool folder, generated and replaced every 30 days.
    #[arg(long, value_name = "FILE")]
    pub internal_jwt_key_file: Option<PathBuf>,
    /// Header for those tokens; in `authorization` they are sent as `Bearer`.
    #[arg(long, value_name = "NAME", default_value = "authorization")]
    pub internal_jwt_header: String,
    /// Issuer (`iss`) of those tokens. Unset: `public_url`, else `tollbook`.
    #[arg(long, value_name = "TEXT")]
    pub internal_jwt_issuer: Option<String>,
    /// Audience (`aud`) of those tokens. Unset: the URL of the server.
    #[arg(long, value_name = "TEXT")]
    pub internal_jwt_audience: Option<String>,

    /// Tell in `_meta` of results what is left of the caller's quotas (on or off).
    #[arg(long, value_name = "ON|OFF", default_value = "on")]
    pub quota_meta: Switch,
    /// Form of the refusal of a call beyond a limit: error (a JSON-RPC error), or result (a failed result, which models read).
    #[arg(long, value_name = "FORM", default_value = "error")]
    pub refuse_as: RefuseAs,
    /// Units of `tool_calls` for a call that its client cancels when the server may have begun with it: reserved (what was
    /// set aside for it) or free.
    #[arg(long, value_name = "UNITS", default_value = "reserved", value_parser = cancelled)]
    pub cancelled: Cancelled,
    /// Maximum number of tasks of one key at one server whose results have not been counted yet (0 to 65,536); beyond it a
    /// task counts when it is created, by what was set aside for the call, and its result is free.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = within::<u32>(0..=65_536))]
    pub max_open_tasks: u32,
    /// Calls per minute of all keys of one tenant on this node (0 = unlimited).
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub tenant_per_minute: u32,
    /// Burst of calls of one tenant after a pause (0 = what the rate allows in ten seconds).
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub tenant_burst: u32,
    /// Concurrent calls of one tenant (0 = unlimited).
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub tenant_concurrent: u32,
    /// Calls per minute of one connection (0 = unlimited).
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub connection_per_minute: u32,
    /// Burst of calls of one connection after a pause (0 = what the rate allows in ten seconds).
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub connection_burst: u32,
    /// Concurrent calls of one connection (0 = unlimited).
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub connection_concurrent: u32,
    /// Requests sent before `Retry-After` has elapsed, within the window, that double the key's back-off (0 = never).
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub backoff_after: u32,
    /// Window in which those requests count, and after which without one a step is undone (ms, 1,000 to 86,400,000).
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = within::<u64>(1_000..=DAY_MS))]
    pub backoff_window_ms: u64,
    /// Number of doublings before the key is blocked (0 to 16).
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = within::<u32>(0..=16))]
    pub backoff_steps: u32,
    /// Maximum doubled back-off (ms, 1,000 to 86,400,000).
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = within::<u64>(1_000..=DAY_MS))]
    pub backoff_most_ms: u64,
    /// Duration of a block (ms, 1,000 to 86,400,000).
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = within::<u64>(1_000..=DAY_MS))]
    pub block_ms: u64,

    /// Meter besides `tool_calls`, as a table of the file: `{name="tokens",from="/_meta/tokens",reserve=1000}`; once for each
    /// meter. In a variable all of them: `[{...},{...}]`. Unset: none.
    #[arg(long, value_name = "TABLE")]
    pub meter: Vec<String>,
    /// Units of `tool_calls` for a call of a tool (0 to 1,000,000); `*` stands for any characters; once for each tool. In the
    /// file and in a variable a table: `{search=5}`. Unset: 1 each.
    #[arg(id = "weights", long = "weight", value_name = "TOOL=UNITS")]
    pub weights: Vec<String>,

    /// URL of an OpenTelemetry collector (OTLP over HTTP), without `/v1/traces`; see "Spans". Unset:
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, else no spans are sent.
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Percentage of the traces that begin here that are recorded (0 to 100).
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = within::<u8>(0..=100))]
    pub trace_percent: u8,
    /// Log level: error, warn, info, debug or trace; `RUST_LOG` overrides it.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    pub log_level: &'static str,
    /// Log format: text or json. Unset: `LOG_FORMAT`, else text.
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
    /// Tenant in log lines that know no other. Its variable is also `TENANT_ID`. Unset: none.
    #[arg(long, value_name = "ID")]
    pub tenant_id: Option<String>,
    /// Organization in log lines and identity headers. Its variable is also `ORGANIZATION_ID`. Unset: none.
    #[arg(long, value_name = "ID")]
    pub organization_id: Option<String>,

    /// Command that serves MCP on standard input and output, and its arguments.
    #[arg(last = true)]
    pub command: Vec<String>,
}

fn forwarded_header(text: &str) -> Result<ForwardedHeader, &'static str> {
    ForwardedHeader::from_name(text).ok_or("x-forwarded-for or forwarded")
}

fn cancelled(text: &str) -> Result<Cancelled, &'static str> {
    Cancelled::parse(text).ok_or("reserved or free")
}

fn level(text: &str) -> Result<&'static str, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "error" => Ok("error"),
        "warn" | "warning" => Ok("warn"),
        "info" => Ok("info"),
        "debug" => Ok("debug"),
        "trace" => Ok("trace"),
        _ => Err("error, warn, info, debug or trace"),
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
