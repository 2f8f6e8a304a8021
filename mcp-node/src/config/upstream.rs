//! The settings of what the server behind the node is told, checked together.

use std::{fs, path::Path, time::Duration};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING},
};
use mcp_node::upstream::SignerSettings;

use super::{ServerEntry, ServerTarget, Settings, Tables};

/// After how long a node replaces the key in its own settings.
const ROTATION: Duration = Duration::from_secs(30 * 86_400);

/// What the server is to be told cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("upstream_headers: `{0}` is no name of a header, or one that the node writes itself")]
    Name(String),
    #[error("upstream_headers: the value of `{0}` cannot stand in a header")]
    Value(String),
    #[error("upstream_headers: the variable `{0}` is not set")]
    Variable(String),
    #[error("upstream_headers: the file `{0}` cannot be read")]
    ValueFile(String, #[source] std::io::Error),
    #[error("`{0}` needs a server over HTTP: a child has no headers")]
    Child(&'static str),
    #[error(
        "internal_jwt needs one server alone: with several, each could use the token meant for another"
    )]
    OneToken,
    #[error("internal_jwt_header: `{0}` is no name of a header, or another setting's")]
    TokenHeader(String),
}

/// What the server is told beside the client's message.
#[derive(Debug)]
pub struct UpstreamIdentity {
    pub identity: bool,
    pub organization: Option<HeaderValue>,
    pub token: Option<(HeaderName, SignerSettings)>,
}

/// What the file, the variables and the flags say of it.
pub(super) fn told(
    settings: &mut Settings,
    tables: &mut Tables,
    servers: &mut [ServerEntry],
) -> Result<UpstreamIdentity, UpstreamError> {
    let several = servers.len() > 1;
    let Some(ServerEntry { behind, headers: own, .. }) = servers.first_mut() else {
        unreachable!("a node without a server does not start");
    };
    let mut headers = HeaderMap::new();
    for (name, value) in std::mem::take(&mut tables.upstream_headers.0) {
        headers.insert(header(&name)?, secret(&name, &value)?);
    }
    let mut all = headers.clone();
    all.extend(std::mem::take(own));
    let signs = settings.internal_jwt.0 || settings.internal_jwt_key_file.is_some();
    if signs && several {
        return Err(UpstreamError::OneToken);
    }
    let ServerTarget::Url(url, _) = behind else {
        let said = [
            ("upstream_headers", !headers.is_empty()),
            ("forward_identity", settings.forward_identity.0),
            ("internal_jwt", signs),
        ];
        return match said.into_iter().find(|(_, said)| *said) {
            Some((name, _)) => Err(UpstreamError::Child(name)),
            None => Ok(UpstreamIdentity { identity: false, organization: None, token: None }),
        };
    };
    let organization = settings.organization_id.as_deref().map(HeaderValue::from_str);
    let organization = organization
        .transpose()
        .map_err(|_| UpstreamError::Value("x-tollbook-organization".into()))?;
    let mut token = None;
    if signs {
        let wrong = || UpstreamError::TokenHeader(settings.internal_jwt_header.clone());
        let name = header(&settings.internal_jwt_header).map_err(|_| wrong())?;
        if all.contains_key(&name) {
            return Err(wrong());
        }
        let own = || settings.spool_dir.join("internal-jwt.pem");
        let issuer = settings.internal_jwt_issuer.clone().or_else(|| settings.public_url.clone());
        let settings = SignerSettings {
            issuer: issuer.unwrap_or_else(|| "tollbook".to_owned()),
            audience: settings.internal_jwt_audience.clone().unwrap_or_else(|| url.to_string()),
            rotation: settings.internal_jwt_key_file.is_none().then_some(ROTATION),
            file: settings.internal_jwt_key_file.clone().unwrap_or_else(own),
        };
        token = Some((name, settings));
    }
    *own = all;
    Ok(UpstreamIdentity { identity: settings.forward_identity.0, organization, token })
}

pub(super) fn header(name: &str) -> Result<HeaderName, UpstreamError> {
    let refused = || UpstreamError::Name(name.to_owned());
    let parsed: HeaderName = name.parse().map_err(|_| refused())?;
    let ours = [ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING];
    let kept = ours.contains(&parsed)
        || parsed.as_str().starts_with("mcp-")
        || parsed.as_str().starts_with("x-tollbook-") && parsed != "x-tollbook-token";
    if kept { Err(refused()) } else { Ok(parsed) }
}

/// A value: as it is, or what a variable (`env:NAME`) or a file (`file:/path`) holds.
pub(super) fn secret(name: &str, value: &str) -> Result<HeaderValue, UpstreamError> {
    let text = if let Some(variable) = value.strip_prefix("env:") {
        std::env::var(variable).map_err(|_| UpstreamError::Variable(variable.to_owned()))?
    } else if let Some(path) = value.strip_prefix("file:") {
        let read = fs::read_to_string(Path::new(path));
        read.map_err(|error| UpstreamError::ValueFile(path.to_owned(), error))?
    } else {
        value.to_owned()
    };
    let mut value =
        HeaderValue::from_str(text.trim()).map_err(|_| UpstreamError::Value(name.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
