//! Stripe's API: the typed requests of async-stripe over our own transport, one file a noun.
//!
//! Invariants: every request carries the version that the types were made for; a POST is retried only under an
//! idempotency key; the key to the account is in no log, error or `Debug`. Absent on purpose: deciding anything.

pub mod anchor;
pub mod catalog;
pub mod checkout;
pub mod correction;
pub mod customer;
pub mod error;
pub mod event;
pub mod invoice;
pub mod meter;
pub mod portal;
pub mod price;
pub mod sale;
pub mod subscription;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use billing_core::backoff::Backoff;
use bytes::Bytes;
use chrono::DateTime;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use runtime::settings::Secret;
use stripe_client_core::{
    CustomizedStripeRequest, IdempotencyKey, RequestBuilder, RequestStrategy, StripeClient,
    StripeMethod, StripeRequest, VERSION,
};

pub use self::error::StripeError;

/// The largest answer that is read. Unit: bytes.
const LARGEST_ANSWER: usize = 8 * 1024 * 1024;
/// The pauses between tries of one request that may be tried again.
const BACKOFF: Backoff = Backoff { first_ms: 200, longest_ms: 5_000 };
/// The longest that Stripe's `Retry-After` is waited for within one request. Unit: milliseconds.
const LONGEST_RETRY_AFTER_MS: i64 = 10_000;

/// A client of one account; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: runtime::http::Client,
    base: String,
    key: Secret,
    timeout: Duration,
    tries: u32,
    /// How far Stripe's clock was ahead of ours when it last answered. Unit: milliseconds.
    ahead_ms: Arc<AtomicI64>,
}

impl Client {
    /// A client of the API at `url`, without a version.
    #[must_use]
    pub fn new(url: &str, key: Secret, timeout: Duration) -> Self {
        let http = runtime::http::Client::default();
        let (base, ahead_ms) = (url.trim_end_matches('/').to_owned(), Arc::default());
        Self { http, base, key, timeout, tries: 4, ahead_ms }
    }

    /// How far Stripe's clock was ahead of ours (behind: below 0) when it last answered, by its `Date` header, which
    /// counts whole seconds. Unit: milliseconds.
    #[must_use]
    pub fn clock_ahead_ms(&self) -> i64 {
        self.ahead_ms.load(Ordering::Relaxed)
    }

    fn compare_clocks(&self, headers: &HeaderMap) {
        let date =
            text_header(headers, "date").and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        if let Some(date) = date {
            let ahead_ms = date.timestamp_millis().saturating_sub(crate::clock::now().0);
            self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            metrics::gauge!("billing_stripe_clock_ahead_ms").set(ahead_ms as f64);
        }
    }

    /// The same client, but nothing is tried twice: for callers that keep a book of their own tries.
    #[must_use]
    pub fn trying_once(&self) -> Self {
        Self { tries: 1, ..self.clone() }
    }

    /// Sends a request that changes something, under a key by which Stripe knows it again for 24 hours.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn post<R: StripeRequest>(
        &self,
        request: &R,
        key: &str,
    ) -> Result<R::Output, StripeError>
    where
        R::Output: miniserde::Deserialize,
    {
        let key = IdempotencyKey::new(key).map_err(|_| StripeError::Key)?;
        request.customize().request_strategy(RequestStrategy::Idempotent(key)).send(self).await
    }

    /// Sends a request that only reads.
    ///
    /// # Errors
    /// See [`StripeError`].
    pub async fn get<R: StripeRequest>(&self, request: &R) -> Result<R::Output, StripeError>
    where
        R::Output: miniserde::Deserialize,
    {
        request.customize().send(self).await
    }

    /// Sends a request, again while that is safe and may help, and gives the body of a 2xx answer.
    async fn call(
        &self,
        request: &RequestBuilder,
        key: Option<&str>,
    ) -> Result<Bytes, StripeError> {
        let repeatable = matches!(request.method, StripeMethod::Get) || key.is_some();
        let mut tried = 1;
        loop {
            let error = match self.call_once(request, key).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            if !repeatable || tried >= self.tries || !error.may_be_retried() {
                return Err(error);
            }
            let asked = error.retry_after_ms().unwrap_or(0).min(LONGEST_RETRY_AFTER_MS);
            let pause = BACKOFF.pause_ms(tried, crate::random()).max(asked);
            tracing::debug!(path = request.path, tried, pause_ms = pause, %error, "Stripe is asked again");
            tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())).await;
            tried += 1;
        }
    }

    async fn call_once(
        &self,
        request: &RequestBuilder,
        key: Option<&str>,
    ) -> Result<Bytes, StripeError> {
        let answer =
            self.http.send(self.to_http(request, key)?, self.timeout, LARGEST_ANSWER).await?;
        let (head, body) = answer.into_parts();
        self.compare_clocks(&head.headers);
        if head.status.is_success() {
            return Ok(body);
        }
        Err(StripeError::read(head.status, &head.headers, &body))
    }

    fn to_http(
        &self,
        request: &RequestBuilder,
        key: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, StripeError> {
        let query = request.query.as_deref().filter(|query| !query.is_empty());
        // What is not of the first version says so itself.
        let version = if request.path.starts_with("/v2/") { "" } else { "/v1" };
        let uri = format!(
            "{}{version}{}{}{}",
            self.base,
            request.path,
            query.map_or("", |_| "?"),
            query.unwrap_or_default()
        );
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let mut http = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::AUTHORIZATION, sensitive(&format!("Bearer {}", self.key.expose()))?)
            .header(header::USER_AGENT, concat!("tollbook-billing/", env!("CARGO_PKG_VERSION")))
            .header("stripe-version", VERSION.as_str());
        if let Some(key) = key {
            http = http.header("idempotency-key", key);
        }
        if request.body.is_some() {
            http = http.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let body = Bytes::from(request.body.clone().unwrap_or_default());
        http.body(Full::new(body)).map_err(StripeError::Request)
    }
}

fn sensitive(text: &str) -> Result<http::HeaderValue, StripeError> {
    let mut value =
        http::HeaderValue::from_str(text).map_err(|error| StripeError::Request(error.into()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl StripeClient for Client {
    type Err = StripeError;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, StripeError> {
        let (request, custom) = request.into_pieces();
        // async-stripe's own strategies retry under random keys or none; only the key is taken from them.
        let key = custom.request_strategy.and_then(|strategy| strategy.get_key());
        self.call(&request, key.as_ref().map(IdempotencyKey::as_str)).await
    }
}

/// A header as text, if it is there and is text.
fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a status alone says that the same request may help later.
fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 409 | 424 | 429 | 500..=599)
}
