//! What the node answers itself: refusals as JSON-RPC errors with their headers, and hints on what is left.

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::Response,
};
use mcp_node_core::{
    Refusal, lease_book::Hint, quota_note::scope as scope_name, violations::BackoffWarning,
};
use schemas::{TOOL_CALLS, Timestamp};
use serde_json::{Value, json, value::RawValue};

use super::FIRST_MODERN;
use crate::clock;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const REMAINING: HeaderName = HeaderName::from_static("x-tollbook-remaining");
const REMAINING_AT_LEAST: HeaderName = HeaderName::from_static("x-tollbook-remaining-at-least");
const WARNING: HeaderName = HeaderName::from_static("x-tollbook-warning");
/// The revisions that every server is offered to clients in.
pub const VERSIONS: [&str; 5] =
    [FIRST_MODERN, "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// A refusal as an HTTP answer; `id` = the request's id as it was written.
#[must_use]
pub fn refuse(refusal: &Refusal, id: Option<&str>) -> Response {
    let now = clock::wall();
    let status =
        StatusCode::from_u16(refusal.status()).expect("the contract has HTTP statuses only");
    let mut response = json(status, error(refusal, id, now));
    let headers = response.headers_mut();
    if let Some(ms) = refusal.retry_after_ms(now) {
        headers.insert(RETRY_AFTER, ms.div_ceil(1_000).into());
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tollbook\""));
    }
    if let Refusal::InsufficientScope(scope) = refusal {
        let asked =
            format!(r#"Bearer realm="tollbook", error="insufficient_scope", scope="{scope}""#);
        headers.insert(WWW_AUTHENTICATE, asked.parse().expect("a scope is visible ASCII"));
    }
    if let Refusal::RateLimited { per_minute, node_per_minute, retry_ms, .. } = refusal {
        let share = node_per_minute.filter(|share| share != per_minute);
        let share = share.map_or_else(String::new, |share| format!(";node-share={share}"));
        let (policy, state) = (
            format!(r#""calls";q={per_minute};w=60{share}"#),
            format!(r#""calls";r=0;t={}"#, retry_ms.div_ceil(1_000)),
        );
        put_rate(headers, policy, state);
    }
    if let (Some((limit, _, period)), Some(meter)) = (refusal.limit(), refusal.meter()) {
        let at_least = !is_spent(refusal);
        let hint = Hint { remaining: 0, at_least, limit: limit.0, period };
        rate_limit(headers, meter.as_str(), hint, now);
    }
    response
}

/// A refusal as a JSON-RPC error.
#[must_use]
pub fn error(refusal: &Refusal, id: Option<&str>, now: Timestamp) -> Vec<u8> {
    let id = id.and_then(|id| RawValue::from_string(id.to_owned()).ok());
    let error = json!({ "code": refusal.code(), "message": refusal.message(now), "data": data(refusal, now) });
    // The id goes back byte for byte, whatever number or text it is.
    let id = id.as_ref().map_or("null", |id| id.get());
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into_bytes()
}

/// What a program can read of a refusal.
pub(crate) fn data(refusal: &Refusal, now: Timestamp) -> Value {
    let mut data = json!({ "reason": refusal.reason() });
    let mut put = |name: &str, value: Value| data[name] = value;
    if let Some(ms) = refusal.retry_after_ms(now) {
        put("retryAfterMs", ms.into());
    }
    if let Some((limit, scope, period)) = refusal.limit() {
        put("limit", limit.0.into());
        put("remaining", 0.into());
        if !is_spent(refusal) {
            put("atLeast", true.into());
        }
        put("resetAt", period.to.to_string().into());
        put("scope", scope_name(scope).into());
    }
    if let Some(meter) = refusal.meter() {
        put("meter", meter.as_str().into());
    }
    match refusal {
        Refusal::KeyPending(why) | Refusal::KeySuspended(why) if !why.is_empty() => {
            put("detail", why.as_str().into());
        }
        Refusal::InsufficientScope(scope) => put("scope", scope.as_str().into()),
        Refusal::RateLimited { per_minute, node_per_minute, whose, warning, .. } => {
            put("perMinute", (*per_minute).into());
            put("scope", whose.as_str().into());
            if let Some(share) = node_per_minute {
                put("nodePerMinute", (*share).into());
            }
            if let Some(warning) = warning {
                if warning.step > 0 {
                    put("backoffStep", warning.step.into());
                }
                put("backoff", backoff(*warning));
            }
        }
        Refusal::RateHeld { per_minute, .. } => {
            put("scope", "key".into());
            if let Some(per_minute) = per_minute {
                put("perMinute", (*per_minute).into());
            }
        }
        Refusal::TooManyRunning { max, node_max, whose } => {
            put("concurrent", (*max).into());
            put("scope", whose.as_str().into());
            if let Some(share) = node_max {
                put("nodeConcurrent", (*share).into());
            }
        }
        Refusal::Blocked { retry_ms } => {
            let end = now.plus_ms(i64::try_from(*retry_ms).unwrap_or(i64::MAX));
            put("blockedUntil", end.to_string().into());
            put("scope", "key".into());
        }
        Refusal::RequestTooLarge(max) => put("maxBytes", (*max).into()),
        Refusal::UnsupportedVersion(requested) => {
            put("supported", json!(VERSIONS));
            put("requested", requested.as_str().into());
        }
        _ => {}
    }
    data
}

/// Whether nothing at all is left of the quota that refused: no call can be served before it resets.
fn is_spent(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::QuotaExhausted { needed: ..=1, .. })
}

/// How far a key has gone that does not wait, and what follows if it goes on.
fn backoff(warning: BackoffWarning) -> Value {
    let BackoffWarning { violations, after, window_ms, step, steps, block_ms } = warning;
    let next = if step < steps { "longer_wait" } else { "block" };
    json!({ "violations": violations, "after": after, "windowMs": window_ms, "step": step, "steps": steps,
        "next": next, "blockMs": block_ms })
}

/// Tells a served caller what is left.
pub fn hint(headers: &mut HeaderMap, hint: Hint) {
    headers.insert(REMAINING, hint.remaining.into());
    if hint.at_least {
        headers.insert(REMAINING_AT_LEAST, HeaderValue::from_static("true"));
    }
    rate_limit(headers, TOOL_CALLS, hint, clock::wall());
}

/// Tells a served caller what is left of another meter than calls.
pub fn hint_of(headers: &mut HeaderMap, meter: &str, hint: Hint) {
    rate_limit(headers, meter, hint, clock::wall());
}

/// Warns a served caller of quotas that near their limit.
pub fn warn(headers: &mut HeaderMap, warning: &str) {
    headers
        .insert(WARNING, warning.parse().expect("names, digits and quotes are a header's value"));
}

/// The fields of draft-ietf-httpapi-ratelimit-headers-11; `at-least` is ours.
fn rate_limit(headers: &mut HeaderMap, meter: &str, hint: Hint, now: Timestamp) {
    let Hint { remaining, at_least, limit, period } = hint;
    let seconds = |ms: i64| u64::try_from(ms).unwrap_or(0).div_ceil(1_000);
    let window = seconds(period.to.ms_since(period.from));
    let reset = seconds(period.to.ms_since(now));
    let at_least = if at_least { ";at-least" } else { "" };
    put_rate(
        headers,
        format!(r#""{meter}";q={limit};w={window}"#),
        format!(r#""{meter}";r={remaining};t={reset}{at_least}"#),
    );
}

fn put_rate(headers: &mut HeaderMap, policy: String, state: String) {
    for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, state)] {
        let value = value.parse().expect("quotes, digits and letters are a header's value");
        headers.append(name, value);
    }
}

/// An answer of JSON.
#[must_use]
pub fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer that is a stream of events.
#[must_use]
pub fn events(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// A message as an event of a stream. A line break in it can only stand between its parts, and becomes a space.
#[must_use]
pub fn event(message: &[u8]) -> Vec<u8> {
    const BEFORE: &[u8] = b"event: message\ndata: ";
    let mut event = [BEFORE, message, b"\n\n"].concat();
    for byte in &mut event[BEFORE.len()..BEFORE.len() + message.len()] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use schemas::{Period, Quantity, Scope, TenantId};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_exhausted_quota_says_everything_that_a_client_needs() {
        let period = Period { from: Timestamp(0), to: clock::wall().plus_ms(60_000) };
        let scope = Scope::Tenant(TenantId(Uuid::nil()));
        let meter = schemas::MeterName::tool_calls();
        let refusal =
            Refusal::QuotaExhausted { meter, limit: Quantity(50), scope, period, needed: 1 };
        let response = refuse(&refusal, Some("\"a\\u0062\""));
        assert_eq!(response.status(), 429);
        let header = |name| response.headers()[name].to_str().unwrap().to_owned();
        assert!((59..=60).contains(&header("retry-after").parse::<u64>().unwrap()));
        assert!(header("ratelimit").starts_with(r#""tool_calls";r=0;t="#));
        assert!(header("ratelimit-policy").starts_with(r#""tool_calls";q=50;w="#));
        let text = String::from_utf8(error(&refusal, Some("\"a\\u0062\""), Timestamp(0))).unwrap();
        assert!(text.starts_with(r#"{"jsonrpc":"2.0","id":"a\u0062","error":{"#), "{text}");
        let body: Value = serde_json::from_str(&text).unwrap();
        let data = &body["error"]["data"];
        assert_eq!(body["error"]["code"], 42_901);
        assert_eq!((&data["reason"], &data["limit"]), (&json!("quota_exhausted"), &json!(50)));
        assert_eq!((&data["remaining"], &data["scope"]), (&json!(0), &json!("tenant")));
        assert_eq!(data["resetAt"], period.to.to_string());
        assert_eq!(data["atLeast"], Value::Null, "0 is all that is left");
        let text = body["error"]["message"].as_str().unwrap();
        assert!(text.starts_with("50 of 50 calls of this tenant used; resets "), "{text}");
        assert!(data["retryAfterMs"].as_u64().is_some());
    }

    #[test]
    fn a_scope_that_lacks_is_named() {
        let refusal = Refusal::InsufficientScope("debate:start".into());
        let response = refuse(&refusal, Some("1"));
        assert_eq!(response.status(), 403);
        assert_eq!(
            response.headers()[WWW_AUTHENTICATE],
            r#"Bearer realm="tollbook", error="insufficient_scope", scope="debate:start""#
        );
        let body: Value = serde_json::from_slice(&error(&refusal, None, Timestamp(0))).unwrap();
        assert_eq!(body["error"]["code"], 40_304);
        assert_eq!(
            body["error"]["data"],
            json!({ "reason": "insufficient_scope", "scope": "debate:start" })
        );
    }

    #[test]
    fn a_key_that_is_refused_learns_nothing() {
        let response = refuse(&Refusal::Unauthorized, None);
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer realm=\"tollbook\"");
        let body: Value =
            serde_json::from_slice(&error(&Refusal::Unauthorized, None, Timestamp(0))).unwrap();
        assert_eq!(body["id"], Value::Null);
        assert_eq!(body["error"]["data"], json!({ "reason": "unauthorized" }));
    }
}
