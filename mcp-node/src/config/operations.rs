//! The settings of how the node keeps itself and its servers up, checked together.

use std::time::Duration;

use axum::http::Uri;
use mcp_node::upstream::UpstreamSettings;
use mcp_node_core::breaker::BreakerSettings;

use runtime::traces::TraceSettings;

use super::{ConfigError, File};

const DAY: u64 = 86_400_000;

/// How the server behind the node is used.
///
/// # Errors
/// Names the first that is out of its range.
pub(super) fn upstream(file: &File) -> Result<UpstreamSettings, ConfigError> {
    let (window_ms, open_ms) = (file.breaker_window_ms, file.breaker_open_ms);
    let max_open_ms = file.breaker_most_open_ms;
    let child = file.child_max_bytes;
    let ranges = [
        ("breaker_percent", (1..=100).contains(&file.breaker_percent), "1 to 100"),
        ("breaker_window_ms", (1_000..=DAY).contains(&window_ms), "1 s to a day"),
        ("breaker_open_ms", (10..=DAY).contains(&open_ms), "10 ms to a day"),
        (
            "breaker_most_open_ms",
            (open_ms..=DAY).contains(&max_open_ms),
            "from breaker_open_ms to a day",
        ),
        ("child_max_bytes", child == 0 || child >= 1 << 20, "at least 1 MiB, or 0"),
    ];
    if let Some((name, _, range)) = ranges.into_iter().find(|(_, within, _)| !within) {
        return Err(ConfigError::Range(name, range));
    }
    let (failures, percent) = (file.breaker_failures, file.breaker_percent);
    let breaker = BreakerSettings {
        failures,
        percent,
        window_ms,
        open_ms,
        max_open_ms,
        ..BreakerSettings::default()
    };
    Ok(UpstreamSettings {
        request_timeout: Duration::from_millis(file.request_timeout),
        max_answer_bytes: file.max_answer_size,
        session_idle: Duration::from_millis(file.session_idle_ms),
        max_sessions: file.max_sessions,
        breaker,
        max_child_bytes: (child > 0).then_some(child),
    })
}

/// Where spans go, and how many.
///
/// # Errors
/// That is no URL.
pub(super) fn traces(file: &mut File) -> Result<Option<TraceSettings>, ConfigError> {
    let Some(endpoint) = file.otlp_endpoint.take() else { return Ok(None) };
    let is_url =
        endpoint.parse::<Uri>().is_ok_and(|url| url.scheme().is_some() && url.host().is_some());
    if !is_url {
        return Err(ConfigError::NotAnUrl(endpoint));
    }
    Ok(Some(TraceSettings { endpoint, percent: file.trace_percent }))
}
