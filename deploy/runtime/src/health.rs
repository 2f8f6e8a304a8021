//! `/health` (the process lives), `/ready` (it can do its work, or says what it waits for), `/metrics` (Prometheus).

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::watch;

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

/// The process's one recorder of metrics; installed at first use.
fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::error!(
                "Another recorder of metrics was installed first: /metrics stays empty"
            );
        }
        handle
    })
}
