//! Origins and hosts: a browser's page may call only from where the operator allows, and no name but the node's own
//! leads to it, so that no page can ride on a session or reach a node of this machine.

use std::net::Ipv4Addr;

use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
            ACCESS_CONTROL_REQUEST_HEADERS, HOST, ORIGIN, VARY,
        },
    },
    response::{IntoResponse, Response},
};
use mcp_node_core::Refusal;

use super::DoorSettings;

/// The origin of a request that comes from a browser; `None` = it names none, as clients outside browsers do.
///
/// # Errors
/// The origin, or the name that the node was called by, is not allowed.
pub fn check(headers: &HeaderMap, door: &DoorSettings) -> Result<Option<HeaderValue>, Refusal> {
    if !is_host_allowed(headers, door) {
        return Err(Refusal::HostNotAllowed);
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(None),
        (Some(origin), None) if is_origin_allowed(origin, door) => Ok(Some(origin.clone())),
        _ => Err(Refusal::OriginNotAllowed),
    }
}

/// Whether a request names this node by a name that it may be called by.
pub fn is_host_allowed(headers: &HeaderMap, door: &DoorSettings) -> bool {
    if !door.loopback && door.hosts.is_empty() {
        return true;
    }
    let mut named = headers.get_all(HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else { return false };
    let host = host.to_str().map(without_port).unwrap_or_default();
    let listed = door.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
    listed || is_this_machine(host)
}

fn is_origin_allowed(origin: &HeaderValue, door: &DoorSettings) -> bool {
    if door.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
        return true;
    }
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    door.loopback && host.is_some_and(|(_, host)| is_this_machine(without_port(host)))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "[::1]"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// What a page may send: what the node reads or passes on, besides all that begins with [`PARAMETER`].
const ALLOWED: [&str; 13] = [
    "authorization",
    "content-type",
    "accept",
    "last-event-id",
    "mcp-session-id",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "x-api-key",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "baggage",
];
/// Arguments of tools that clients of 2026-07-28 repeat in headers.
const PARAMETER: &str = "mcp-param-";

/// What a page may read of an answer.
const EXPOSED: &str = "mcp-session-id, mcp-protocol-version, www-authenticate, retry-after, ratelimit, \
                       ratelimit-policy, x-tollbook-remaining, x-tollbook-warning";

/// The answer to a browser that asks before it calls: of the headers that it asks for, those that a page may send.
pub fn preflight(headers: &HeaderMap) -> Response {
    let asked = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let asked: Vec<&str> = asked.filter_map(|names| names.to_str().ok()).collect();
    let asked = asked.iter().flat_map(|names| names.split(',')).map(str::trim);
    let allowed: Vec<String> =
        asked.map(str::to_ascii_lowercase).filter(|name| may_be_sent(name)).collect();
    let allowed = if allowed.is_empty() { ALLOWED.join(", ") } else { allowed.join(", ") };
    let allowed = allowed.parse().expect("names of headers are a header's value");
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, DELETE")),
        (ACCESS_CONTROL_ALLOW_HEADERS, allowed),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
        (VARY, HeaderValue::from_static("Access-Control-Request-Headers")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn may_be_sent(name: &str) -> bool {
    let parameter = name.strip_prefix(PARAMETER).is_some_and(|rest| !rest.is_empty());
    ALLOWED.contains(&name) || (parameter && HeaderName::from_bytes(name.as_bytes()).is_ok())
}

/// Lets the page at `origin` read an answer, also one that refuses.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn door(origins: &[&str], hosts: &[&str], loopback: bool) -> DoorSettings {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        DoorSettings {
            max_request_bytes: 1,
            body_timeout: Duration::ZERO,
            heartbeat: std::time::Duration::from_secs(15),
            origins: owned(origins),
            hosts: owned(hosts),
            addresses: std::sync::Arc::default(),
            loopback,
        }
    }

    #[test]
    fn an_origin_that_was_not_allowed_is_refused() {
        let door = door(&["https://a.example"], &[], false);
        let from = |origin: &'static str| {
            HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))])
        };
        assert_eq!(check(&HeaderMap::new(), &door), Ok(None));
        assert!(check(&from("https://a.example"), &door).is_ok_and(|origin| origin.is_some()));
        for other in [
            "https://b.example",
            "https://a.example.evil",
            "null",
            "http://a.example",
            "http://localhost:3000",
        ] {
            assert_eq!(check(&from(other), &door), Err(Refusal::OriginNotAllowed), "{other}");
        }
    }

    #[test]
    fn a_node_of_this_machine_is_reached_by_its_own_names_alone() {
        #[track_caller]
        fn check(
            door: &DoorSettings,
            host: &'static str,
            origin: Option<&'static str>,
            allowed: bool,
        ) {
            let origin = origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin)));
            let host =
                Some((HOST, HeaderValue::from_static(host))).filter(|(_, host)| !host.is_empty());
            let headers = host.into_iter().chain(origin).collect();
            assert_eq!(super::check(&headers, door).is_ok(), allowed, "{headers:?}");
        }
        let own = door(&[], &["node.internal"], true);
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8080",
            "127.8.8.8",
            "[::1]:8080",
            "[::1]",
            "node.internal:80",
        ] {
            check(&own, host, None, true);
        }
        for host in
            ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]"]
        {
            check(&own, host, None, false);
        }
        check(&own, "localhost:8080", Some("http://localhost:8080"), true);
        check(&own, "localhost:8080", Some("http://[::1]:3000"), true);
        check(&own, "localhost:8080", Some("http://evil.example"), false);
        check(&own, "localhost:8080", Some("null"), false);
        let open = door(&[], &[], false);
        check(&open, "anything.example", None, true);
        let named = door(&[], &["node.example"], false);
        check(&named, "node.example", None, true);
        check(&named, "other.example", None, false);
        check(&named, "127.0.0.1", None, true);
    }
    #[track_caller]
    fn asks(names: &'static str) -> String {
        let headers = [(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static(names))];
        let answer = preflight(&HeaderMap::from_iter(headers));
        assert_eq!(answer.headers()[VARY], "Access-Control-Request-Headers");
        answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_page_may_send_what_the_node_understands_and_nothing_else() {
        for fine in [
            "mcp-param-region,idempotency-key,traceparent,tracestate,baggage",
            "authorization,content-type,mcp-protocol-version,mcp-method,mcp-name,x-api-key",
        ] {
            assert_eq!(asks(fine).replace(", ", ","), fine);
        }
        assert_eq!(asks("MCP-Param-Region, cookie,x-tollbook-key"), "mcp-param-region");
        for not in ["", "cookie", "mcp-param-", "mcp-param-\"a", "x-tollbook-key"] {
            assert_eq!(asks(not), ALLOWED.join(", "), "{not}");
        }
    }
}
