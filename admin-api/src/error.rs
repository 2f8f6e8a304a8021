//! Every answer but success: problem+json (RFC 9457) with a stable slug.

use std::error::Error;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemas::KeyId;
use serde_json::json;

use crate::directory::decide::Refusal;

/// What went wrong, in the words of whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("a bearer token of an operator is needed")]
    Unauthorized,
    #[error("there is nothing at this address")]
    NotFound,
    #[error("this address does not take that method")]
    Method,
    #[error("the body is not what this address takes: {0}")]
    Body(String),
    #[error("the body must be `application/json`")]
    MediaType,
    #[error("the body is too large")]
    TooLarge,
    #[error("`{field}` {reason}")]
    Field { field: &'static str, reason: String },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    #[error(
        "the secret of the API key {0} was made under this Idempotency-Key and was shown then; a secret is shown once. \
         If it was not received, rotate the key (or revoke it and create another) under a new Idempotency-Key"
    )]
    SecretShown(KeyId),
    #[error("others change the same thing at the same time; nothing was stored, send it again")]
    Contested,
    #[error(
        "whether it was stored is not known; send it again with the same Idempotency-Key to find out"
    )]
    UnknownOutcome(#[source] Box<dyn Error + Send + Sync>),
    #[error("usage cannot be read now; try again later")]
    UsageUnavailable(#[source] Box<dyn Error + Send + Sync>),
    #[error("something is wrong on our side")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

impl ApiError {
    pub fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field { field, reason: reason.into() }
    }

    pub fn unknown_outcome(error: impl Error + Send + Sync + 'static) -> Self {
        Self::UnknownOutcome(Box::new(error))
    }

    pub fn usage(error: impl Error + Send + Sync + 'static) -> Self {
        Self::UsageUnavailable(Box::new(error))
    }

    pub fn bug(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Internal(Box::new(error))
    }

    /// The status and the slug; clients match on the slug, so a slug never changes its meaning.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::Body(_) => (StatusCode::BAD_REQUEST, "invalid-body"),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            Self::Field { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-field"),
            Self::Refused(refusal) => match refusal {
                Refusal::NoTenant(_) => (StatusCode::NOT_FOUND, "no-tenant"),
                Refusal::NoProject(_) => (StatusCode::NOT_FOUND, "no-project"),
                Refusal::NoKey(_) => (StatusCode::NOT_FOUND, "no-key"),
                Refusal::Revoked(_) => (StatusCode::CONFLICT, "key-revoked"),
                Refusal::AlreadyExpired => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-field"),
                Refusal::UnreadableHistory(_) => {
                    (StatusCode::SERVICE_UNAVAILABLE, "unreadable-history")
                }
            },
            Self::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused"),
            Self::SecretShown(_) => (StatusCode::CONFLICT, "secret-already-shown"),
            Self::Contested => (StatusCode::CONFLICT, "contested"),
            Self::UnknownOutcome(_) => (StatusCode::SERVICE_UNAVAILABLE, "unknown-outcome"),
            Self::UsageUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "usage-unavailable"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// Says on our side what the asker is not told.
    fn log(&self, slug: &str) {
        match self {
            Self::UnknownOutcome(source) | Self::UsageUnavailable(source) => {
                tracing::warn!(
                    error = source.as_ref() as &dyn Error,
                    slug,
                    "A request could not be served"
                );
            }
            Self::Internal(source) => {
                tracing::error!(
                    error = source.as_ref() as &dyn Error,
                    slug,
                    "A request could not be served"
                );
            }
            _ => {}
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, slug) = self.kind();
        self.log(slug);
        metrics::counter!("admin_problems_total", "slug" => slug).increment(1);
        let mut body = json!({
            "type": format!("/problems/{slug}"),
            "title": slug.replace('-', " "),
            "status": status.as_u16(),
            "detail": self.to_string(),
        });
        match &self {
            Self::Field { field, reason } => {
                body["field"] = json!(field);
                body["reason"] = json!(reason);
            }
            Self::Refused(Refusal::AlreadyExpired) => {
                body["field"] = json!("expires_at");
                body["reason"] = json!("lies in the past");
            }
            Self::SecretShown(key) => body["key_id"] = json!(key),
            _ => {}
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let extra: Option<(HeaderName, &'static str)> = match status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        if let Some((name, value)) = extra {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
