//! A pooled HTTP(S) client: HTTP/1.1, rustls with ring and the webpki roots.
//!
//! It does not follow redirects or read proxies from the environment, and what was sent was sent once: all that goes out
//! again is a request of which no byte was written, because a pooled connection had been closed.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// Why there is no answer. After anything but `Connect` the request may have had its effect.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("no connection")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("the connection failed during the request")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl HttpError {
    /// Whether the request certainly had no effect: it was never sent.
    #[must_use]
    pub fn was_not_sent(&self) -> bool {
        matches!(self, Self::Connect(_))
    }
}

/// The client; clones share the pool.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new(Duration::from_secs(5), 256)
    }
}

impl Client {
    /// A client that gives a connection `connect_timeout` to come about and keeps up to `idle_per_host` open for 30 s.
    #[must_use]
    pub fn new(connect_timeout: Duration, idle_per_host: usize) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
            .expect("ring's provider supports the default protocol versions");
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(idle_per_host)
            .build(connector);
        Self { pool }
    }

    /// Sends a request and reads the whole answer, at most `max_body` bytes, within `timeout` (both together).
    ///
    /// # Errors
    /// See [`HttpError`]; an answer with any status is no error.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        let whole = async {
            let (head, body) = self.send_streaming(request).await?.into_parts();
            let body = Limited::new(body, max_body).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    HttpError::TooLarge(max_body)
                } else {
                    HttpError::Broken(error)
                }
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(timeout, whole).await.map_err(|_| HttpError::Timeout(timeout))?
    }

    /// Sends a request and returns as soon as the answer's head is there; the body is read by the caller.
    ///
    /// # Errors
    /// `Connect` or `Broken`.
    pub async fn send_streaming(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        self.pool.request(request).await.map_err(|error| {
            if error.is_connect() {
                HttpError::Connect(error)
            } else {
                HttpError::Broken(Box::new(error))
            }
        })
    }
}
