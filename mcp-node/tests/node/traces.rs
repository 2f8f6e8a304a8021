//! Spans as a collector gets them, and where a call lies in a trace: at the server, in the record, in the span.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use prost::Message;
use schemas::{Record, UsageEvent};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    process::{Process, known},
    rig::{SECRET, World, until},
    server::Server,
};

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OTHER: &str = "00-11111111111111111111111111111111-2222222222222222-01";
const UNSAMPLED: &str = "00-33333333333333333333333333333333-4444444444444444-00";

type Attributes = BTreeMap<String, String>;
type Got = Arc<Mutex<Vec<(Attributes, Span)>>>;

/// What takes spans.
struct Collector {
    url: String,
    got: Got,
}

fn attributes(pairs: &[KeyValue]) -> Attributes {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        Any::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    pairs.iter().filter_map(|pair| Some((pair.key.clone(), text(pair)?))).collect()
}

impl Collector {
    async fn start() -> Self {
        async fn take(State(got): State<Got>, body: Bytes) {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            for of in request.resource_spans {
                let resource = attributes(&of.resource.unwrap().attributes);
                let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
                got.lock().extend(spans.map(|span| (resource.clone(), span)));
            }
        }
        let got = Got::default();
        let routes = Router::new().route("/v1/traces", post(take)).with_state(got.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { url, got }
    }

    /// The spans of a name, in order.
    fn named(&self, name: &str) -> Vec<(Span, Attributes)> {
        let got = self.got.lock();
        let spans = got.iter().map(|(_, span)| span).filter(|span| span.name == name);
        spans.map(|span| (span.clone(), attributes(&span.attributes))).collect()
    }
}

fn usage(world: &World) -> Vec<UsageEvent> {
    let records = world.ledger.records();
    let usage = records.into_iter().filter_map(|placed| match placed.record {
        Record::Usage(event) => Some(event),
        _ => None,
    });
    usage.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn traceparent(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

/// A call that says in its `_meta` where it lies in a trace.
fn call_within(id: u64, traceparent: &str) -> String {
    let params = json!({ "name": "success", "_meta": { "traceparent": traceparent } });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_goes_on_where_its_caller_was() {
    let (world, server) = (World::start().await, Server::start().await);
    let key = world.ledger.key(SECRET, Some(4)).await;
    let collector = Collector::start().await;
    let args = ["--upstream", &server.url(), "--otlp-endpoint", &collector.url];
    let process = Process::start(&world, &args).await;
    let caller = process.caller(SECRET);
    known(&caller).await;

    let within = caller.clone().with("traceparent", CALLER).with("tracestate", "vendor=1");
    assert_eq!(within.called(1, "success", json!({})).await.0, 200);
    let told = server.last().headers["traceparent"].to_str().unwrap().to_owned();
    assert_eq!(server.last().headers["tracestate"], "vendor=1");
    assert_eq!(within.post(call_within(2, OTHER)).await.status(), 200, "the message goes first");
    let message_goes_first = server.last();
    assert!(message_goes_first.headers["traceparent"].to_str().unwrap().contains(&OTHER[3..35]));
    assert_eq!(message_goes_first.body, call_within(2, OTHER).as_bytes(), "byte for byte");
    assert_eq!(caller.called(3, "tool_error", json!({})).await.0, 200);
    let unsampled = caller.clone().with("traceparent", UNSAMPLED);
    assert_eq!(unsampled.called(4, "success", json!({})).await.0, 200);
    assert_eq!(caller.called(5, "success", json!({})).await.0, 200);
    assert_eq!(caller.called(6, "success", json!({})).await.0, 429);
    until("all are counted", || world.ledger.consumed(&key) == 4).await;
    assert_eq!(process.stop().await, Some(0));

    let spans = collector.named("tools/call success");
    let [(first, said), (second, _), (third, _), (refused, why)] = &spans[..] else {
        panic!("one that nobody records is not sent: {spans:?}");
    };
    assert_eq!(
        (hex(&first.trace_id), hex(&first.parent_span_id)),
        (CALLER[3..35].into(), CALLER[36..52].into())
    );
    assert_eq!((first.kind(), traceparent(first)), (SpanKind::Server, told));
    let session = json!(null);
    assert_eq!(session, json!(said.get("mcp.session.id")));
    let is = |name: &str, value: &str| {
        assert_eq!(said.get(name).map(String::as_str), Some(value), "{name}");
    };
    is("mcp.method.name", "tools/call");
    is("gen_ai.operation.name", "execute_tool");
    is("gen_ai.tool.name", "success");
    is("jsonrpc.request.id", "1");
    is("network.transport", "tcp");
    is("tollbook.outcome", "success");
    is("tollbook.units.tool_calls", "1");
    assert!(said["tollbook.key.id"].starts_with("key_") && !said.contains_key("error.type"));
    assert_eq!(hex(&second.trace_id), OTHER[3..35]);
    assert!(third.parent_span_id.is_empty(), "nobody said a trace: it begins here");

    let status = |span: &Span| span.status.as_ref().map(|status| status.code());
    assert_eq!(
        (status(refused), &*why["error.type"]),
        (Some(StatusCode::Error), "quota_exhausted")
    );
    assert_eq!(why["rpc.response.status_code"], "42901");
    let failed = collector.named("tools/call tool_error");
    assert_eq!((failed.len(), &*failed[0].1["error.type"]), (1, "tool_error"));
    assert_eq!(collector.got.lock()[0].0["service.name"], "mcp-node");

    let traces: Vec<String> =
        usage(&world).iter().map(|event| event.trace.unwrap().to_string()).collect();
    let [one, two, _, four, five] = &traces[..] else { panic!("{traces:?}") };
    assert_eq!([one, two, five], [&traceparent(first), &traceparent(second), &traceparent(third)]);
    assert!(four.starts_with(&UNSAMPLED[..36]) && four.ends_with("-00"), "{four}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_a_record_names_its_callers_span() {
    let (world, server) = (World::start().await, Server::start().await);
    let key = world.ledger.key(SECRET, None).await;
    let process = Process::start(&world, &["--upstream", &server.url()]).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    for traceparent in [CALLER, "no trace"] {
        let within = caller.clone().with("traceparent", traceparent);
        assert_eq!(within.called(1, "success", json!({})).await.0, 200);
        assert_eq!(server.last().headers["traceparent"], traceparent, "the caller's own");
    }
    until("both are counted", || world.ledger.consumed(&key) == 2).await;
    let traces: Vec<_> = usage(&world).iter().map(|event| event.trace).collect();
    assert_eq!(traces, [Some(CALLER.parse().unwrap()), None]);
    assert_eq!(process.stop().await, Some(0));
}
