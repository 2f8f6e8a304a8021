//! The deny contract as a whole, and what some of its words come to.

use schemas::TenantId;
use uuid::Uuid;

use super::*;

fn all() -> Vec<Refusal> {
    let scope = Scope::Tenant(TenantId(Uuid::nil()));
    let period = Period { from: Timestamp(0), to: Timestamp(5_000) };
    let limit = Quantity(9);
    vec![
        Refusal::NotJson,
        Refusal::InvalidRequest("what"),
        Refusal::InvalidParams("what"),
        Refusal::HeaderMismatch("what"),
        Refusal::UnsupportedVersion(String::new()),
        Refusal::MethodNotFound,
        Refusal::Unauthorized,
        Refusal::KeyExpired,
        Refusal::KeyPending(String::new()),
        Refusal::KeySuspended(String::new()),
        Refusal::KeyNotActive,
        Refusal::ToolNotAllowed,
        Refusal::InsufficientScope(String::new()),
        Refusal::OriginNotAllowed,
        Refusal::HostNotAllowed,
        Refusal::AddressNotAllowed,
        Refusal::UnknownPath,
        Refusal::SessionNotFound,
        Refusal::RequestTooLarge(1),
        Refusal::QuotaExhausted { meter: MeterName::tool_calls(), limit, scope, period },
        Refusal::UnitsHeld { meter: MeterName::tool_calls(), limit, scope, period, retry_ms: 7 },
        Refusal::TooManyUnauthorized { retry_ms: 7 },
        Refusal::TooManyNewConnections { retry_ms: 7 },
        Refusal::RateHeld { retry_ms: 7 },
        Refusal::RateLimited { per_minute: 60, retry_ms: 7, whose: Whose::Key, step: 0 },
        Refusal::TooManyRunning { most: 2, whose: Whose::Tenant },
        Refusal::Blocked { retry_ms: 7 },
        Refusal::UpstreamUnreachable,
        Refusal::UpstreamInvalid,
        Refusal::UpstreamEncoded,
        Refusal::UpstreamRedirects,
        Refusal::UpstreamRestarting { retry_ms: 7 },
        Refusal::UpstreamUnavailable { retry_ms: 7 },
        Refusal::LedgerUnreachable,
        Refusal::CannotRecord,
        Refusal::Draining,
        Refusal::Starting,
        Refusal::TooManySessions,
        Refusal::TooManyConnections,
        Refusal::IssuerUnreachable,
        Refusal::UpstreamTimeout,
    ]
}

#[test]
fn our_codes_lie_outside_what_is_reserved_and_begin_with_their_status() {
    for refusal in all() {
        let (code, status) = (refusal.code(), i64::from(refusal.status()));
        let standard = [-32700, -32600, -32601, -32602, -32020, -32022].contains(&code);
        assert!(standard || code / 100 == status, "{refusal:?}: {code}");
    }
    let mut codes: Vec<i64> = all().iter().map(Refusal::code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), all().len(), "one code, one meaning");
}

#[test]
fn the_readme_has_a_row_for_every_refusal() {
    let readme = include_str!("../../README.md");
    for refusal in all() {
        let row = format!("| {} | {} | `{}` |", refusal.status(), refusal.code(), refusal.reason());
        assert!(readme.contains(&row), "README.md of mcp-node has no row `{row}`");
    }
}

#[test]
fn a_model_is_told_what_to_do() {
    let now = Timestamp(0);
    for refusal in all() {
        let advice = refusal.advice(now);
        assert!(advice.starts_with("The tool was not called"), "{advice}");
        let waits = refusal.retry_after_ms(now).is_some();
        let says = advice.contains("Wait ") || advice.contains("before then");
        assert!(says || !waits, "{advice}");
    }
    let slow = Refusal::RateLimited { per_minute: 6, retry_ms: 9_001, whose: Whose::Key, step: 0 };
    assert!(slow.advice(now).ends_with("Wait 10 s before you call it again."));
}

#[test]
fn an_exhausted_quota_comes_back_when_its_period_ends() {
    let period = Period { from: Timestamp(0), to: Timestamp(60_000) };
    let scope = Scope::Tenant(TenantId(Uuid::nil()));
    let why = LeaseRefusal::QuotaExhausted {
        meter: MeterName::tool_calls(),
        scope,
        limit: Quantity(3),
        period,
    };
    let refusal = Refusal::of_ledger(&why, 60_000);
    assert_eq!(refusal.status(), 429);
    assert_eq!(refusal.retry_after_ms(Timestamp(10_000)), Some(50_000));
    assert_eq!(refusal.retry_after_ms(Timestamp(70_000)), Some(1_000), "a clock that runs ahead");
    assert_eq!(refusal.limit(), Some((Quantity(3), scope, period)));
}
