//! Asks the services over their public HTTP, as any operator's script would.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::Value;

/// A request that was not answered as it should.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{what}: no answer: {source}")]
    NoAnswer { what: String, source: runtime::http::HttpError },
    #[error("{what}: answered {status}: {body}")]
    Refused { what: String, status: u16, body: String },
    #[error("{what}: {reason}")]
    Malformed { what: String, reason: String },
}

/// One service's address, and the bearer token that it wants.
#[derive(Clone)]
pub struct Api {
    client: runtime::http::Client,
    base: String,
    token: Option<String>,
}

impl Api {
    /// A service at `base` (`http://host:port`).
    #[must_use]
    pub fn new(base: &str, token: Option<&str>) -> Self {
        Self {
            client: runtime::http::Client::default(),
            base: base.to_owned(),
            token: token.map(str::to_owned),
        }
    }

    /// Where the service is.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET`, answered in JSON.
    ///
    /// # Errors
    /// No answer, another status than 2xx, or no JSON.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.json(Method::GET, path, header::ACCEPT, "application/json", Bytes::new()).await
    }

    /// `POST` of JSON, answered in JSON.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.json(
            Method::POST,
            path,
            header::CONTENT_TYPE,
            "application/json",
            body.to_string().into(),
        )
        .await
    }

    /// `POST` of a form, answered in JSON.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> Result<Value, ApiError> {
        let form: String =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let kind = "application/x-www-form-urlencoded";
        self.json(Method::POST, path, header::CONTENT_TYPE, kind, form.into()).await
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        name: header::HeaderName,
        kind: &str,
        body: Bytes,
    ) -> Result<Value, ApiError> {
        let what = format!("{method} {}{path}", self.base);
        let malformed = |reason: String| ApiError::Malformed { what: what.clone(), reason };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(name, kind);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request =
            request.body(Full::new(body)).map_err(|error| malformed(error.to_string()))?;
        let answer = self.client.send(request, Duration::from_secs(20), 16 << 20).await;
        let answer = answer.map_err(|source| ApiError::NoAnswer { what: what.clone(), source })?;
        if !answer.status().is_success() {
            let body = String::from_utf8_lossy(answer.body()).chars().take(500).collect();
            return Err(ApiError::Refused { what, status: answer.status().as_u16(), body });
        }
        serde_json::from_slice(answer.body()).map_err(|error| malformed(error.to_string()))
    }
}

/// The status that a node gives a key: 401 and 402 mean that it is not let in, whatever the upstream makes of a ping.
pub(crate) async fn ping(node: &str, secret: &str) -> Result<u16, ApiError> {
    let what = format!("POST {node}");
    let request = Request::post(node)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, text/event-stream")
        .header("x-api-key", secret)
        .body(Full::new(Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)))
        .map_err(|error| ApiError::Malformed { what: what.clone(), reason: error.to_string() })?;
    let answer =
        runtime::http::Client::default().send(request, Duration::from_secs(20), 1 << 20).await;
    Ok(answer.map_err(|source| ApiError::NoAnswer { what, source })?.status().as_u16())
}

/// A text at a JSON pointer.
pub(crate) fn text(value: &Value, pointer: &str) -> Result<String, ApiError> {
    let found = value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    found.ok_or_else(|| ApiError::Malformed {
        what: pointer.to_owned(),
        reason: format!("no text in {value}"),
    })
}

/// A count at a JSON pointer.
pub(crate) fn count(value: &Value, pointer: &str) -> Result<u64, ApiError> {
    let found = value.pointer(pointer).and_then(Value::as_u64);
    found.ok_or_else(|| ApiError::Malformed {
        what: pointer.to_owned(),
        reason: format!("no count in {value}"),
    })
}
