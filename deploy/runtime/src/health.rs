//! `/health` (the process lives), `/ready` (it can do its work, or says what it waits for), `/metrics` (Prometheus).

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
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

/// What a process says about itself: a set of things it waits for; ready when there are none.
#[derive(Clone)]
pub struct Health {
    waits: Arc<watch::Sender<BTreeMap<&'static str, String>>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { waits: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
}

impl Health {
    /// Not ready because of `part`, for this reason, until [`Health::ready`] is said of it.
    pub fn wait_for(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        self.waits.send_modify(|waits| {
            waits.insert(part, reason);
        });
    }

    /// `part` is no reason to wait any more.
    pub fn ready(&self, part: &'static str) {
        self.waits.send_if_modified(|waits| waits.remove(part).is_some());
    }

    /// Whether nothing is waited for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.waits.borrow().is_empty()
    }

    /// The three routes, to be merged into a process's router.
    pub fn router(&self) -> Router {
        let health = self.clone();
        let prometheus = recorder();
        Router::new()
            .route("/health", get(|| async { Json(serde_json::json!({ "status": "alive" })) }))
            .route("/ready", get(move || async move { health.answer() }))
            .route("/metrics", get(move || async move { prometheus.render() }))
    }

    fn answer(&self) -> impl IntoResponse + use<> {
        let waits = self.waits.borrow().clone();
        let status =
            if waits.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(serde_json::json!({ "ready": waits.is_empty(), "waits_for": waits })))
    }
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
