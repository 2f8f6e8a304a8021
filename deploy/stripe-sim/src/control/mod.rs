//! The tester's side, under `/_sim/`: what happens at Stripe without a call of ours, faults, the clock, and what Stripe knows.
//!
//! JSON in and out, no key, no idempotency, not in the journal. It listens on loopback like everything else here.

mod act;
mod look;
mod portal;
mod time;

use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;

/// The routes below `/_sim`.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(look::health))
        .route("/journal", get(look::journal))
        .route("/deliveries", get(look::deliveries))
        .route("/meter_events", get(look::meter_events))
        .route("/meters/totals", get(look::totals))
        .route("/faults", get(look::faults).post(act::order_faults).delete(act::clear_faults))
        .route("/clock", get(time::clock).post(time::set_clock))
        .route("/event_destinations", post(act::register_destination))
        .route("/webhook_endpoints/{id}/roll", post(act::roll_secret))
        .route("/portal/sessions/{id}", get(portal::page))
        .route("/portal/sessions/{id}/{act}", post(portal::press))
        .route("/agenda", get(time::agenda))
        .route("/settings", get(time::settings).post(time::change_settings))
        .route("/customers/{id}/card", get(time::card).post(time::set_card))
        .route("/checkout/sessions/{id}", get(look::checkout_page))
        .route("/checkout/sessions/{id}/complete", post(act::complete_checkout))
        .route("/checkout/sessions/{id}/pay", post(act::pay_on_page))
        .route("/subscriptions/{id}/status", post(act::set_subscription_status))
        .fallback(async || ControlError::new(StatusCode::NOT_FOUND, "no such control path"))
}

/// A refusal of the control side: `{"error": "text"}`.
#[derive(Debug)]
struct ControlError {
    status: StatusCode,
    text: String,
}

impl ControlError {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.text }))).into_response()
    }
}

impl From<ApiError> for ControlError {
    fn from(error: ApiError) -> Self {
        let status = StatusCode::from_u16(error.status).expect("only valid statuses are made");
        Self::new(status, error.message)
    }
}

impl From<JsonRejection> for ControlError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ControlError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}
