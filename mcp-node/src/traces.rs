//! Spans: one for each request of a client, by OpenTelemetry's conventions for MCP, and where they lie in a trace.
//!
//! The caller's place in its trace is what `params._meta` says (`traceparent`), else the header of that name. The node's
//! span goes on in its place, in the header to the server; the body stays as it was. A usage event names the node's span,
//! or the caller's where this node makes none. Source: semantic conventions for generative AI, "MCP", v0.1.0.
//! Absent on purpose: a second span for the way to the server, arguments, results, and secrets.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue};
use mcp_node_core::{Refusal, message::Message};
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState,
        Tracer as _,
    },
};
use parking_lot::Mutex;
use runtime::traces::{Span, Tracer};
use schemas::{KeyState, Outcome, Trace};

use crate::wire::{SESSION, VERSION};

/// The header, and the member of `_meta`, that says where a request lies in a trace.
pub const TRACEPARENT: &str = "traceparent";

/// Who makes spans, if anybody does.
#[derive(Clone, Default)]
pub struct Traces(Option<Tracer>);

/// Where one request lies in a trace. Its span ends with the last of its clones.
#[derive(Clone, Default)]
pub struct RequestTrace {
    caller: Option<Trace>,
    span: Option<Arc<OpenSpan>>,
}

struct OpenSpan {
    here: Trace,
    span: Mutex<Span>,
}

impl Traces {
    /// Spans by this tracer.
    #[must_use]
    pub fn by(tracer: Tracer) -> Self {
        Self(Some(tracer))
    }

    /// Begins the span of a request.
    #[must_use]
    pub fn begin(
        &self,
        message: &Message<'_>,
        headers: &HeaderMap,
        state: &KeyState,
    ) -> RequestTrace {
        let Message::Request { id, method, tool, about } = message else {
            return RequestTrace::default();
        };
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let said = about.meta.traceparent.as_deref().or_else(|| header(TRACEPARENT));
        let caller: Option<Trace> = said.and_then(|text| text.parse().ok());
        let Some(tracer) = &self.0 else { return RequestTrace { caller, span: None } };

        let named =
            tool.as_deref().or_else(|| about.target.as_deref().filter(|_| method == "prompts/get"));
        let name = named.map_or_else(|| method.to_string(), |named| format!("{method} {named}"));
        let mut attributes = vec![
            KeyValue::new("mcp.method.name", method.to_string()),
            KeyValue::new("jsonrpc.request.id", id.raw.trim_matches('"').to_owned()),
            KeyValue::new("network.protocol.name", "http"),
            KeyValue::new("network.transport", "tcp"),
            KeyValue::new("tollbook.tenant.id", state.tenant.to_string()),
            KeyValue::new("tollbook.project.id", state.project.to_string()),
            KeyValue::new("tollbook.key.id", state.key.to_string()),
        ];
        let mut put = |name: &'static str, value: Option<&str>| {
            attributes.extend(value.map(|value| KeyValue::new(name, value.to_owned())));
        };
        put("gen_ai.operation.name", tool.as_ref().map(|_| "execute_tool"));
        put("gen_ai.tool.name", tool.as_deref());
        put("gen_ai.prompt.name", named.filter(|_| tool.is_none()));
        put("mcp.resource.uri", about.target.as_deref().filter(|_| method == "resources/read"));
        put("mcp.protocol.version", about.meta.version.as_deref().or_else(|| header(VERSION)));
        put("mcp.session.id", header(SESSION));

        let builder =
            SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes);
        let parent = caller.map_or_else(Context::new, |caller| {
            Context::new().with_remote_span_context(remote(caller, header("tracestate")))
        });
        let span = tracer.build_with_context(builder, &parent);
        let here = here(span.span_context());
        let span = here.map(|here| Arc::new(OpenSpan { here, span: Mutex::new(span) }));
        RequestTrace { caller, span }
    }
}

impl RequestTrace {
    /// What the record of the call names.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.span.as_ref().map(|span| span.here).or(self.caller)
    }

    /// Tells the server that it is asked by this span; without one, it hears what the caller said.
    pub fn put(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            let value = HeaderValue::try_from(span.here.to_string());
            headers.insert(TRACEPARENT, value.expect("hex digits and dashes are a header's value"));
        }
    }

    /// How the call ended, and for how many units of which meter it counts.
    pub fn ended<'a>(
        &self,
        outcome: Outcome,
        name: &'static str,
        counted: impl Iterator<Item = (&'a str, u64)>,
    ) {
        self.with(|span| {
            span.set_attribute(KeyValue::new("tollbook.outcome", name));
            for (meter, units) in counted {
                let units = i64::try_from(units).unwrap_or(i64::MAX);
                span.set_attribute(KeyValue::new(format!("tollbook.units.{meter}"), units));
            }
            let failed = match outcome {
                Outcome::Success | Outcome::InputRequired | Outcome::TaskCreated => return,
                Outcome::Cancelled => "cancelled",
                Outcome::ToolError => "tool_error",
                Outcome::ProtocolError | Outcome::UpstreamError => name,
                Outcome::Timeout => "timeout",
            };
            fail(span, failed.into());
        });
    }

    /// The node did not let the request go on, or nothing came of it.
    pub fn refused(&self, refusal: &Refusal) {
        self.with(|span| {
            let code = refusal.code().to_string();
            span.set_attribute(KeyValue::new("rpc.response.status_code", code));
            fail(span, refusal.reason().into());
        });
    }

    fn with(&self, change: impl FnOnce(&mut Span)) {
        if let Some(span) = &self.span {
            let mut span = span.span.lock();
            if span.is_recording() {
                change(&mut span);
            }
        }
    }
}

fn fail(span: &mut Span, kind: Value) {
    let text = kind.to_string();
    span.set_attribute(KeyValue::new("error.type", kind));
    span.set_status(Status::error(text));
}

fn remote(trace: Trace, state: Option<&str>) -> SpanContext {
    let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let (trace_id, span_id) = (trace.trace_id.to_be_bytes(), trace.span_id.to_be_bytes());
    SpanContext::new(TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id), flags, true, state)
}

/// Where a span lies; `None` = nowhere.
fn here(context: &SpanContext) -> Option<Trace> {
    let trace_id = u128::from_be_bytes(context.trace_id().to_bytes());
    let span_id = u64::from_be_bytes(context.span_id().to_bytes());
    (trace_id != 0 && span_id != 0).then(|| Trace {
        trace_id,
        span_id,
        sampled: context.trace_flags().is_sampled(),
    })
}
