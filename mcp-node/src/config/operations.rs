//! The settings of how the node keeps itself and its servers up, checked together.

use std::time::Duration;

use axum::http::Uri;
use mcp_node::upstream::UpstreamSettings;
use mcp_node_core::breaker::BreakerSettings;

use runtime::traces::TraceSettings;

use super::{ConfigError, Settings};

/// How the server behind the node is used.
///
/// # Errors
/// Names the first that is out of its range.
pub(super) fn upstream(settings: &Settings) -> Result<UpstreamSettings, ConfigError> {
    let (window_ms, open_ms) = (settings.breaker_window_ms, settings.breaker_open_ms);
    let max_open_ms = settings.breaker_most_open_ms;
    let child = settings.child_max_bytes;
    if max_open_ms < open_ms {
        return Err(ConfigError::Range("breaker_most_open_ms", "from breaker_open_ms to a day"));
    }
    if (1..1 << 20).contains(&child) {
        return Err(ConfigError::Range("child_max_bytes", "at least 1 MiB, or 0"));
    }
    let (failures, percent) = (settings.breaker_failures, settings.breaker_percent);
    let breaker = BreakerSettings {
        failures,
        percent,
        window_ms,
        open_ms,
        max_open_ms,
        ..BreakerSettings::default()
    };
    Ok(UpstreamSettings {
        request_timeout: Duration::from_millis(settings.request_timeout),
        max_answer_bytes: settings.max_answer_size,
        session_idle: Duration::from_millis(settings.session_idle_ms),
        max_sessions: settings.max_sessions,
        breaker,
        max_child_bytes: (child > 0).then_some(child),
    })
}

/// Where spans go, and how many.
///
/// # Errors
/// That is no URL.
pub(super) fn traces(settings: &mut Settings) -> Result<Option<TraceSettings>, ConfigError> {
    let Some(endpoint) = settings.otlp_endpoint.take() else { return Ok(None) };
    let is_url =
        endpoint.parse::<Uri>().is_ok_and(|url| url.scheme().is_some() && url.host().is_some());
    if !is_url {
        return Err(ConfigError::NotAnUrl(endpoint));
    }
    Ok(Some(TraceSettings { endpoint, percent: settings.trace_percent }))
}
