//! What `/ready` and the metrics say while NATS or the ledger is away.

use http::Method;
use serde_json::{Value, json};
use stack::Part;

use crate::{
    process::{Process, known},
    rig::{Caller, SECRET, World},
    server::Server,
};

/// A public address of the process.
async fn get(process: &Process, path: &str) -> (u16, String) {
    let anybody = Caller::new(&process.url.replace("/mcp", path), "-").without("x-api-key");
    let response = anybody.send(Method::GET, "").await;
    (response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned())
}

/// Waits until `/ready` says something; what it says.
async fn ready(process: &Process, what: &str, so: impl Fn(u16, &Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..3_000 {
        let (status, body) = get(process, "/ready").await;
        last = serde_json::from_str(&body).unwrap();
        assert_eq!(last["ready"] == true, status == 200, "{last}");
        if so(status, &last) {
            return last;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("/ready never says that {what}: {last}");
}

/// Waits until a gauge has a value.
async fn gauge(process: &Process, line: &str) {
    let mut last = String::new();
    for _ in 0..3_000 {
        last = get(process, "/metrics").await.1;
        if last.lines().any(|found| found == line) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no line `{line}`:\n{last}");
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|time| time.len() == 20 && time.ends_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_nats_is_ready_while_its_leases_last_and_no_longer() {
    let (mut world, server) = (World::start().await, Server::start().await);
    // One lease of eight calls, and none behind it.
    world.ledger.grant(600_000, 8);
    world.ledger.key(SECRET, Some(32)).await;
    let process = Process::start(&world, &["--upstream", &server.url()]).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    let well = ready(&process, "all is well", |status, _| status == 200).await;
    assert_eq!((&well["waits_for"], &well["degraded"]), (&json!({}), &json!({})));
    gauge(&process, "mcp_nats_connected 1").await;
    gauge(&process, "mcp_ledger_reachable 1").await;
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);

    world.server.kill().await.unwrap();
    let degraded = ready(&process, "NATS is away", |_, said| said["degraded"]["nats"].is_string());
    let degraded = degraded.await;
    assert_eq!(degraded["ready"], true, "a lease is in hand: {degraded}");
    assert!(is_time(&degraded["since"]["nats"]), "{degraded}");
    gauge(&process, "mcp_nats_connected 0").await;
    gauge(&process, "mcp_ledger_reachable 0").await;
    assert_eq!(caller.called(2, "success", json!({})).await.0, 200, "it said that it serves");

    let mut refused = Value::Null;
    for id in 3..40 {
        let (status, body) = caller.called(id, "success", json!({})).await;
        if status == 503 {
            refused = body["error"]["data"]["reason"].clone();
            break;
        }
    }
    assert_eq!(refused, "ledger_unreachable");
    let says = "calls are refused with ledger_unreachable";
    let gone = ready(&process, "calls are refused", |_, said| {
        said["waits_for"]["ledger"].as_str().is_some_and(|why| why.contains(says))
    });
    let gone = gone.await;
    assert!(gone["waits_for"]["nats"].is_string(), "{gone}");
    assert!(is_time(&gone["since"]["ledger"]), "{gone}");
    assert_eq!(gone["since"]["nats"], degraded["since"]["nats"], "since it went");

    world.server.start_again().await.unwrap();
    let back = ready(&process, "it is back", |status, said| {
        status == 200 && said["degraded"] == json!({})
    });
    assert_eq!(back.await["since"], json!({}));
    gauge(&process, "mcp_nats_connected 1").await;
    gauge(&process, "mcp_ledger_reachable 1").await;
    assert_eq!(caller.called(50, "success", json!({})).await.0, 200);
    assert_eq!(process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_ledger_is_silent_says_so_and_recovers_by_itself() {
    let (world, server) = (World::start().await, Server::start().await);
    world.ledger.key(SECRET, None).await;
    let process = Process::start(&world, &["--upstream", &server.url()]).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    world.ledger.silence(true);
    assert_eq!(caller.called(1, "success", json!({})).await.0, 503);
    let gone = ready(&process, "the ledger is silent", |status, _| status == 503).await;
    assert!(gone["waits_for"]["ledger"].is_string() && is_time(&gone["since"]["ledger"]), "{gone}");
    assert_eq!(gone["degraded"], json!({}), "NATS is there");
    gauge(&process, "mcp_nats_connected 1").await;
    gauge(&process, "mcp_ledger_reachable 0").await;
    world.ledger.silence(false);
    // Nobody calls: the question that stands is answered.
    ready(&process, "the ledger is back", |status, said| {
        status == 200 && said["since"] == json!({})
    })
    .await;
    assert_eq!(caller.called(2, "success", json!({})).await.0, 200);
    assert_eq!(process.stop().await, Some(0));
}
