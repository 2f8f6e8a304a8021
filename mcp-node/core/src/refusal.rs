//! The deny contract: everything that the node itself answers instead of an upstream, in one place.
//!
//! Our codes are positive, three digits of HTTP status and two of our own: outside -32768..-32000, which JSON-RPC
//! and MCP keep for themselves. A code never changes its meaning. The table stands in `mcp-node/README.md` too,
//! and a test holds the two together.

use schemas::{
    LeaseRefusal, MeterName, Period, Quantity, RateLimits, RefusalReason, Scope, Timestamp,
};

use crate::{
    lease_book::{MeterDemand, units_of},
    rate_limit::TooFast,
    violations::BackoffWarning,
};

#[path = "refusal_text.rs"]
mod text;

/// Whose bound on calls was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitScope {
    Key,
    /// All keys of its tenant, on this node.
    Tenant,
    Connection,
}

impl LimitScope {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Tenant => "tenant",
            Self::Connection => "connection",
        }
    }
}

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
    /// The client's address is none of those that may call this node.
    AddressNotAllowed,
    /// Nothing is served at the path of the request.
    UnknownPath,
    /// No such session, or another key's: nobody is told which.
    SessionNotFound,
    /// The most bytes that a request may have.
    RequestTooLarge(usize),
    QuotaExhausted {
        meter: MeterName,
        limit: Quantity,
        scope: Scope,
        period: Period,
        /// What the refused call needs of the meter.
        needed: u64,
    },
    UnitsHeld {
        meter: MeterName,
        limit: Quantity,
        scope: Scope,
        period: Period,
        retry_ms: u64,
    },
    /// Other nodes hold all of the key's rate for the moment.
    RateHeld {
        /// The key's rate over all nodes, where it is known.
        per_minute: Option<u32>,
        retry_ms: u64,
    },
    /// Too many requests without a valid key came from the client's address.
    TooManyUnauthorized {
        retry_ms: u64,
    },
    /// Connections come faster from the client's address than they may.
    TooManyNewConnections {
        retry_ms: u64,
    },
    /// Calls come faster than `per_minute` allows.
    RateLimited {
        /// Over all nodes, if it is a key's.
        per_minute: u32,
        /// This node's share of a key's rate; `None` = it is not a key's, or nobody knows.
        node_per_minute: Option<u32>,
        retry_ms: u64,
        whose: LimitScope,
        /// What becomes of a key that does not wait; `None` = nothing.
        warning: Option<BackoffWarning>,
    },
    /// As many calls run as may run at the same time.
    TooManyRunning {
        /// Over all nodes, if it is a key's.
        max: u32,
        /// This node's share of a key's bound.
        node_max: Option<u32>,
        whose: LimitScope,
    },
    /// The key went on calling too fast, however long it was told to wait.
    Blocked {
        retry_ms: u64,
    },
    /// The upstream could not be reached, or broke off.
    UpstreamUnreachable,
    /// The upstream answered what is not MCP.
    UpstreamInvalid,
    /// The upstream compressed its answer though it was asked not to.
    UpstreamEncoded,
    /// The upstream sends requests to another place, which is not followed.
    UpstreamRedirects,
    /// Its child ended too often: the next is started later.
    UpstreamRestarting {
        retry_ms: u64,
    },
    /// It failed too often: it is not asked for a while.
    UpstreamUnavailable {
        retry_ms: u64,
    },
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

/// One row of the contract: status, code, reason, and what is said where `text` has nothing better.
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
            Self::AddressNotAllowed => Row(
                403,
                40_305,
                "address_not_allowed",
                "This client address may not call this node.",
            ),
            Self::UnknownPath => {
                Row(404, 40_402, "unknown_path", "Nothing is served at this path.")
            }
            Self::SessionNotFound => {
                Row(404, 40_401, "session_not_found", "No such session: initialize a new one.")
            }
            Self::RequestTooLarge(_) => {
                Row(413, 41_301, "request_too_large", "The request is too large.")
            }
            Self::QuotaExhausted { .. } => {
                Row(429, 42_901, "quota_exhausted", "A quota is used up.")
            }
            Self::UnitsHeld { .. } => {
                Row(429, 42_902, "units_held", "The rest of a quota is held elsewhere.")
            }
            Self::RateHeld { .. } => {
                Row(429, 42_904, "rate_held", "The key's rate is held elsewhere.")
            }
            Self::RateLimited { .. } => Row(429, 42_903, "rate_limited", "Calls come too fast."),
            Self::TooManyRunning { .. } => {
                Row(429, 42_905, "too_many_running", "Too many calls run at the same time.")
            }
            Self::Blocked { .. } => Row(429, 42_906, "blocked", "The key is blocked for a while."),
            Self::TooManyUnauthorized { .. } => Row(
                429,
                42_907,
                "too_many_unauthorized",
                "Too many requests without a valid API key came from this address.",
            ),
            Self::TooManyNewConnections { .. } => Row(
                429,
                42_908,
                "too_many_new_connections",
                "Connections from this address come too fast. Keep them open.",
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
            Self::UpstreamEncoded => Row(
                502,
                50_204,
                "upstream_encoded",
                "The server behind this gateway compressed its answer, though it was asked not to.",
            ),
            Self::UpstreamRedirects => Row(
                502,
                50_205,
                "upstream_redirects",
                "The server behind this gateway redirects to an address that is not followed.",
            ),
            Self::UpstreamRestarting { .. } => Row(
                502,
                50_203,
                "upstream_restarting",
                "The server behind this gateway does not stay up. It is started again later.",
            ),
            Self::UpstreamUnavailable { .. } => Row(
                503,
                50_308,
                "upstream_unavailable",
                "The server behind this gateway has failed too often. Retry later.",
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

    /// What the ledger's refusal becomes. `retry_ms` = how long it is believed; `needs` = what the call needs, and
    /// `rate` its key's, over all nodes.
    #[must_use]
    pub fn of_ledger(
        why: &LeaseRefusal,
        retry_ms: u64,
        needs: &[MeterDemand],
        rate: Option<RateLimits>,
    ) -> Self {
        match why.clone() {
            LeaseRefusal::QuotaExhausted { meter, limit, scope, period } => {
                let needed = units_of(needs, &meter);
                Self::QuotaExhausted { meter, limit, scope, period, needed }
            }
            LeaseRefusal::UnitsHeld { meter, limit, scope, period, .. } => {
                Self::UnitsHeld { meter, limit, scope, period, retry_ms }
            }
            LeaseRefusal::RateHeld { .. } => {
                Self::RateHeld { per_minute: rate.map(|rate| rate.per_minute), retry_ms }
            }
            LeaseRefusal::KeyNotActive => Self::KeyNotActive,
            LeaseRefusal::EpochEnded | LeaseRefusal::LeaseClosed => Self::LedgerUnreachable,
        }
    }

    /// What a call that comes too fast is told; `here` = what is allowed at this node, `whole` = at all of them.
    #[must_use]
    pub fn of_rate(why: TooFast, here: RateLimits, whole: RateLimits, whose: LimitScope) -> Self {
        let is_shared = whose == LimitScope::Key;
        match why {
            TooFast::Wait(retry_ms) => Self::RateLimited {
                per_minute: whole.per_minute,
                node_per_minute: is_shared.then_some(here.per_minute),
                retry_ms,
                whose,
                warning: None,
            },
            TooFast::Running => Self::TooManyRunning {
                max: whole.concurrent.or(here.concurrent).unwrap_or(u32::MAX),
                node_max: here.concurrent.filter(|_| is_shared),
                whose,
            },
        }
    }

    /// When to come back; `None` = coming back changes nothing, or nobody knows. Unit: milliseconds.
    #[must_use]
    pub fn retry_after_ms(&self, now: Timestamp) -> Option<u64> {
        match self {
            Self::QuotaExhausted { period, .. } => {
                Some(u64::try_from(period.to.ms_since(now)).unwrap_or(0).max(1_000))
            }
            Self::RateLimited { retry_ms, .. } | Self::Blocked { retry_ms } => Some(*retry_ms),
            Self::TooManyRunning { .. } => Some(1_000),
            Self::UnitsHeld { retry_ms, .. } | Self::RateHeld { retry_ms, .. } => Some(*retry_ms),
            Self::TooManyUnauthorized { retry_ms } | Self::TooManyNewConnections { retry_ms } => {
                Some(*retry_ms)
            }
            Self::LedgerUnreachable | Self::KeyNotActive | Self::Draining | Self::Starting => {
                Some(1_000)
            }
            Self::UpstreamRestarting { retry_ms } | Self::UpstreamUnavailable { retry_ms } => {
                Some(*retry_ms)
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
            Self::QuotaExhausted { limit, scope, period, .. }
            | Self::UnitsHeld { limit, scope, period, .. } => Some((*limit, *scope, *period)),
            _ => None,
        }
    }

    /// The meter of the limit that refused.
    #[must_use]
    pub fn meter(&self) -> Option<&MeterName> {
        match self {
            Self::QuotaExhausted { meter, .. } | Self::UnitsHeld { meter, .. } => Some(meter),
            _ => None,
        }
    }

    /// As what a refused call of a known key is recorded; `None` = it is not.
    #[must_use]
    pub fn recorded_as(&self) -> Option<RefusalReason> {
        match self {
            Self::QuotaExhausted { .. } => Some(RefusalReason::QuotaExhausted),
            Self::UnitsHeld { .. } => Some(RefusalReason::UnitsHeld),
            Self::RateLimited { .. }
            | Self::TooManyRunning { .. }
            | Self::Blocked { .. }
            | Self::RateHeld { .. } => Some(RefusalReason::RateLimited),
            Self::LedgerUnreachable => Some(RefusalReason::LedgerUnreachable),
            Self::CannotRecord => Some(RefusalReason::CannotRecord),
            Self::ToolNotAllowed | Self::InsufficientScope(_) => {
                Some(RefusalReason::ToolNotAllowed)
            }
            Self::UpstreamUnavailable { .. } | Self::UpstreamRestarting { .. } => {
                Some(RefusalReason::UpstreamUnavailable)
            }
            Self::KeyExpired | Self::KeyPending(_) | Self::KeySuspended(_) | Self::KeyNotActive => {
                Some(RefusalReason::KeyNotActive)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
