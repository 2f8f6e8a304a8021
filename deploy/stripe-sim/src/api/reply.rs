//! An answer on its way out: body, headers, or no answer at all.

use crate::app::App;
use crate::clock::http_date;
use crate::deliver::pretty;
use crate::error::{ApiError, Dialect};
use crate::idempotency::Stored;
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE};
use http::{HeaderValue, StatusCode};
use serde_json::Value;

/// Marks a response that must not be sent: the server breaks the connection instead.
#[derive(Clone, Copy, Debug)]
pub enum HangUp {
    /// The connection ends as if the other side had gone.
    Close,
    /// The connection is reset: the client sees it at once as an error.
    Reset,
}

/// One answer before its headers.
pub struct Reply {
    pub status: u16,
    body: Bytes,
    /// The error envelope, for the self-check.
    pub error: Option<Value>,
    should_retry: Option<bool>,
    limited: Option<&'static str>,
    /// The first request with this key, when this is a replay.
    pub replayed: Option<String>,
}

impl Reply {
    pub fn ok(answer: &Value) -> Self {
        Self {
            status: 200,
            body: pretty(answer),
            error: None,
            should_retry: None,
            limited: None,
            replayed: None,
        }
    }

    pub fn error(error: &ApiError, dialect: Dialect) -> Self {
        let envelope = error.envelope(dialect);
        Self {
            status: error.status,
            body: pretty(&envelope),
            error: Some(envelope),
            should_retry: error.should_retry,
            limited: error.limited,
            replayed: None,
        }
    }

    pub fn replay(stored: Stored) -> Self {
        Self {
            status: stored.status,
            body: stored.body,
            error: None,
            should_retry: stored.should_retry,
            limited: None,
            replayed: Some(stored.request_id),
        }
    }

    /// What the journal shows for a request that met nothing: status 0.
    pub fn nothing() -> Self {
        Self {
            status: 0,
            body: Bytes::new(),
            error: None,
            should_retry: None,
            limited: None,
            replayed: None,
        }
    }

    pub fn stored(&self, request_id: &str) -> Stored {
        Stored {
            status: self.status,
            body: self.body.clone(),
            request_id: request_id.to_owned(),
            should_retry: self.should_retry,
        }
    }

    pub fn into_response(
        self,
        app: &App,
        request_id: &str,
        version: &str,
        key: Option<&str>,
    ) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).expect("only valid statuses are made");
        let headers = response.headers_mut();
        let mut set = |name: &'static str, value: &str| {
            // Echoed values come from headers, so they fit into one.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(CONTENT_TYPE.as_str(), "application/json");
        set(CACHE_CONTROL.as_str(), "no-cache, no-store");
        set(DATE.as_str(), &http_date(app.clock.wire_now()));
        set("request-id", request_id);
        set("stripe-version", version);
        if let Some(key) = key {
            set("idempotency-key", key);
            set("original-request", self.replayed.as_deref().unwrap_or(request_id));
        }
        if self.replayed.is_some() {
            set("idempotent-replayed", "true");
        }
        if let Some(should_retry) = self.should_retry {
            set("stripe-should-retry", if should_retry { "true" } else { "false" });
        }
        if let Some(reason) = self.limited {
            set("stripe-rate-limited-reason", reason);
        }
        response
    }
}

/// A response that makes the server end the connection.
pub fn hang_up() -> Response {
    broken(HangUp::Close)
}

/// A response that makes the server reset the connection.
pub fn reset() -> Response {
    broken(HangUp::Reset)
}

fn broken(how: HangUp) -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(how);
    response
}

/// The secret key in an `Authorization` header: a bearer, or the user name of basic auth.
pub fn key_of(header: &str) -> Option<String> {
    let (scheme, rest) = header.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD_NO_PAD.decode(rest.trim().trim_end_matches('=')).ok()?;
    String::from_utf8(decoded).ok()?.split_once(':').map(|(user, _)| user.to_owned())
}

/// A key as an error may show it: its last four characters.
pub fn redacted(key: &str) -> String {
    let shown: String = key.chars().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect();
    let hidden = key.chars().count().saturating_sub(4);
    format!("{}{shown}", "*".repeat(hidden.min(40)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_as_bearer_or_as_user_name() {
        assert_eq!(key_of("Bearer sk_test_x").as_deref(), Some("sk_test_x"));
        assert_eq!(key_of("Basic c2tfdGVzdF94Og==").as_deref(), Some("sk_test_x"));
        assert_eq!(key_of("basic c2tfdGVzdF94Og").as_deref(), Some("sk_test_x"));
        assert_eq!(key_of("Digest x"), None);
        assert_eq!(key_of("Basic !!"), None);
    }

    #[test]
    fn a_wrong_key_is_not_shown_whole() {
        assert_eq!(redacted("sk_live_abcdef1234"), "**************1234");
    }
}
