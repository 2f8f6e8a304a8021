//! Origins: a browser's page may call only from where the operator allows, so that no page can ride on a session.

use axum::{
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
            ORIGIN, VARY,
        },
    },
    response::{IntoResponse, Response},
};
use mcp_node_core::Refusal;

/// The origin of a request that comes from a browser; `None` = it names none, as clients outside browsers do.
///
/// # Errors
/// The origin is not allowed.
pub fn check(headers: &HeaderMap, allowed: &[String]) -> Result<Option<HeaderValue>, Refusal> {
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(None),
        (Some(origin), None)
            if allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) =>
        {
            Ok(Some(origin.clone()))
        }
        _ => Err(Refusal::OriginNotAllowed),
    }
}

/// The answer to a browser that asks before it calls.
pub fn preflight() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, DELETE")),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(
                "authorization, content-type, accept, last-event-id, mcp-session-id, mcp-protocol-version, \
                 mcp-method, mcp-name, x-api-key",
            ),
        ),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Lets the page at `origin` read an answer, also one that refuses.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(
            "mcp-session-id, www-authenticate, retry-after, ratelimit, ratelimit-policy, x-tollbook-remaining",
        ),
    );
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_was_not_allowed_is_refused() {
        let allowed = ["https://a.example".to_owned()];
        let from = |origin: &'static str| {
            HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))])
        };
        assert_eq!(check(&HeaderMap::new(), &allowed), Ok(None));
        assert!(check(&from("https://a.example"), &allowed).is_ok_and(|origin| origin.is_some()));
        for other in ["https://b.example", "https://a.example.evil", "null", "http://a.example"] {
            assert_eq!(check(&from(other), &allowed), Err(Refusal::OriginNotAllowed), "{other}");
        }
    }
}
