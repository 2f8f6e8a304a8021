//! A server that meters itself: the layer around a service in this process does what the gateway does.

use std::time::Duration;

use axum::Router;
use http::HeaderValue;
use mcp_fixture::{Fixture, Speaks};
use mcp_node::Metered;
use serde_json::json;
use tokio::net::TcpListener;
use tower::Layer;

use crate::{
    conformance::{REVISIONS, judge},
    rig::{Caller, SECRET, World, outcomes, until},
};

/// Serves a router on a free port.
async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_layer_is_metered_and_passes_the_official_suite() {
    let world = World::start().await;
    let node = mcp_node::Node::start(&world.spool(), &world.nats).await.unwrap();
    let key = world.ledger.key(SECRET, Some(10_000)).await;
    let few = world.ledger.key("tb_few", Some(2)).await;
    until("the keys are known", || {
        [SECRET, "tb_few"].iter().all(|secret| node.meter().authenticate(secret).is_ok())
    })
    .await;
    let metered = Metered::by(&node).layer(Fixture::service(Speaks::All));
    let url = serve(Router::new().nest_service("/mcp", metered.clone())).await;

    let nobody = Caller::new(&url, "tb_nobody");
    assert_eq!(nobody.call(1, "test_simple_text", json!({})).await.status(), 401);
    let caller = Caller::new(&url, "tb_few").initialized().await;
    let calls = [
        caller.called(1, "test_simple_text", json!({})).await.0,
        caller.asked("tools/call", json!({ "name": "test_error_handling" })).await.0,
        caller.asked("tools/call", json!({ "name": "test_simple_text" })).await.0,
        caller.called(2, "test_simple_text", json!({})).await.0,
    ];
    assert_eq!(calls, [200, 200, 200, 429], "a tool's error is free, and two are two");
    until("two calls are counted", || world.ledger.consumed(&few) == 2).await;
    let seen = outcomes(&world.ledger.records());
    assert!(seen.contains(&("test_error_handling".into(), "tool_error".into())), "{seen:?}");

    let keyed = Router::new().nest_service("/mcp", metered).layer(axum::middleware::map_request(
        |mut request: axum::extract::Request| async move {
            request.headers_mut().insert("x-api-key", HeaderValue::from_static(SECRET));
            request
        },
    ));
    let (url, results) = (serve(keyed).await, tempfile::tempdir().unwrap());
    for (revision, count) in REVISIONS {
        judge(&url, revision, results.path()).await.is_whole(revision, count);
    }
    node.stop(Duration::from_secs(5), Duration::from_secs(10)).await;
    until("every lease is settled", || world.ledger.open_leases() == 0).await;
    assert!(world.ledger.consumed(&key) > 20);
}
