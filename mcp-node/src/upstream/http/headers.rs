//! Which headers go on and come back: those that the protocol names, and nothing else.
//!
//! A list of what may pass, not of what may not: the client's key, its cookies and whatever else it sends stay here.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use mcp_node_core::Refusal;

use crate::{request::Inbound, wire::SESSION};

/// Passed on to the server. `mcp-*` is passed on besides.
const ON: [HeaderName; 9] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_TYPE,
    header::USER_AGENT,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("idempotency-key"),
];

/// Passed back to the client. `mcp-*` is passed back besides.
const BACK: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CACHE_CONTROL,
    header::ALLOW,
    header::RETRY_AFTER,
    header::CONTENT_LANGUAGE,
    HeaderName::from_static("x-accel-buffering"),
];

/// Copies what the server may see. Where there are no sessions none is named: the node did not check it.
pub fn copy_on(inbound: &Inbound, to: &mut HeaderMap) {
    copy(&inbound.headers, to, &ON);
    if inbound.is_modern() {
        to.remove(SESSION);
        to.remove("last-event-id");
    }
    ask_for_plain(to);
}

/// Asks for an answer without a content coding: the node reads what it passes on, and without the header any coding may
/// come (RFC 9110, section 12.5.3).
pub fn ask_for_plain(to: &mut HeaderMap) {
    to.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Whether the body can be read as it comes.
///
/// # Errors
/// It has a content coding, though none was asked for.
pub fn check_readable(headers: &HeaderMap) -> Result<(), Refusal> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut coded = codings.filter(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let Some(coding) = coded.next() else { return Ok(()) };
    tracing::warn!(
        ?coding,
        "Response of the upstream refused: it is compressed, though `accept-encoding: identity` was sent"
    );
    Err(Refusal::UpstreamEncoded)
}

/// Copies what the client may see. The body's length is not among it: it is that of the body that goes out.
pub fn copy_back(from: &HeaderMap, to: &mut HeaderMap) {
    copy(from, to, &BACK);
}

fn copy(from: &HeaderMap, to: &mut HeaderMap, listed: &[HeaderName]) {
    let passes = |name: &HeaderName| listed.contains(name) || name.as_str().starts_with("mcp-");
    for name in from.keys().filter(|name| passes(name)) {
        to.remove(name);
        for value in from.get_all(name) {
            to.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_and_all_that_is_unknown_stays_here() {
        let pairs = [
            ("authorization", "Bearer tb_secret"),
            ("x-api-key", "tb_secret"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "1.2.3.4"),
            ("host", "node"),
            ("connection", "keep-alive"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("mcp-session-id", "s"),
            ("mcp-param-x", "1"),
            ("last-event-id", "7"),
            ("accept", "application/json"),
        ];
        let pair = |(name, value): (&'static str, &'static str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        let (from, mut to) = (pairs.into_iter().map(pair).collect(), HeaderMap::new());
        copy(&from, &mut to, &ON);
        let mut names: Vec<&str> = to.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "last-event-id", "mcp-param-x", "mcp-session-id"]);
    }
}
