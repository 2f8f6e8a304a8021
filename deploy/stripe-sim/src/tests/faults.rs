//! Ordered faults on the API side.

use super::*;

async fn order(sim: &Sim, rule: Value) {
    sim.control("/faults", &json!({ "api": [rule] })).await.ok();
}

async fn customers(sim: &Sim) -> usize {
    ids(&sim.get("/v1/customers").await.ok()).len()
}

#[tokio::test]
async fn an_answer_lost_after_the_effect_is_replayed_by_the_key() {
    let sim = Sim::start().await;
    order(&sim, json!({ "kind": "lost_after", "method": "POST", "path": "/v1/customers" })).await;
    assert!(sim.post_keyed("/v1/customers", "", "k").await.is_err());
    assert_eq!(customers(&sim).await, 1, "it happened");
    let again = sim.post_keyed("/v1/customers", "", "k").await.unwrap();
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(customers(&sim).await, 1);
    let journal = sim.look("/journal?path=/v1/customers").await;
    let seen: Vec<_> = journal["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["status"].clone(), row["fault"].clone()))
        .collect();
    assert_eq!(seen[0], (json!(200), json!("lost_after")));
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_request_lost_before_has_no_effect() {
    let sim = Sim::start().await;
    order(&sim, json!({ "kind": "lost_before", "method": "POST", "count": 2 })).await;
    assert!(sim.post_keyed("/v1/customers", "", "k").await.is_err());
    assert!(sim.post_keyed("/v1/customers", "", "k").await.is_err());
    assert_eq!(customers(&sim).await, 0);
    let third = sim.post_keyed("/v1/customers", "", "k").await.unwrap();
    assert_eq!((third.status, third.header("idempotent-replayed")), (200, None));
}

#[tokio::test]
async fn a_stored_500_comes_back_for_its_key_and_not_for_another() {
    let sim = Sim::start().await;
    order(&sim, json!({ "kind": "stored_500", "path": "/v1/customers" })).await;
    let first = sim.post_keyed("/v1/customers", "", "k").await.unwrap();
    assert_eq!((first.status, first.refusal().1), (500, "api_error"));
    let again = sim.post_keyed("/v1/customers", "", "k").await.unwrap();
    assert_eq!((again.status, again.header("idempotent-replayed")), (500, Some("true")));
    assert_eq!(sim.post_keyed("/v1/customers", "", "k#2").await.unwrap().status, 200);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_503_is_not_stored() {
    let sim = Sim::start().await;
    order(&sim, json!({ "kind": "unavailable_503", "path": "/v1/customers" })).await;
    let first = sim.post_keyed("/v1/customers", "", "k").await.unwrap();
    assert_eq!((first.status, first.header("stripe-should-retry")), (503, Some("true")));
    assert_eq!(sim.post_keyed("/v1/customers", "", "k").await.unwrap().status, 200);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_reset_has_no_effect_and_shows_as_a_reset() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let sim = Sim::start().await;
    order(&sim, json!({ "kind": "reset", "path": "/v1/customers" })).await;
    let mut stream = tokio::net::TcpStream::connect(sim.server.address()).await.unwrap();
    let head = format!(
        "POST /v1/customers HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: 0\r\n\r\n",
        bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let error = stream.read(&mut [0; 64]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(customers(&sim).await, 0);
}

#[tokio::test]
async fn a_lock_timeout_is_a_429_without_a_reason_and_is_not_stored() {
    let sim = Sim::start().await;
    order(&sim, json!({ "kind": "lock_timeout", "path": "/v1/customers" })).await;
    let first = sim.post_keyed("/v1/customers", "", "k").await.unwrap();
    assert_eq!(first.refusal(), (429, "invalid_request_error", Some("lock_timeout"), None));
    assert_eq!(first.header("stripe-rate-limited-reason"), None);
    assert_eq!(first.header("stripe-should-retry"), Some("true"));
    assert_eq!(customers(&sim).await, 0);
    assert_eq!(sim.post_keyed("/v1/customers", "", "k").await.unwrap().status, 200);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_client_that_gives_up_waiting_does_not_stop_the_effect() {
    let sim = std::sync::Arc::new(Sim::start().await);
    sim.hold("/v1/customers").await;
    let client = tokio::spawn({
        let sim = std::sync::Arc::clone(&sim);
        async move { sim.post_keyed("/v1/customers", "", "k").await }
    });
    sim.held().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    sim.release().await;
    sim.until("/journal", |journal| journal["recorded"] == 1).await;
    assert_eq!(customers(&sim).await, 1);
}

#[tokio::test]
async fn faults_are_listed_and_cleared() {
    let sim = Sim::start().await;
    order(&sim, json!({ "kind": "unavailable_503", "count": 9 })).await;
    assert_eq!(sim.look("/faults").await["api"][0]["count"], 9);
    sim.send(Method::DELETE, "/_sim/faults", &[], String::new()).await.unwrap().ok();
    assert_eq!(customers(&sim).await, 0);
    assert_eq!(sim.control("/faults", &json!({ "api": [{ "kind": "meteor" }] })).await.status, 422);
    assert_eq!(sim.look("/clock").await["now"], NOW);
}
