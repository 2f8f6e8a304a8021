//! What a meter can be told about how much calls count for, how many may come, and how callers hear of it.

use mcp_node_core::{metering::Metering, violations::Backoff};
use schemas::RateLimits;

/// How the meter counts, bounds and tells; what is not said has its default.
#[derive(Clone, Debug, PartialEq)]
pub struct MeterSettings {
    /// Whether the results of limited keys say in `_meta` what is left, besides their headers.
    pub quota_meta: bool,
    /// Whether a call that may not come now is told so by a result that failed, instead of an error.
    pub refuse_by_results: bool,
    /// What tools weigh, and the meters besides `tool_calls`.
    pub metering: Metering,
    /// Bounds on the calls of all keys of one tenant, on this node.
    pub tenant: Option<RateLimits>,
    /// Bounds on the calls of one connection.
    pub connection: Option<RateLimits>,
    /// What becomes of keys that do not keep to their rate.
    pub backoff: Backoff,
    /// The most tasks of one key at one server whose results were not counted yet: the next counts when it is made.
    pub max_open_tasks: u32,
}

impl Default for MeterSettings {
    fn default() -> Self {
        Self {
            quota_meta: true,
            refuse_by_results: false,
            metering: Metering::default(),
            tenant: None,
            connection: None,
            backoff: Backoff::default(),
            max_open_tasks: 100,
        }
    }
}
