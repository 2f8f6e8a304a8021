//! The servers behind the node: one from the command line, several from the settings.

use std::collections::HashSet;

use axum::http::{HeaderMap, Uri};
use mcp_node::upstream::stdio::ServerCommand;
use mcp_node_core::aggregate::names::is_prefix;
use serde::Deserialize;

use super::{
    ConfigError, PREFIX, Pairs, Settings, Tables,
    upstream::{UpstreamError, header, secret},
};

/// How a server is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerTarget {
    Url(Uri, UrlTransport),
    Command(ServerCommand),
}

/// What a server at an address speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UrlTransport {
    /// Streamable HTTP or HTTP+SSE, whichever it turns out to be; WebSocket by the address.
    #[default]
    Auto,
    /// Streamable HTTP.
    Http,
    /// HTTP+SSE of 2024-11-05.
    Sse,
    WebSocket,
}

impl std::str::FromStr for UrlTransport {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "http" => Ok(Self::Http),
            "sse" => Ok(Self::Sse),
            "websocket" => Ok(Self::WebSocket),
            _ => Err("auto, http, sse or websocket"),
        }
    }
}

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerEntry {
    /// It is at `/mcp/{name}`; `None` = at `/mcp` alone.
    pub name: Option<String>,
    pub behind: ServerTarget,
    /// This node's own credentials there.
    pub headers: HeaderMap,
}

/// One of the servers that are one at `/mcp`.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateEntry {
    pub name: String,
    /// What stands before the names of its tools and prompts.
    pub prefix: String,
}

/// One `[[upstream]]` of the settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamTable {
    name: String,
    prefix: Option<String>,
    url: Option<String>,
    #[serde(default)]
    transport: UrlTransport,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    headers: Pairs,
}

/// The servers; the first is at `/mcp`, or all those that stand second.
///
/// # Errors
/// There is none, one is named by two things or by none, or two have one name; or they cannot be one.
pub(super) fn read(
    settings: &mut Settings,
    tables: &mut Tables,
) -> Result<(Vec<ServerEntry>, Vec<AggregateEntry>), ConfigError> {
    let entries = std::mem::take(&mut tables.upstream);
    let hidden = hidden(&entries, &tables.upstream_headers);
    let command = std::mem::take(&mut settings.command);
    let mut servers = vec![];
    match behind(settings.upstream_url.take(), settings.upstream_transport, command, &hidden) {
        Ok(behind) => servers.push(ServerEntry { name: None, behind, headers: HeaderMap::new() }),
        Err(ConfigError::NoUpstream) if !entries.is_empty() => {}
        Err(error) => return Err(error),
    }
    let (mut names, mut together) = (HashSet::new(), vec![]);
    for UpstreamTable { name, prefix, url, transport, command, headers: said } in entries {
        together.push(prefixed(&name, prefix, settings.aggregate.0)?);
        if !is_name(&name) || !names.insert(name.clone()) {
            return Err(ConfigError::Name(name));
        }
        let behind = behind(url, transport, command, &hidden)?;
        if matches!(behind, ServerTarget::Command(_)) && !said.0.is_empty() {
            return Err(UpstreamError::Child("headers").into());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in said.0 {
            headers.insert(header(&name)?, secret(&name, &value)?);
        }
        servers.push(ServerEntry { name: Some(name), behind, headers });
    }
    if !settings.aggregate.0 {
        return Ok((servers, vec![]));
    }
    match servers.first() {
        Some(ServerEntry { name: None, .. }) => {
            Err(ConfigError::Aggregate("each must be an [[upstream]]"))
        }
        _ if together.len() < 2 => Err(ConfigError::Aggregate("at least two [[upstream]]")),
        _ if !tables.upstream_headers.0.is_empty() => Err(ConfigError::Aggregate(
            "say `upstream_headers` as the `headers` of each [[upstream]]",
        )),
        _ => Ok((servers, together)),
    }
}

fn prefixed(
    name: &str,
    prefix: Option<String>,
    aggregate: bool,
) -> Result<AggregateEntry, ConfigError> {
    if prefix.is_some() && !aggregate {
        return Err(ConfigError::Aggregate("only then has an [[upstream]] a `prefix`"));
    }
    let prefix = prefix.unwrap_or_else(|| format!("{name}_"));
    if !is_prefix(&prefix) && is_name(name) {
        return Err(ConfigError::Prefix(prefix));
    }
    Ok(AggregateEntry { name: name.to_owned(), prefix })
}

/// Variables that no child may see: where our log is, and the credentials for other servers.
fn hidden(entries: &[UpstreamTable], first: &Pairs) -> Vec<String> {
    let own = ["NATS_URL", "UPSTREAM_HEADERS", "UPSTREAM"].map(|name| format!("{PREFIX}{name}"));
    let said = entries.iter().flat_map(|entry| &entry.headers.0).chain(&first.0);
    let named = said.filter_map(|(_, value)| value.strip_prefix("env:").map(str::to_owned));
    own.into_iter().chain(named).collect()
}

fn is_name(name: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

fn behind(
    url: Option<String>,
    transport: UrlTransport,
    command: Vec<String>,
    hidden: &[String],
) -> Result<ServerTarget, ConfigError> {
    let mut words = command.into_iter();
    match (url, words.next()) {
        (None, None) => Err(ConfigError::NoUpstream),
        (Some(_), Some(_)) => Err(ConfigError::TwoUpstreams),
        (None, Some(program)) => {
            // The server is somebody else's program: what opens our log is not its business.
            let (args, hidden) = (words.collect(), hidden.to_vec());
            Ok(ServerTarget::Command(ServerCommand { program, args, hidden }))
        }
        (Some(text), None) => at(&text, transport).ok_or(ConfigError::NotAnUrl(text)),
    }
}

/// A server at an address; `None` = it is none that this transport has.
fn at(text: &str, transport: UrlTransport) -> Option<ServerTarget> {
    let uri: Uri = text.parse().ok()?;
    uri.host()?;
    let transport = match (uri.scheme_str()?, transport) {
        ("http" | "https", UrlTransport::WebSocket) => return None,
        ("http" | "https", transport) => transport,
        ("ws" | "wss", UrlTransport::Auto | UrlTransport::WebSocket) => UrlTransport::WebSocket,
        _ => return None,
    };
    Some(ServerTarget::Url(uri, transport))
}
