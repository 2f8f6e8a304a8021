//! The settings that say who may do what, checked together.

use std::time::Duration;

use mcp_node::{
    access::{
        AccessSettings, IssuerSettings, NotAnAddress, Resource,
        issuer::{Source, SourceError, safe_url},
    },
    http::TlsFiles,
};
use mcp_node_core::{
    scope::{ScopeError, ToolScopes},
    token::Expected,
};

use super::{Settings, Tables};

/// After a token by an unknown key, the issuer is asked for its keys no sooner than this after the last time.
const APART: Duration = Duration::from_secs(30);

/// Who may do what is not said, or said twice.
#[derive(Debug, thiserror::Error)]
pub enum WhoError {
    #[error("tool_scopes: {0}")]
    ToolScopes(#[from] ScopeError),
    #[error("name what the tokens of the issuer are meant for: `jwt_audience`")]
    NoAudience,
    #[error("`{0}` says something of an issuer, and `jwt_issuer` names none")]
    NoIssuer(&'static str),
    #[error("`jwt_jwks` or `jwt_issuer`")]
    Keys(#[from] SourceError),
    #[error("name the address of `/mcp` as clients reach it: `public_url`")]
    NoPublicUrl,
    #[error("`tls_cert` and `tls_key` go together, and `tls_client_ca` with them")]
    HalfTls,
    #[error("public_url: {0}")]
    PublicUrl(#[from] NotAnAddress),
}

/// What the file, the variables and the flags say of who may do what.
pub(super) fn access(
    settings: &mut Settings,
    tables: &mut Tables,
    loopback: bool,
    over_tls: bool,
) -> Result<AccessSettings, WhoError> {
    let needs = ToolScopes::try_new(std::mem::take(&mut tables.tool_scopes.0))?;
    let said = |option: &Option<String>| {
        option.as_deref().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let Some(issuer) = said(&settings.jwt_issuer) else {
        for (name, value) in
            [("jwt_audience", &settings.jwt_audience), ("jwt_jwks", &settings.jwt_jwks)]
        {
            if said(value).is_some() {
                return Err(WhoError::NoIssuer(name));
            }
        }
        return Ok(AccessSettings { needs, ..AccessSettings::default() });
    };
    let audience = said(&settings.jwt_audience).ok_or(WhoError::NoAudience)?;
    let source = match said(&settings.jwt_jwks) {
        Some(named) => Source::named(&named)?,
        None => Source::Metadata(safe_url(&issuer)?),
    };
    let url = said(&settings.public_url);
    if url.is_none() && !loopback {
        return Err(WhoError::NoPublicUrl);
    }
    let scopes = needs.all().into_iter().map(str::to_owned).collect();
    let resource = Resource::try_new(&issuer, url.as_deref(), scopes, over_tls)?;
    let expected = Expected { issuer, audience, key_claim: settings.jwt_key_claim.clone() };
    let issuer = IssuerSettings { expected, source, apart: APART };
    Ok(AccessSettings { needs, issuer: Some(issuer), resource: Some(resource) })
}

/// Whether the door speaks TLS, and by which files.
pub(super) fn tls(settings: &mut Settings) -> Result<Option<TlsFiles>, WhoError> {
    let client_ca = settings.tls_client_ca.take();
    match (settings.tls_cert.take(), settings.tls_key.take()) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key, client_ca })),
        (None, None) if client_ca.is_none() => Ok(None),
        _ => Err(WhoError::HalfTls),
    }
}
