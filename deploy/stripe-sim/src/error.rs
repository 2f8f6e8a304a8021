//! Every refusal of the Stripe side, in Stripe's error envelope.
//!
//! Texts and codes follow Stripe's where they are known, since clients match on them. `unstored` marks what Stripe's idempotency
//! layer does not keep: refusals from before an endpoint begins. The control API under `/_sim/` has an error of its own.

use serde_json::{Map, Value, json};

/// Stripe's error types that the simulator can answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Api,
    Card,
    Idempotency,
    InvalidRequest,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api_error",
            Self::Card => "card_error",
            Self::Idempotency => "idempotency_error",
            Self::InvalidRequest => "invalid_request_error",
        }
    }
}

/// Which of Stripe's two APIs speaks: they have envelopes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V1,
    V2,
}

impl Dialect {
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v2/") { Self::V2 } else { Self::V1 }
    }

    /// The description's name of the envelope.
    pub fn component(self) -> &'static str {
        match self {
            Self::V1 => "error",
            Self::V2 => "v2.error",
        }
    }
}

/// One refusal: HTTP status, envelope and the headers that go with it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{status} {message}")]
pub struct ApiError {
    pub status: u16,
    pub kind: Kind,
    pub code: Option<&'static str>,
    pub message: String,
    pub param: Option<String>,
    /// `Stripe-Should-Retry`.
    pub should_retry: Option<bool>,
    /// Why the bank refused, of a card error.
    pub decline_code: Option<&'static str>,
    /// `Stripe-Rate-Limited-Reason`.
    pub limited: Option<&'static str>,
    /// Whether an idempotency key keeps this answer.
    pub stored: bool,
}

impl ApiError {
    fn new(
        status: u16,
        kind: Kind,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        let message = message.into();
        Self {
            status,
            kind,
            code,
            message,
            param: None,
            should_retry: None,
            decline_code: None,
            limited: None,
            stored: true,
        }
    }

    fn at(mut self, param: &str) -> Self {
        self.param = (!param.is_empty()).then(|| param.to_owned());
        self
    }

    fn unstored(mut self) -> Self {
        self.stored = false;
        self
    }

    /// 400: a parameter has a value that can never be right.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(400, Kind::InvalidRequest, None, message).at(param).unstored()
    }

    /// As [`ApiError::invalid`], with one of Stripe's codes.
    pub fn invalid_code(code: &'static str, param: &str, message: impl Into<String>) -> Self {
        Self::new(400, Kind::InvalidRequest, Some(code), message).at(param).unstored()
    }

    /// 400: two parameters that exclude each other. `param` is the one that an error names.
    pub fn only_one_of(first: &str, second: &str, param: &str) -> Self {
        let message = format!("You may only specify one of these parameters: {first}, {second}.");
        Self::invalid(param, message)
    }

    /// 400: the endpoint has no such parameter.
    pub fn unknown(param: &str) -> Self {
        Self::invalid_code(
            "parameter_unknown",
            param,
            format!("Received unknown parameter: {param}"),
        )
    }

    /// 400: a required parameter is absent.
    pub fn missing(param: &str) -> Self {
        Self::invalid_code("parameter_missing", param, format!("Missing required param: {param}."))
    }

    /// 400: an empty text where a value is needed and nothing can be unset.
    pub fn empty(param: &str) -> Self {
        let message = format!(
            "You passed an empty string for '{param}'. We assume empty values are an attempt to unset a parameter; however \
             '{param}' cannot be unset. You should remove '{param}' from your request or supply a non-empty value."
        );
        Self::invalid_code("parameter_invalid_empty", param, message)
    }

    /// 400: the request is well formed, but the objects' state forbids it.
    pub fn refused(code: Option<&'static str>, param: &str, message: impl Into<String>) -> Self {
        Self::new(400, Kind::InvalidRequest, code, message).at(param)
    }

    /// 402: the card did not pay. What led there has happened: the invoice knows of the attempt.
    pub fn card(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(402, Kind::Card, Some(code), message)
    }

    /// 402: the bank refused the card.
    pub fn declined(code: &'static str, decline_code: &'static str) -> Self {
        let message = match decline_code {
            "expired_card" => "Your card has expired.",
            "incorrect_cvc" => "Your card's security code is incorrect.",
            "insufficient_funds" => "Your card has insufficient funds.",
            "processing_error" => {
                "An error occurred while processing your card. Try again in a little bit."
            }
            _ => "Your card was declined.",
        };
        Self { decline_code: Some(decline_code), ..Self::card(code, message) }
    }

    /// 400: a parameter names an object that does not exist. `noun` as Stripe spells it: `customer`, `price`.
    pub fn no_such(noun: &str, id: &str, param: &str) -> Self {
        Self::refused(Some("resource_missing"), param, format!("No such {noun}: '{id}'"))
    }

    /// 404: the path names an object that does not exist.
    pub fn not_found(noun: &str, id: &str) -> Self {
        Self { status: 404, ..Self::no_such(noun, id, "id") }
    }

    /// 404: no such path in the API.
    pub fn unrecognized(method: &str, path: &str) -> Self {
        let message = format!(
            "Unrecognized request URL ({method}: {path}). If you are trying to list objects, remove the trailing slash. If you \
             are trying to retrieve an object, make sure you passed a valid (non-empty) identifier in your code."
        );
        Self::new(404, Kind::InvalidRequest, None, message).unstored()
    }

    /// 401: no key, or not ours.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(401, Kind::InvalidRequest, None, message).unstored()
    }

    /// 501: Stripe can do this and the simulator cannot. Never a status that Stripe uses, so no test takes it for Stripe's word.
    pub fn not_simulated(what: &str) -> Self {
        let mut error =
            Self::new(501, Kind::Api, None, format!("stripe-sim does not simulate {what}."))
                .unstored();
        error.should_retry = Some(false);
        error
    }

    /// 400: the meter-event identifier was seen within 24 h. Text and header as observed at Stripe; it carries no code.
    pub fn duplicate_identifier(identifier: &str) -> Self {
        let message = format!("An event already exists with identifier {identifier}.");
        let mut error = Self::refused(None, "", message);
        error.should_retry = Some(false);
        error
    }

    /// 429: another call for the same customer and meter is in flight.
    pub fn concurrent_meter_event() -> Self {
        let message =
            "Cannot create multiple usage events for the same customer, meter concurrently"
                .to_owned();
        let mut error =
            Self::new(429, Kind::InvalidRequest, Some("rate_limit"), message).unstored();
        error.should_retry = Some(true);
        error.limited = Some("resource-specific");
        error
    }

    /// 429: more requests in a second than the account may make. `reason` as in `Stripe-Rate-Limited-Reason`.
    pub fn rate_limited(reason: &'static str) -> Self {
        let message = "Request rate limit exceeded. Retry with exponential back-off.";
        let mut error = Self::new(429, Kind::InvalidRequest, Some("rate_limit"), message);
        error.should_retry = Some(true);
        error.limited = Some(reason);
        error.unstored()
    }

    /// 401: the token of a meter event session is older than its 15 minutes.
    pub fn session_expired() -> Self {
        let code = Some("billing_meter_event_session_expired");
        let message = "The authentication token has expired: create another meter event session.";
        Self::new(401, Kind::InvalidRequest, code, message).unstored()
    }

    /// 400: the idempotency key belongs to other parameters.
    pub fn key_reused(key: &str) -> Self {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key \
             other than '{key}' if you meant to execute a different request."
        );
        Self::new(400, Kind::Idempotency, None, message).unstored()
    }

    /// 400: the idempotency key belongs to another endpoint.
    pub fn key_of_other_endpoint(key: &str, path: &str) -> Self {
        let message = format!(
            "Keys for idempotent requests can only be used for the same endpoint they were first used for ('{path}'). Try using \
             a key other than '{key}' if you meant to execute a different request."
        );
        Self::new(400, Kind::Idempotency, None, message).unstored()
    }

    /// 409: a request with this key is still running.
    pub fn key_in_use(key: &str) -> Self {
        let message = format!(
            "There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, \
             and the other request is still going through): {key}. Please try again later."
        );
        let mut error =
            Self::new(409, Kind::Idempotency, Some("idempotency_key_in_use"), message).unstored();
        error.should_retry = Some(true);
        error
    }

    /// 500: an ordered fault, or an answer that broke the schema.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, Kind::Api, None, message)
    }

    /// 503: an ordered fault.
    pub fn unavailable() -> Self {
        let mut error =
            Self::new(503, Kind::Api, None, "The service is unavailable (ordered fault).");
        error.should_retry = Some(true);
        error.unstored()
    }

    /// 429 without a reason header: an object was held by another request for too long. An ordered fault.
    pub fn lock_timeout() -> Self {
        let message = "This object cannot be accessed right now because another API request or Stripe process is currently accessing it.";
        let mut error = Self::new(429, Kind::InvalidRequest, Some("lock_timeout"), message);
        error.should_retry = Some(true);
        error.unstored()
    }

    /// 413: the body is over the limit.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            Kind::InvalidRequest,
            None,
            format!("The request body is over {limit} bytes."),
        )
        .unstored()
    }

    /// The body of the answer.
    pub fn envelope(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::V1 => self.v1_envelope(),
            Dialect::V2 => self.v2_envelope(),
        }
    }

    /// v2 names every refusal by a code, and types of its own where a client can act on them.
    fn v2_envelope(&self) -> Value {
        let (kind, code) = match (self.status, self.code) {
            (401, Some(code)) => ("temporary_session_expired", code),
            (429, Some("rate_limit")) if self.limited == Some("resource-specific") => {
                ("rate_limit", "too_many_concurrent_requests")
            }
            (429, code) => ("rate_limit", code.unwrap_or("rate_limit")),
            (401, None) => ("invalid_request_error", "unauthorized"),
            (400, None) if self.kind == Kind::Idempotency => {
                ("idempotency_error", "idempotency_key_reused")
            }
            (400, None) => ("invalid_request_error", "invalid_fields"),
            (404, None) => ("invalid_request_error", "not_found"),
            (_, None) => (self.kind.as_str(), "internal_error"),
            (_, Some(code)) => (self.kind.as_str(), code),
        };
        json!({ "error": { "type": kind, "code": code, "message": self.message } })
    }

    fn v1_envelope(&self) -> Value {
        let mut error = Map::new();
        error.insert("type".to_owned(), json!(self.kind.as_str()));
        error.insert("message".to_owned(), json!(self.message));
        if let Some(code) = self.code {
            error.insert("code".to_owned(), json!(code));
            let page = code.replace('_', "-");
            error.insert(
                "doc_url".to_owned(),
                json!(format!("https://stripe.com/docs/error-codes/{page}")),
            );
        }
        if let Some(decline_code) = self.decline_code {
            error.insert("decline_code".to_owned(), json!(decline_code));
        }
        if let Some(param) = &self.param {
            error.insert("param".to_owned(), json!(param));
        }
        json!({ "error": error })
    }
}
