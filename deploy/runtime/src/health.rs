//! `/health` (the process lives), `/ready` (it can do its work, or says what it waits for), `/metrics` (Prometheus).

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use chrono::{DateTime, SecondsFormat, Utc};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Unit: seconds. From what a node adds to a call to the longest patience with one.
const DURATIONS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
/// Unit: seconds.
const LIFETIMES: [f64; 9] = [0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];
/// Unit: bytes.
const SIZES: [f64; 9] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];
/// How often what histograms were told is summed up.
const UPKEEP: Duration = Duration::from_secs(5);

/// What a process says about itself: the parts that it waits for, and those that it does without; ready when it waits
/// for none.
#[derive(Clone)]
pub struct Health {
    parts: Arc<watch::Sender<BTreeMap<&'static str, Part>>>,
}

/// A part that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    reason: String,
    since: SystemTime,
    /// The process does its work without it.
    is_degraded: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self { parts: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
}

impl Health {
    /// Not ready because of `part`, for this reason, until [`Health::ready`] is said of it.
    pub fn wait_for(&self, part: &'static str, reason: impl Into<String>) {
        self.missing(part, reason.into(), false);
    }

    /// Ready, though `part` is missing, for this reason, until [`Health::ready`] is said of it.
    pub fn degraded(&self, part: &'static str, reason: impl Into<String>) {
        self.missing(part, reason.into(), true);
    }

    fn missing(&self, part: &'static str, reason: String, is_degraded: bool) {
        self.parts.send_modify(|parts| {
            // A part that has been missing in another way is missing since then.
            let since = parts.get(part).map_or_else(SystemTime::now, |known| known.since);
            parts.insert(part, Part { reason, since, is_degraded });
        });
    }

    /// `part` is no reason to wait any more.
    pub fn ready(&self, part: &'static str) {
        self.parts.send_if_modified(|parts| parts.remove(part).is_some());
    }

    /// Whether nothing is waited for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.parts.borrow().values().all(|part| part.is_degraded)
    }

    /// The three routes, to be merged into a process's router.
    pub fn router(&self) -> Router {
        let health = self.clone();
        let prometheus = recorder();
        Router::new()
            .route("/health", get(|| async { Json(json!({ "status": "alive" })) }))
            .route("/ready", get(move || async move { health.answer() }))
            .route("/metrics", get(move || async move { prometheus.render() }))
    }

    fn answer(&self) -> impl IntoResponse + use<> {
        let (ready, body) = (self.is_ready(), self.report());
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(body))
    }

    /// `ready`, the reasons by part (`waits_for`, `degraded`), and since when each part is missing.
    fn report(&self) -> Value {
        let parts = self.parts.borrow().clone();
        let reasons = |is_degraded| {
            let parts = parts.iter().filter(|(_, part)| part.is_degraded == is_degraded);
            parts.map(|(name, part)| (*name, part.reason.as_str())).collect::<BTreeMap<_, _>>()
        };
        let since = parts.iter().map(|(name, part)| (*name, utc(part.since)));
        json!({
            "ready": parts.values().all(|part| part.is_degraded),
            "waits_for": reasons(false),
            "degraded": reasons(true),
            "since": since.collect::<BTreeMap<_, _>>(),
        })
    }
}

/// To the second, as RFC 3339 writes it.
fn utc(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Histograms have buckets by what their names end in; others are summaries.
fn with_buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    let buckets: [(Matcher, &[f64]); 3] = [
        (Matcher::Suffix("_duration_seconds".into()), &DURATIONS),
        (Matcher::Suffix("_size_bytes".into()), &SIZES),
        (Matcher::Suffix("_connection_duration_seconds".into()), &LIFETIMES),
    ];
    buckets.into_iter().fold(builder, |builder, (names, buckets)| {
        builder.set_buckets_for_metric(names, buckets).expect("there are buckets")
    })
}

/// Sums up what histograms were told, which is kept one by one until then, also where nobody reads `/metrics`.
fn keep_up(handle: PrometheusHandle) {
    let run = move || loop {
        std::thread::sleep(UPKEEP);
        handle.run_upkeep();
    };
    if let Err(error) = std::thread::Builder::new().name("metrics".into()).spawn(run) {
        tracing::warn!(%error, "Histograms are summed up only when /metrics is read");
    }
}

/// The process's one recorder of metrics; installed at first use.
fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let recorder = with_buckets(PrometheusBuilder::new()).build_recorder();
        let handle = recorder.handle();
        keep_up(handle.clone());
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::error!(
                "Another recorder of metrics was installed first: /metrics stays empty"
            );
        }
        handle
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_missing_since_the_first_word_of_it() {
        let health = Health::default();
        let empty = json!({ "ready": true, "waits_for": {}, "degraded": {}, "since": {} });
        assert_eq!(health.report(), empty);
        health.degraded("log", "away");
        let first = health.report();
        assert_eq!(
            (&first["ready"], &first["degraded"]),
            (&json!(true), &json!({ "log": "away" }))
        );
        assert!(health.is_ready());
        let since = SystemTime::now() - std::time::Duration::from_secs(3_600);
        health.parts.send_modify(|parts| parts.get_mut("log").unwrap().since = since);
        health.wait_for("log", "away for long");
        let second = health.report();
        assert!(!health.is_ready());
        assert_eq!((&second["ready"], &second["degraded"]), (&json!(false), &json!({})));
        assert_eq!(second["waits_for"], json!({ "log": "away for long" }));
        assert_eq!(second["since"], json!({ "log": utc(since) }), "{first}");
        health.ready("log");
        assert_eq!(health.report(), empty);
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_796_079_600_500);
        assert_eq!(utc(time), "2026-11-30T23:00:00Z");
    }
}
