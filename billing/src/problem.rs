//! Every answer of billing's HTTP except success: problem+json (RFC 9457), with a slug that never changes its meaning.

use std::error::Error;

use axum::{
    Json,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use schemas::TenantId;

use crate::{fold::chain, stripe::StripeError, webhook::signature};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    BadSignature(signature::Refused),
    #[error("the operator's token is missing or wrong")]
    Unauthorized,
    #[error("{0}")]
    BadRequest(String),
    #[error("no tenant `{0}`")]
    NoTenant(TenantId),
    #[error("tenant `{0}` is not billed by Stripe")]
    NotBilled(TenantId),
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    #[error("{0}")]
    Conflict(String),
    #[error("billing has not seen Stripe's catalog yet; retry later")]
    NotReady,
    #[error("Stripe refused: {0}")]
    StripeRefused(StripeError),
    #[error("{what} failed; retry later")]
    Dependency { what: &'static str, source: Box<dyn Error + Send + Sync> },
}

impl Problem {
    /// Something that we need failed; `what` names it for people.
    pub fn dependency(what: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Dependency { what, source: Box::new(source) }
    }
}

impl From<StripeError> for Problem {
    fn from(error: StripeError) -> Self {
        if error.may_be_retried() {
            Self::dependency("Stripe", error)
        } else {
            Self::StripeRefused(error)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, slug) = match &self {
            Self::BadSignature(_) => (StatusCode::BAD_REQUEST, "bad-signature"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad-request"),
            Self::NoTenant(_) => (StatusCode::NOT_FOUND, "no-tenant"),
            Self::NotBilled(_) => (StatusCode::CONFLICT, "not-billed-by-stripe"),
            Self::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
            Self::StripeRefused(_) => (StatusCode::BAD_GATEWAY, "stripe-refused"),
            Self::Dependency { .. } => (StatusCode::SERVICE_UNAVAILABLE, "dependency"),
        };
        if let Self::Dependency { what, source } = &self {
            tracing::error!(what, error = %chain(source.as_ref()), "A request failed");
        }
        let body = serde_json::json!({
            "type": format!("/problems/{slug}"),
            "status": status.as_u16(),
            "detail": self.to_string(),
        });
        (status, [(CONTENT_TYPE, "application/problem+json")], Json(body)).into_response()
    }
}
