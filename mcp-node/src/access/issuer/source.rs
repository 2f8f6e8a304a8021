//! Where an issuer's keys come from: a file, an address, or the address that the issuer's own metadata names.
//!
//! Over plain HTTP only from this machine: who can change the keys can be anybody. Redirects are not followed.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use axum::http::{Method, Request, Uri};
use bytes::Bytes;
use http_body_util::Full;
use runtime::http::{Client, HttpError};
use serde::Deserialize;

use super::keys::{KeySet, KeysError};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer. Unit: bytes.
const MAX: usize = 1 << 20;

/// Where the keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Url(Uri),
    /// The issuer's metadata (RFC 8414, else OpenID Connect Discovery) names the address.
    Metadata(Uri),
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the file cannot be read")]
    File(#[source] std::io::Error),
    #[error("`{0}` gave no answer")]
    NoAnswer(String, #[source] Box<HttpError>),
    #[error("`{0}` answered {1}")]
    Status(String, u16),
    #[error("`{0}` is no https URL, nor an http one of this machine")]
    NotSafe(String),
    #[error("the issuer's metadata is not its own, or names no keys")]
    Metadata,
    #[error("the keys cannot be used")]
    Keys(#[from] KeysError),
}

/// An address over which keys may come.
///
/// # Errors
/// It is neither https nor of this machine.
pub fn safe_url(text: &str) -> Result<Uri, SourceError> {
    let not_safe = || SourceError::NotSafe(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| not_safe())?;
    let host = uri.host().ok_or_else(not_safe)?.trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if here => Ok(uri),
        _ => Err(not_safe()),
    }
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Source {
    /// What a setting names: an address if it looks like one, else a file.
    ///
    /// # Errors
    /// An address that is not safe.
    pub fn named(text: &str) -> Result<Self, SourceError> {
        if text.contains("://") {
            return safe_url(text).map(Self::Url);
        }
        Ok(Self::File(PathBuf::from(text)))
    }

    /// Fetches the keys.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn load(&self, client: &Client, issuer: &str) -> Result<KeySet, SourceError> {
        let text = match self {
            Self::File(path) => tokio::fs::read(path).await.map_err(SourceError::File)?.into(),
            Self::Url(url) => get(client, url).await?,
            Self::Metadata(url) => {
                let keys = named_by(client, url, issuer).await?;
                get(client, &keys).await?
            }
        };
        Ok(KeySet::read(&text)?)
    }
}

/// The address that an issuer's metadata names.
async fn named_by(client: &Client, issuer_url: &Uri, issuer: &str) -> Result<Uri, SourceError> {
    let mut why = SourceError::Metadata;
    for url in metadata_urls(issuer_url) {
        match get(client, &url).await {
            Ok(text) => {
                let found: Metadata =
                    serde_json::from_slice(&text).map_err(|_| SourceError::Metadata)?;
                if found.issuer != issuer {
                    return Err(SourceError::Metadata);
                }
                return safe_url(&found.jwks_uri);
            }
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// RFC 8414, section 3: between host and path; OpenID Connect Discovery: behind the path.
fn metadata_urls(issuer: &Uri) -> Vec<Uri> {
    let text = issuer.to_string();
    let path = issuer.path().trim_end_matches('/');
    let origin = text.strip_suffix(issuer.path()).unwrap_or(&text).trim_end_matches('/');
    let oauth = format!("{origin}/.well-known/oauth-authorization-server{path}");
    let openid = format!("{origin}{path}/.well-known/openid-configuration");
    [oauth, openid].iter().filter_map(|url| url.parse().ok()).collect()
}

async fn get(client: &Client, url: &Uri) -> Result<Bytes, SourceError> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = url.clone();
    let sent = client.send(request, TIMEOUT, MAX).await;
    let answer = sent.map_err(|error| SourceError::NoAnswer(url.to_string(), Box::new(error)))?;
    match answer.status() {
        status if status.is_success() => Ok(answer.into_body()),
        status => Err(SourceError::Status(url.to_string(), status.as_u16())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for good in [
            "https://a.example/keys",
            "http://127.0.0.1:9/k",
            "http://[::1]/k",
            "http://localhost/k",
        ] {
            assert!(matches!(Source::named(good), Ok(Source::Url(_))), "{good}");
        }
        for bad in [
            "http://a.example/keys",
            "ftp://a.example/k",
            "http://127.0.0.1.a.example/k",
            "https://",
        ] {
            assert!(Source::named(bad).is_err(), "{bad}");
        }
        assert_eq!(Source::named("/etc/keys.json").unwrap(), Source::File("/etc/keys.json".into()));
    }

    #[test]
    fn metadata_lies_where_the_standards_put_it() {
        #[track_caller]
        fn check(issuer: &str, expected: [&str; 2]) {
            let found = metadata_urls(&issuer.parse().unwrap());
            assert_eq!(found.iter().map(Uri::to_string).collect::<Vec<_>>(), expected);
        }
        check(
            "https://a.example",
            [
                "https://a.example/.well-known/oauth-authorization-server",
                "https://a.example/.well-known/openid-configuration",
            ],
        );
        check(
            "https://a.example/realms/x/",
            [
                "https://a.example/.well-known/oauth-authorization-server/realms/x",
                "https://a.example/realms/x/.well-known/openid-configuration",
            ],
        );
    }
}
