//! What an MCP client must know to get a token for this node (RFC 9728): where the issuer is, and which scopes there are.
//!
//! The resource is `/mcp` as clients reach it, which behind a proxy only the operator knows. Only a node of this machine
//! goes by the name that it was called by, which the door has checked.

use axum::http::{HeaderMap, HeaderValue, Uri, header::WWW_AUTHENTICATE};
use serde_json::{Value, json};

/// Where RFC 9728 puts the document.
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The node as a protected resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    issuer: String,
    /// `None` = what the request says, on a node that only this machine reaches.
    url: Option<Address>,
    scheme: &'static str,
    scopes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    /// `https://host:port`
    origin: String,
    /// `/mcp`
    path: String,
}

/// A text that is no address of a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no http or https URL without query")]
pub struct NotAnAddress(pub String);

impl Resource {
    /// The node behind `issuer`, at `url` if that is known; without a path it ends with `/mcp`.
    ///
    /// # Errors
    /// The address is none.
    pub fn try_new(
        issuer: &str,
        url: Option<&str>,
        scopes: Vec<String>,
        over_tls: bool,
    ) -> Result<Self, NotAnAddress> {
        let url = url.map(Address::read).transpose()?;
        let scheme = if over_tls { "https" } else { "http" };
        Ok(Self { issuer: issuer.to_owned(), url, scheme, scopes })
    }

    fn address(&self, host: Option<&HeaderValue>) -> Option<Address> {
        if let Some(url) = &self.url {
            return Some(url.clone());
        }
        let host = host?.to_str().ok()?;
        Some(Address { origin: format!("{}://{host}", self.scheme), path: "/mcp".to_owned() })
    }

    /// The document, for who called it by `host`, if `path` (behind the well-known one, empty or with a slash) is where it lies.
    #[must_use]
    pub fn document(&self, host: Option<&HeaderValue>, path: &str) -> Option<Value> {
        let address = self.address(host)?;
        if !(path.is_empty() || path == "/mcp" || path == address.path) {
            return None;
        }
        let mut document = json!({
            "resource": format!("{}{}", address.origin, address.path),
            "authorization_servers": [self.issuer],
            "bearer_methods_supported": ["header"],
        });
        if !self.scopes.is_empty() {
            document["scopes_supported"] = json!(self.scopes);
        }
        Some(document)
    }

    /// Tells a client that was refused where the document is.
    pub fn point_to(&self, host: Option<&HeaderValue>, answer: &mut HeaderMap) {
        let challenge = answer.get(WWW_AUTHENTICATE).and_then(|said| said.to_str().ok());
        let Some(challenge) = challenge else { return };
        let Some(Address { origin, path }) = self.address(host) else { return };
        let pointing = format!(r#"{challenge}, resource_metadata="{origin}{WELL_KNOWN}{path}""#);
        if let Ok(pointing) = HeaderValue::from_str(&pointing) {
            answer.insert(WWW_AUTHENTICATE, pointing);
        }
    }
}

impl Address {
    fn read(text: &str) -> Result<Self, NotAnAddress> {
        let not = || NotAnAddress(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| not())?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"));
        let (Some(scheme), Some(host), None) = (scheme, uri.authority(), uri.query()) else {
            return Err(not());
        };
        if host.as_str().contains('@') || text.contains(['"', '\\', '#']) {
            return Err(not());
        }
        let path = match uri.path().trim_end_matches('/') {
            "" => "/mcp",
            path => path,
        };
        Ok(Self { origin: format!("{scheme}://{host}"), path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(url: Option<&str>) -> Resource {
        Resource::try_new("https://issuer", url, vec!["a:b".into()], false).unwrap()
    }

    #[test]
    fn the_document_names_the_resource_as_clients_see_it() {
        #[track_caller]
        fn check(url: Option<&str>, path: &str, expected: Option<&str>) {
            let document =
                resource(url).document(Some(&HeaderValue::from_static("localhost:8080")), path);
            let found = document.as_ref().map(|document| document["resource"].as_str().unwrap());
            assert_eq!(found, expected, "{url:?} at {path}");
        }
        check(None, "", Some("http://localhost:8080/mcp"));
        check(None, "/mcp", Some("http://localhost:8080/mcp"));
        check(None, "/other", None);
        check(Some("https://a.example"), "/mcp", Some("https://a.example/mcp"));
        check(Some("https://a.example/tools/mcp/"), "", Some("https://a.example/tools/mcp"));
        check(
            Some("https://a.example/tools/mcp"),
            "/tools/mcp",
            Some("https://a.example/tools/mcp"),
        );
        let document =
            resource(None).document(Some(&HeaderValue::from_static("localhost")), "").unwrap();
        assert_eq!(document["authorization_servers"], json!(["https://issuer"]));
        assert_eq!(document["scopes_supported"], json!(["a:b"]));
        for bad in [
            "a.example",
            "ftp://a.example",
            "https://a.example/?q",
            "https://u@a.example",
            "https://a\".b",
        ] {
            assert!(Resource::try_new("i", Some(bad), vec![], false).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refusal_points_to_the_document() {
        let (mut answer, host) = (HeaderMap::new(), HeaderValue::from_static("localhost:1"));
        resource(None).point_to(Some(&host), &mut answer);
        assert!(answer.is_empty(), "nothing was asked for");
        answer.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tollbook\""));
        resource(None).point_to(Some(&host), &mut answer);
        assert_eq!(
            answer[WWW_AUTHENTICATE],
            r#"Bearer realm="tollbook", resource_metadata="http://localhost:1/.well-known/oauth-protected-resource/mcp""#
        );
    }
}
