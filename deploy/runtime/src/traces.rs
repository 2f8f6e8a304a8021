//! Spans to a collector: OTLP over HTTP (protobuf), in batches, by a thread of its own.
//!
//! Whoever makes spans never waits: what the collector cannot take in time is dropped, and said so in the log. The
//! variables of OpenTelemetry's SDK hold for what is not set here (headers, batches, attributes of the resource).

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
pub use opentelemetry_sdk::trace::{SdkTracer as Tracer, Span};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tokio::runtime::Handle;

use crate::http::Client;

/// How long one batch may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer of a collector. Unit: bytes.
const LONGEST_ANSWER: usize = 1 << 20;

/// Where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// The collector's URL, without `/v1/traces`.
    pub endpoint: String,
    /// How many of the traces that begin here are recorded; those that began elsewhere say so themselves. Range: 0 to 100.
    pub percent: u8,
}

/// Spans cannot be sent as the settings say.
#[derive(Debug, thiserror::Error)]
#[error("spans cannot be sent to {endpoint}")]
pub struct TraceError {
    endpoint: String,
    source: opentelemetry_otlp::ExporterBuildError,
}

/// What sends spans.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Begins to send the spans of `service`. Must be called within the runtime.
    ///
    /// # Errors
    /// The endpoint is no URL.
    pub fn start(service: &'static str, settings: &TraceSettings) -> Result<Self, TraceError> {
        let endpoint = format!("{}/v1/traces", settings.endpoint.trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Sender { client: Client::default(), runtime: Handle::current() })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&endpoint)
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|source| TraceError { endpoint, source })?;
        let resource = Resource::builder().with_service_name(service).with_attribute(
            opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        );
        let sampler = Sampler::ParentBased(Box::new(share(settings.percent)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .with_sampler(sampler);
        Ok(Self(provider.build()))
    }

    /// Makes spans.
    #[must_use]
    pub fn tracer(&self) -> Tracer {
        self.0.tracer("tollbook")
    }

    /// Sends what is left.
    pub async fn stop(self) {
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(TIMEOUT));
        if let Ok(Err(error)) = ended.await {
            tracing::warn!(%error, "The last spans were not sent");
        }
    }
}

#[expect(clippy::float_arithmetic, reason = "no quantity and no money: the library takes a share")]
fn share(percent: u8) -> Sampler {
    Sampler::TraceIdRatioBased(f64::from(percent) / 100.0)
}

/// Sends batches by our own client, whose connections live in the runtime and not in the exporter's thread.
struct Sender {
    client: Client,
    runtime: Handle,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            client.send(request.map(Full::new), TIMEOUT, LONGEST_ANSWER).await
        });
        Ok(sent.await??)
    }
}
