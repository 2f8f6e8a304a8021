//! The deny contract: everything that the node itself answers instead of an upstream, in one place.
//!
//! Our codes are positive, three digits of HTTP status and two of our own: outside -32768..-32000, which JSON-RPC
//! and MCP keep for themselves. A code never changes its meaning. The table stands in `mcp-node/README.md` too,
//! and a test holds the two together.

use schemas::{LeaseRefusal, Period, Quantity, RateLimits, RefusalReason, Scope, Timestamp};

use crate::rate_limit::TooFast;

/// What the node answers on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not JSON, or not UTF-8.
    NotJson,
    /// JSON, but no JSON-RPC message that MCP allows; in words.
    InvalidRequest(&'static str),
    /// `tools/call` without a tool's name.
    InvalidParams(&'static str),
    /// A header that mirrors the body says something else than the body.
    HeaderMismatch(&'static str),
    /// The node does not speak the protocol version that the client asked for, which is this.
    UnsupportedVersion(String),
    /// The method is none of the revision that the client speaks.
    MethodNotFound,
    /// No key, a malformed, unknown or revoked one: nobody is told which.
    Unauthorized,
    KeyExpired,
    /// Its tenant has not subscribed yet; the reason in words, perhaps empty.
    KeyPending(String),
    /// Its tenant's access is suspended; the reason in words, perhaps empty.
    KeySuspended(String),
    /// The ledger refuses the key, and its state is on the way.
    KeyNotActive,
    ToolNotAllowed,
    /// The tool needs this scope, which the caller does not hold.
    InsufficientScope(String),
    OriginNotAllowed,
    /// The request came to this node by a name that is not its own.
    HostNotAllowed,
    /// No such session, or another key's: nobody is told which.
    SessionNotFound,
    /// The most bytes that a request may have.
    RequestTooLarge(usize),
    QuotaExhausted {
        limit: Quantity,
        scope: Scope,
        period: Period,
    },
    UnitsHeld {
        limit: Quantity,
        scope: Scope,
        period: Period,
        retry_ms: u64,
    },
    /// Other nodes hold all of the key's rate for the moment.
    RateHeld {
        retry_ms: u64,
    },
    /// Calls of this key come faster than its rate allows; `limit` calls a minute.
    RateLimited {
        per_minute: u32,
        retry_ms: u64,
    },
    /// As many calls of this key run as may run at the same time.
    TooManyRunning(u32),
    /// The upstream could not be reached, or broke off.
    UpstreamUnreachable,
    /// The upstream answered what is not MCP.
    UpstreamInvalid,
    /// No lease could be had in time.
    LedgerUnreachable,
    /// The spool is full or broken.
    CannotRecord,
    /// The node is stopping.
    Draining,
    /// The node has not loaded its keys yet.
    Starting,
    TooManySessions,
    TooManyConnections,
    /// The issuer's keys are not known yet: its tokens cannot be checked.
    IssuerUnreachable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
}

/// One row of the contract.
struct Row(u16, i64, &'static str, &'static str);

impl Refusal {
    fn row(&self) -> Row {
        match self {
            Self::NotJson => Row(400, -32700, "parse_error", "The body is not JSON."),
            Self::InvalidRequest(what) => Row(400, -32600, "invalid_request", what),
            Self::InvalidParams(what) => Row(400, -32602, "invalid_params", what),
            Self::HeaderMismatch(what) => Row(400, -32020, "header_mismatch", what),
            Self::UnsupportedVersion(_) => Row(
                400,
                -32022,
                "unsupported_version",
                "This server does not speak that protocol version.",
            ),
            Self::MethodNotFound => {
                Row(404, -32601, "method_not_found", "There is no such method.")
            }
            Self::Unauthorized => Row(401, 40_101, "unauthorized", "A valid API key is required."),
            Self::KeyExpired => Row(401, 40_102, "key_expired", "The API key has expired."),
            Self::KeyPending(_) => {
                Row(402, 40_201, "key_pending", "The API key waits for a subscription.")
            }
            Self::KeySuspended(_) => Row(402, 40_202, "key_suspended", "Access is suspended."),
            Self::KeyNotActive => Row(402, 40_203, "key_not_active", "The API key is not active."),
            Self::ToolNotAllowed => {
                Row(403, 40_301, "tool_not_allowed", "The API key may not call this tool.")
            }
            Self::InsufficientScope(_) => Row(
                403,
                40_304,
                "insufficient_scope",
                "The API key or token lacks the scope that this tool needs.",
            ),
            Self::OriginNotAllowed => {
                Row(403, 40_302, "origin_not_allowed", "This origin is not allowed.")
            }
            Self::HostNotAllowed => {
                Row(403, 40_303, "host_not_allowed", "This host name is not allowed.")
            }
            Self::SessionNotFound => {
                Row(404, 40_401, "session_not_found", "No such session: initialize a new one.")
            }
            Self::RequestTooLarge(_) => {
                Row(413, 41_301, "request_too_large", "The request is too large.")
            }
            Self::QuotaExhausted { .. } => Row(
                429,
                42_901,
                "quota_exhausted",
                "The quota of tool calls is used up. Do not retry before it resets.",
            ),
            Self::UnitsHeld { .. } => Row(
                429,
                42_902,
                "units_held",
                "The rest of the quota is held elsewhere for a moment. Retry later.",
            ),
            Self::RateHeld { .. } => Row(
                429,
                42_904,
                "rate_held",
                "The key's rate is held elsewhere for a moment. Retry later.",
            ),
            Self::RateLimited { .. } => {
                Row(429, 42_903, "rate_limited", "Calls come too fast. Wait before the next one.")
            }
            Self::TooManyRunning(_) => Row(
                429,
                42_905,
                "too_many_running",
                "Too many calls run at the same time. Wait until one ends.",
            ),
            Self::UpstreamUnreachable => Row(
                502,
                50_201,
                "upstream_unreachable",
                "The server behind this gateway could not be reached.",
            ),
            Self::UpstreamInvalid => Row(
                502,
                50_202,
                "upstream_invalid",
                "The server behind this gateway gave no valid answer.",
            ),
            Self::LedgerUnreachable => Row(
                503,
                50_301,
                "ledger_unreachable",
                "The quota cannot be checked now. Retry later.",
            ),
            Self::CannotRecord => {
                Row(503, 50_302, "cannot_record", "Calls cannot be recorded now. Retry later.")
            }
            Self::Draining => {
                Row(503, 50_303, "draining", "This node is stopping. Retry elsewhere or later.")
            }
            Self::Starting => Row(503, 50_305, "starting", "This node is starting. Retry later."),
            Self::TooManySessions => {
                Row(503, 50_304, "too_many_sessions", "Too many sessions are open. Retry later.")
            }
            Self::TooManyConnections => Row(
                503,
                50_306,
                "too_many_connections",
                "Too many connections are open. Retry later.",
            ),
            Self::IssuerUnreachable => {
                Row(503, 50_307, "issuer_unreachable", "Tokens cannot be checked now. Retry later.")
            }
            Self::UpstreamTimeout => Row(
                504,
                50_401,
                "upstream_timeout",
                "The server behind this gateway did not answer in time.",
            ),
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.row().0
    }

    /// The JSON-RPC error code.
    #[must_use]
    pub fn code(&self) -> i64 {
        self.row().1
    }

    /// The reason as a stable slug.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.row().2
    }

    /// One sentence for a person or a model.
    #[must_use]
    pub fn message(&self) -> &'static str {
        self.row().3
    }

    /// What the ledger's refusal becomes. `retry_ms` = how long it is believed.
    #[must_use]
    pub fn of_ledger(why: &LeaseRefusal, retry_ms: u64) -> Self {
        match *why {
            LeaseRefusal::QuotaExhausted { limit, scope, period, .. } => {
                Self::QuotaExhausted { limit, scope, period }
            }
            LeaseRefusal::UnitsHeld { limit, scope, period, .. } => {
                Self::UnitsHeld { limit, scope, period, retry_ms }
            }
            LeaseRefusal::RateHeld { .. } => Self::RateHeld { retry_ms },
            LeaseRefusal::KeyNotActive => Self::KeyNotActive,
            LeaseRefusal::EpochEnded | LeaseRefusal::LeaseClosed => Self::LedgerUnreachable,
        }
    }

    /// What a call that comes too fast is told; `limits` = this node's share of the key's rate.
    #[must_use]
    pub fn of_rate(why: TooFast, limits: RateLimits) -> Self {
        match why {
            TooFast::Wait(retry_ms) => {
                Self::RateLimited { per_minute: limits.per_minute, retry_ms }
            }
            TooFast::Running => Self::TooManyRunning(limits.concurrent.unwrap_or(u32::MAX)),
        }
    }

    /// When to come back; `None` = coming back changes nothing, or nobody knows. Unit: milliseconds.
    #[must_use]
    pub fn retry_after_ms(&self, now: Timestamp) -> Option<u64> {
        match self {
            Self::QuotaExhausted { period, .. } => {
                Some(u64::try_from(period.to.ms_since(now)).unwrap_or(0).max(1_000))
            }
            Self::RateLimited { retry_ms, .. } => Some(*retry_ms),
            Self::TooManyRunning(_) => Some(1_000),
            Self::UnitsHeld { retry_ms, .. } | Self::RateHeld { retry_ms } => Some(*retry_ms),
            Self::LedgerUnreachable | Self::KeyNotActive | Self::Draining | Self::Starting => {
                Some(1_000)
            }
            Self::IssuerUnreachable => Some(5_000),
            Self::CannotRecord | Self::TooManySessions | Self::TooManyConnections => Some(10_000),
            _ => None,
        }
    }

    /// The limit that refused: how much, whose, in which period.
    #[must_use]
    pub fn limit(&self) -> Option<(Quantity, Scope, Period)> {
        match self {
            Self::QuotaExhausted { limit, scope, period }
            | Self::UnitsHeld { limit, scope, period, .. } => Some((*limit, *scope, *period)),
            _ => None,
        }
    }

    /// As what a refused call of a known key is recorded; `None` = it is not.
    #[must_use]
    pub fn recorded_as(&self) -> Option<RefusalReason> {
        match self {
            Self::QuotaExhausted { .. } => Some(RefusalReason::QuotaExhausted),
            Self::UnitsHeld { .. } => Some(RefusalReason::UnitsHeld),
            Self::RateLimited { .. } | Self::TooManyRunning(_) => Some(RefusalReason::RateLimited),
            Self::RateHeld { .. } => Some(RefusalReason::RateLimited),
            Self::LedgerUnreachable => Some(RefusalReason::LedgerUnreachable),
            Self::CannotRecord => Some(RefusalReason::CannotRecord),
            Self::ToolNotAllowed | Self::InsufficientScope(_) => {
                Some(RefusalReason::ToolNotAllowed)
            }
            Self::KeyExpired | Self::KeyPending(_) | Self::KeySuspended(_) | Self::KeyNotActive => {
                Some(RefusalReason::KeyNotActive)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::{MeterName, TenantId};
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
            Refusal::SessionNotFound,
            Refusal::RequestTooLarge(1),
            Refusal::QuotaExhausted { limit, scope, period },
            Refusal::UnitsHeld { limit, scope, period, retry_ms: 7 },
            Refusal::RateHeld { retry_ms: 7 },
            Refusal::RateLimited { per_minute: 60, retry_ms: 7 },
            Refusal::TooManyRunning(2),
            Refusal::UpstreamUnreachable,
            Refusal::UpstreamInvalid,
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
            let row =
                format!("| {} | {} | `{}` |", refusal.status(), refusal.code(), refusal.reason());
            assert!(readme.contains(&row), "README.md of mcp-node has no row `{row}`");
        }
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
        assert_eq!(
            refusal.retry_after_ms(Timestamp(70_000)),
            Some(1_000),
            "a clock that runs ahead"
        );
        assert_eq!(refusal.limit(), Some((Quantity(3), scope, period)));
    }
}
