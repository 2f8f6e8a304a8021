//! The deny contract as a whole, and what some of its words come to.

use schemas::TenantId;
use uuid::Uuid;

use super::*;

fn limited(warning: Option<BackoffWarning>) -> Refusal {
    let (per_minute, node_per_minute) = (60, Some(30));
    Refusal::RateLimited {
        per_minute,
        node_per_minute,
        retry_ms: 1_500,
        whose: LimitScope::Key,
        warning,
    }
}

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
        Refusal::QuotaExhausted { meter: MeterName::tool_calls(), limit, scope, period, needed: 1 },
        Refusal::UnitsHeld { meter: MeterName::tool_calls(), limit, scope, period, retry_ms: 7 },
        Refusal::TooManyUnauthorized { retry_ms: 7 },
        Refusal::TooManyNewConnections { retry_ms: 7 },
        Refusal::RateHeld { per_minute: None, retry_ms: 7 },
        limited(None),
        Refusal::TooManyRunning { max: 2, node_max: None, whose: LimitScope::Tenant },
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
    assert!(limited(None).advice(now).ends_with("Wait 2 s before you call it again."));
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
    let refusal = Refusal::of_ledger(&why, 60_000, &crate::lease_book::one_call(), None);
    assert_eq!(refusal.status(), 429);
    assert_eq!(refusal.retry_after_ms(Timestamp(10_000)), Some(50_000));
    assert_eq!(refusal.retry_after_ms(Timestamp(70_000)), Some(1_000), "a clock that runs ahead");
    assert_eq!(refusal.limit(), Some((Quantity(3), scope, period)));
}

/// 30 Nov 2026, 23:00 UTC: midnight in Berlin.
const MIDNIGHT: Timestamp = Timestamp(1_796_079_600_000);

#[test]
fn a_spent_quota_is_told_in_words() {
    #[track_caller]
    fn check(scope: Scope, meter: &str, days: i64, needed: u64, text: &str) {
        let period = Period { from: MIDNIGHT.plus_ms(-days * 86_400_000), to: MIDNIGHT };
        let (meter, limit) = (meter.parse().unwrap(), Quantity(12));
        let refusal = Refusal::QuotaExhausted { meter, limit, scope, period, needed };
        assert_eq!(refusal.message(Timestamp(0)), text);
        let advice = refusal.advice(Timestamp(0));
        assert!(advice.starts_with(&format!("The tool was not called. {text} ")), "{advice}");
    }
    let key = Scope::Key(schemas::KeyId(Uuid::nil()));
    let tenant = Scope::Tenant(TenantId(Uuid::nil()));
    let project = Scope::Project(schemas::ProjectId(Uuid::nil()));
    let resets = "resets 30 Nov 23:00 UTC";
    check(
        key,
        "tool_calls",
        1,
        1,
        &format!("12 of 12 calls of this key used; {resets} (daily quota)."),
    );
    let text = format!("12 of 12 calls of this tenant used; {resets} (monthly quota).");
    check(tenant, "tool_calls", 30, 1, &text);
    let text = format!("12 of 12 tokens of this project used; {resets} (quota of a period).");
    check(project, "tokens", 365, 1, &text);
    let text = format!(
        "This call needs 5 calls, and fewer than that are left of 12 calls of this key; {resets} (daily quota)."
    );
    check(key, "tool_calls", 1, 5, &text);
}

#[test]
fn what_can_be_waited_for_is_told_in_words() {
    #[track_caller]
    fn check(refusal: &Refusal, text: &str) {
        assert_eq!(refusal.message(MIDNIGHT.plus_ms(-500)), text);
    }
    let (scope, limit) = (Scope::Tenant(TenantId(Uuid::nil())), Quantity(12));
    let period = Period { from: Timestamp(0), to: MIDNIGHT.plus_ms(1) };
    let meter = MeterName::tool_calls();
    check(
        &Refusal::UnitsHeld { meter, limit, scope, period, retry_ms: 1_001 },
        "What is left of 12 calls of this tenant is held by other nodes or keys; retry in 2 s. \
         The quota resets 30 Nov 23:00:01 UTC (quota of a period).",
    );
    check(
        &Refusal::RateHeld { per_minute: Some(60), retry_ms: 500 },
        "Other nodes hold all of the 60 calls a minute of this key; retry in 1 s.",
    );
    check(
        &limited(None),
        "More than 60 calls a minute of this key (30 of them at this node, which shares the rate with others); wait 2 s.",
    );
    check(
        &Refusal::of_rate(
            TooFast::Wait(900),
            RateLimits { per_minute: 60, burst: 1, concurrent: None },
            RateLimits { per_minute: 60, burst: 1, concurrent: None },
            LimitScope::Connection,
        ),
        "More than 60 calls a minute of this connection; wait 1 s.",
    );
    check(
        &Refusal::TooManyRunning { max: 4, node_max: Some(2), whose: LimitScope::Key },
        "2 calls of this key run at this node, its share of the 4 that may run at the same time; wait until one ends.",
    );
    check(
        &Refusal::TooManyRunning { max: 4, node_max: None, whose: LimitScope::Tenant },
        "4 of 4 calls of this tenant that may run at the same time are running; wait until one ends.",
    );
    check(
        &Refusal::Blocked { retry_ms: 60_500 },
        "This key is blocked until 30 Nov 23:01 UTC since it went on calling before its waits were over; wait 61 s.",
    );
}

#[test]
fn a_key_reads_what_follows_before_it_does() {
    let warning = BackoffWarning {
        violations: 4,
        after: 10,
        window_ms: 60_000,
        step: 0,
        steps: 3,
        block_ms: 60_000,
    };
    let text = limited(Some(warning)).message(MIDNIGHT).into_owned();
    let says = "10 calls before that within 60 s (so far 4) double the wait, \
                and after 3 such steps the key is blocked for 60 s.";
    assert!(text.ends_with(says), "{text}");
    let last = BackoffWarning { step: 3, ..warning };
    let text = limited(Some(last)).message(MIDNIGHT).into_owned();
    assert!(text.contains("(step 3 of 3)"), "{text}");
    assert!(text.ends_with("(so far 4) block the key for 60 s."), "{text}");
}
