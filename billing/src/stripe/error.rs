//! Why a call to Stripe gave no result, with all that Stripe said of it.

use std::fmt;

use http::{HeaderMap, StatusCode};
use runtime::http::HttpError;
use serde::Deserialize;
use stripe_client_core::StripeClientErr;

use super::{is_transient, text_header};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum StripeError {
    #[error("Stripe was not reached, or did not answer")]
    Transport(#[from] HttpError),
    #[error("Stripe answered {0}")]
    Api(Box<ApiError>),
    /// A 2xx whose body is not what the types say. Most likely it had its effect.
    #[error("Stripe's answer cannot be read: {0}")]
    Unreadable(String),
    #[error("the request cannot be written")]
    Request(#[source] http::Error),
    #[error("an idempotency key is empty or longer than 255 characters")]
    Key,
}

/// An answer other than 2xx.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: StatusCode,
    /// `invalid_request_error`, `api_error`, `idempotency_error`, ...; empty when the body is not Stripe's.
    pub kind: String,
    pub code: Option<String>,
    pub message: String,
    pub request_id: Option<String>,
    /// `Stripe-Should-Retry`, which overrides what the status suggests.
    pub should_retry: Option<bool>,
    /// `Retry-After`. Unit: milliseconds.
    pub retry_after_ms: Option<i64>,
    /// `Stripe-Rate-Limited-Reason` of a 429.
    pub limited_by: Option<String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.as_deref().or(self.limited_by.as_deref()).unwrap_or("no code");
        let request = self.request_id.as_deref().unwrap_or("none");
        write!(
            f,
            "{} {} ({code}, request {request}): {}",
            self.status.as_u16(),
            self.kind,
            self.message
        )
    }
}

impl StripeError {
    /// Reads an answer that is not 2xx; any body will do.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        struct Envelope {
            error: Said,
        }
        #[derive(Default, Deserialize)]
        struct Said {
            #[serde(rename = "type", default)]
            kind: String,
            code: Option<String>,
            #[serde(default)]
            message: String,
        }
        // A proxy's page is no envelope: the status alone must do then.
        let said = serde_json::from_slice::<Envelope>(body).unwrap_or_default().error;
        let seconds =
            text_header(headers, "retry-after").and_then(|text| text.trim().parse::<u32>().ok());
        Self::Api(Box::new(ApiError {
            status,
            kind: said.kind,
            code: said.code,
            message: said.message,
            request_id: text_header(headers, "request-id").map(str::to_owned),
            should_retry: text_header(headers, "stripe-should-retry")
                .and_then(|text| text.parse().ok()),
            retry_after_ms: seconds.map(|seconds| i64::from(seconds) * 1000),
            limited_by: text_header(headers, "stripe-rate-limited-reason").map(str::to_owned),
        }))
    }

    /// Whether the very same request may succeed later.
    #[must_use]
    pub fn may_be_retried(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Api(error) => error.should_retry.unwrap_or_else(|| is_transient(error.status)),
            Self::Unreadable(_) | Self::Request(_) | Self::Key => false,
        }
    }

    /// Whether the same request will never succeed. Credentials can be mended, so their refusal is not final.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Api(error) => {
                !self.may_be_retried() && !matches!(error.status.as_u16(), 401 | 403)
            }
            Self::Transport(_) => false,
            Self::Unreadable(_) | Self::Request(_) | Self::Key => true,
        }
    }

    /// How long Stripe asks to be left alone. Unit: milliseconds.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<i64> {
        match self {
            Self::Api(error) => error.retry_after_ms,
            _ => None,
        }
    }

    /// Whether the thing asked for does not exist at Stripe.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Api(error) if error.status == StatusCode::NOT_FOUND)
    }
}

impl StripeClientErr for StripeError {
    fn deserialize_err(msg: impl fmt::Display) -> Self {
        Self::Unreadable(msg.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> StripeError {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        StripeError::read(
            StatusCode::from_u16(status).unwrap(),
            &headers.collect(),
            body.as_bytes(),
        )
    }

    #[test]
    fn stripes_word_on_retrying_overrides_the_status() {
        assert!(!read(429, &[("stripe-should-retry", "false")], "").may_be_retried());
        assert!(read(400, &[("stripe-should-retry", "true")], "").may_be_retried());
        for status in [409, 429, 500, 502, 503] {
            assert!(read(status, &[], "").may_be_retried(), "{status}");
        }
        for status in [400, 401, 402, 403, 404] {
            assert!(!read(status, &[], "").may_be_retried(), "{status}");
            let mendable = matches!(status, 401 | 403);
            assert_eq!(read(status, &[], "").is_final(), !mendable, "{status}");
        }
    }

    #[test]
    fn all_that_stripe_says_is_kept() {
        let body = r#"{"error":{"type":"invalid_request_error","code":"resource_missing","message":"No such customer"}}"#;
        let headers = [
            ("request-id", "req_1"),
            ("retry-after", "7"),
            ("stripe-rate-limited-reason", "global-rate"),
        ];
        let StripeError::Api(error) = read(404, &headers, body) else {
            panic!("an answer is an answer")
        };
        assert_eq!(
            (error.kind.as_str(), error.code.as_deref()),
            ("invalid_request_error", Some("resource_missing"))
        );
        assert_eq!(
            (error.request_id.as_deref(), error.retry_after_ms),
            (Some("req_1"), Some(7_000))
        );
        assert_eq!(error.limited_by.as_deref(), Some("global-rate"));
        assert!(read(502, &[], "<html>bad gateway</html>").to_string().contains("502"));
    }
}
