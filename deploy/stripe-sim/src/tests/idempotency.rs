//! Idempotency keys over HTTP.

use super::*;

#[tokio::test]
async fn the_same_key_and_parameters_replay_the_first_answer() {
    let sim = Sim::start().await;
    let first = sim.post_keyed("/v1/customers", "email=a@b.c&name=N", "k").await.unwrap();
    let again = sim.post_keyed("/v1/customers", "name=N&email=a@b.c", "k").await.unwrap();
    assert_eq!(first.raw, again.raw);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("original-request"), first.header("request-id"));
    assert_ne!(again.header("request-id"), first.header("request-id"));
    assert_eq!(ids(&sim.get("/v1/customers").await.ok()).len(), 1);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_key_with_other_parameters_or_another_path_is_an_idempotency_error() {
    let sim = Sim::start().await;
    sim.post_keyed("/v1/customers", "email=a@b.c", "k").await.unwrap().ok();
    let other = sim.post_keyed("/v1/customers", "email=x@y.z", "k").await.unwrap();
    assert_eq!(other.refusal(), (400, "idempotency_error", None, None));
    let path = sim.post_keyed("/v1/products", "name=x", "k").await.unwrap();
    assert_eq!(path.refusal().1, "idempotency_error");
    assert!(path.message().contains("'/v1/customers'"), "{}", path.message());
}

#[tokio::test]
async fn a_key_is_forgotten_after_24_hours_of_the_simulators_clock() {
    let sim = Sim::start().await;
    let first = sim.post_keyed("/v1/customers", "", "k").await.unwrap().ok();
    sim.advance(86_399).await;
    assert_eq!(id(&sim.post_keyed("/v1/customers", "", "k").await.unwrap().ok()), id(&first));
    sim.advance(1).await;
    assert_ne!(id(&sim.post_keyed("/v1/customers", "", "k").await.unwrap().ok()), id(&first));
}

#[tokio::test]
async fn a_validation_failure_does_not_use_up_the_key_and_a_refusal_by_the_endpoint_does() {
    let sim = Sim::start().await;
    assert_eq!(sim.post_keyed("/v1/products", "nme=x", "k").await.unwrap().status, 400);
    sim.post_keyed("/v1/products", "name=x", "k").await.unwrap().ok();
    let meter = sim.meter().await;
    let path = format!("/v1/billing/meters/{meter}/reactivate");
    assert_eq!(sim.post_keyed(&path, "", "r").await.unwrap().status, 400);
    sim.post(&format!("/v1/billing/meters/{meter}/deactivate"), "").await.ok();
    let replayed = sim.post_keyed(&path, "", "r").await.unwrap();
    assert_eq!((replayed.status, replayed.header("idempotent-replayed")), (400, Some("true")));
}

#[tokio::test]
async fn a_key_in_flight_is_409_and_the_first_request_still_counts() {
    let sim = std::sync::Arc::new(Sim::start().await);
    sim.hold("/v1/customers").await;
    let first = tokio::spawn({
        let sim = std::sync::Arc::clone(&sim);
        async move { sim.post_keyed("/v1/customers", "", "k").await.unwrap().ok() }
    });
    sim.held().await;
    let second = sim.post_keyed("/v1/customers", "", "k").await.unwrap();
    assert_eq!(second.refusal(), (409, "idempotency_error", Some("idempotency_key_in_use"), None));
    sim.release().await;
    let first = first.await.unwrap();
    assert_eq!(id(&sim.post_keyed("/v1/customers", "", "k").await.unwrap().ok()), id(&first));
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_key_of_a_get_or_delete_has_no_effect() {
    let sim = Sim::start().await;
    let headers = [("authorization", &*bearer()), ("idempotency-key", "k")];
    let before =
        sim.send(Method::GET, "/v1/customers", &headers, String::new()).await.unwrap().ok();
    sim.customer().await;
    let after = sim.send(Method::GET, "/v1/customers", &headers, String::new()).await.unwrap().ok();
    assert_ne!(before, after);
}
