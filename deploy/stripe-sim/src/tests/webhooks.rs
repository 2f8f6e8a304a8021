//! Webhook endpoints, signed delivery, retries and delivery faults, against a receiver that verifies as Stripe's libraries do.

use super::*;
use crate::sign;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use parking_lot::Mutex;
use std::sync::Arc;

/// A receiver that keeps what it gets and answers 400 to a bad signature, else what it was told to, then 200.
#[derive(Clone, Default)]
pub struct Receiver {
    secret: Arc<Mutex<String>>,
    pub got: Arc<Mutex<Vec<Value>>>,
    answers: Arc<Mutex<Vec<u16>>>,
    headers: Arc<Mutex<Vec<String>>>,
}

async fn take(State(own): State<Receiver>, headers: HeaderMap, body: Bytes) -> http::StatusCode {
    let header = headers["stripe-signature"].to_str().unwrap();
    let t: i64 = header.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    let own_header = sign::header(&[own.secret.lock().as_str()], t, &body);
    let signature = own_header.split(',').nth(1).unwrap();
    let is_ours = header.split(',').any(|part| part == signature);
    own.headers.lock().push(header.to_owned());
    if !is_ours || (t - NOW).abs() > 300 {
        return http::StatusCode::BAD_REQUEST;
    }
    own.got.lock().push(serde_json::from_slice(&body).unwrap());
    let told = own.answers.lock().pop();
    http::StatusCode::from_u16(told.unwrap_or(200)).unwrap()
}

impl Receiver {
    /// Listens and registers itself for `events`.
    async fn listening(sim: &Sim, events: &str) -> (Self, String) {
        let (own, url) = Self::bound().await;
        let made = sim.post("/v1/webhook_endpoints", &format!("url={url}&{events}")).await.ok();
        *own.secret.lock() = made["secret"].as_str().unwrap().to_owned();
        (own, id(&made))
    }

    async fn bound() -> (Self, String) {
        let own = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(take)).with_state(own.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (own, url)
    }

    /// Listens and registers itself for thin events.
    pub async fn of_thin_events(sim: &Sim) -> Self {
        let (own, url) = Self::bound().await;
        let made = sim.control("/event_destinations", &json!({ "url": url })).await.ok();
        *own.secret.lock() = made["secret"].as_str().unwrap().to_owned();
        own
    }

    fn kinds(&self) -> Vec<String> {
        self.got.lock().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }
}

const ALL: &str = "enabled_events[]=*";

/// Waits until `count` deliveries have ended.
async fn ended(sim: &Sim, count: usize) -> Value {
    sim.until("/deliveries", |seen| {
        let rows = seen["deliveries"].as_array().unwrap();
        rows.len() == count && rows.iter().all(|row| row["state"] != "pending")
    })
    .await
}

fn statuses(delivery: &Value) -> Vec<Option<u64>> {
    delivery["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["status"].as_u64())
        .collect()
}

#[tokio::test]
async fn an_event_comes_signed_and_is_the_one_that_the_api_shows() {
    let sim = Sim::start().await;
    let (receiver, endpoint) = Receiver::listening(
        &sim,
        "enabled_events[]=customer.created&api_version=2026-09-30.endive",
    )
    .await;
    let customer = sim.post_keyed("/v1/customers", "email=a@b.c", "k1").await.unwrap();
    sim.product().await; // Nobody asked for product.created.
    let log = ended(&sim, 1).await;
    assert_eq!(
        (&log["deliveries"][0]["endpoint"], &log["deliveries"][0]["state"]),
        (&json!(endpoint), &json!("delivered"))
    );
    let event = receiver.got.lock()[0].clone();
    assert_eq!(
        (&event["type"], &event["data"]["object"]),
        (&json!("customer.created"), &customer.body)
    );
    assert_eq!(
        event["request"],
        json!({ "id": customer.header("request-id").unwrap(), "idempotency_key": "k1" })
    );
    assert_eq!(
        (&event["api_version"], &event["pending_webhooks"]),
        (&json!("2026-09-30.endive"), &json!(1))
    );
    let shown = sim.get(&format!("/v1/events/{}", id(&event))).await.ok();
    assert_eq!((&shown["data"], &shown["pending_webhooks"]), (&event["data"], &json!(0)));
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_update_tells_what_it_changed() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let path = format!("/v1/customers/{customer}");
    sim.post(&path, "name=Ann&metadata[a]=1").await.ok();
    sim.post(&path, "name=Ann").await.ok(); // Nothing changed: no event.
    let events = sim.get("/v1/events?type=customer.updated").await.ok();
    assert_eq!(ids(&events).len(), 1);
    assert_eq!(
        events["data"][0]["data"]["previous_attributes"],
        json!({ "name": null, "metadata": { "a": null } })
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_secret_is_shown_once() {
    let sim = Sim::start().await;
    let (_, endpoint) = Receiver::listening(&sim, ALL).await;
    let path = format!("/v1/webhook_endpoints/{endpoint}");
    assert!(sim.get(&path).await.ok().get("secret").is_none());
    assert!(sim.get("/v1/webhook_endpoints").await.ok()["data"][0].get("secret").is_none());
    assert_eq!(
        sim.post("/v1/webhook_endpoints", &format!("url=ftp://example.com/x&{ALL}"))
            .await
            .refusal()
            .2,
        Some("url_invalid")
    );
    assert_eq!(
        sim.post("/v1/webhook_endpoints", "url=http://127.0.0.1/x&enabled_events[]=made.up")
            .await
            .status,
        400
    );
    assert_eq!(sim.delete(&path).await.ok()["deleted"], true);
    assert_eq!(sim.get(&path).await.status, 404);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_refused_delivery_is_tried_again_until_it_is_taken() {
    let sim = Sim::start().await;
    let (receiver, _) = Receiver::listening(&sim, ALL).await;
    *receiver.answers.lock() = vec![302, 503, 500];
    sim.customer().await;
    let log = ended(&sim, 1).await;
    assert_eq!(statuses(&log["deliveries"][0]), [Some(500), Some(503), Some(302), Some(200)]);
    assert_eq!(receiver.kinds().len(), 4);
}

#[tokio::test]
async fn a_delivery_that_is_never_taken_stays_undelivered() {
    let sim = Sim::with(|config| config.webhook_attempts = 3).await;
    sim.post("/v1/webhook_endpoints", &format!("url=http://127.0.0.1:1/closed&{ALL}")).await.ok();
    sim.customer().await;
    let log = ended(&sim, 1).await;
    assert_eq!(
        (&log["deliveries"][0]["state"], statuses(&log["deliveries"][0]).len()),
        (&json!("failed"), 3)
    );
    assert_eq!(ids(&sim.get("/v1/events?delivery_success=false").await.ok()).len(), 1);
    assert_eq!(ids(&sim.get("/v1/events?delivery_success=true").await.ok()).len(), 0);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_endpoint_can_be_given_at_the_start() {
    let (own, listener) =
        (Receiver::default(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(take)).with_state(own.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    *own.secret.lock() = "whsec_given".to_owned();
    let sim = Sim::with(|config| {
        (config.webhook_url, config.webhook_secret) = (Some(url), Some("whsec_given".to_owned()));
    })
    .await;
    sim.customer().await;
    assert_eq!(ended(&sim, 1).await["deliveries"][0]["state"], "delivered");
    assert_eq!(own.kinds(), ["customer.created"]);
}

#[tokio::test]
async fn a_duplicate_comes_twice_and_a_dropped_one_never() {
    let sim = Sim::start().await;
    let (receiver, _) = Receiver::listening(&sim, ALL).await;
    let faults = json!({ "delivery": [{ "kind": "duplicate", "event_type": "customer." }, { "kind": "drop", "event_type": "product." }] });
    sim.control("/faults", &faults).await.ok();
    sim.customer().await;
    sim.product().await;
    let log = ended(&sim, 2).await;
    assert_eq!(
        (statuses(&log["deliveries"][0]), &log["deliveries"][1]["state"]),
        (vec![Some(200), Some(200)], &json!("dropped"))
    );
    let got = receiver.got.lock().clone();
    assert_eq!((got.len(), &got[0]), (2, &got[1]));
    let lost = sim.get("/v1/events?delivery_success=false").await.ok();
    assert_eq!(lost["data"][0]["type"], "product.created", "a sweep finds it");
}

#[tokio::test]
async fn a_reordered_delivery_lets_the_next_one_pass() {
    let sim = Sim::start().await;
    let (receiver, _) = Receiver::listening(&sim, ALL).await;
    sim.control("/faults", &json!({ "delivery": [{ "kind": "reorder", "delay_ms": 60_000 }] }))
        .await
        .ok();
    sim.customer().await;
    sim.until("/faults", |faults| faults["delivery"] == json!([])).await;
    sim.product().await;
    ended(&sim, 2).await;
    assert_eq!(receiver.kinds(), ["product.created", "customer.created"]);
}

#[tokio::test]
async fn a_wrong_signature_is_refused_and_then_the_right_one_comes() {
    let sim = Sim::start().await;
    let (receiver, _) = Receiver::listening(&sim, ALL).await;
    sim.control("/faults", &json!({ "delivery": [{ "kind": "wrong_signature" }] })).await.ok();
    sim.customer().await;
    let log = ended(&sim, 1).await;
    assert_eq!(
        (statuses(&log["deliveries"][0]), &log["deliveries"][0]["fault"]),
        (vec![Some(400), Some(200)], &json!("wrong_signature"))
    );
    assert_eq!(receiver.kinds().len(), 1);
}

#[tokio::test]
async fn a_stale_stamp_is_refused_and_then_a_fresh_one_comes() {
    let sim = Sim::start().await;
    let (receiver, _) = Receiver::listening(&sim, ALL).await;
    sim.control("/faults", &json!({ "delivery": [{ "kind": "stale_stamp" }] })).await.ok();
    sim.customer().await;
    let log = ended(&sim, 1).await;
    assert_eq!(statuses(&log["deliveries"][0]), [Some(400), Some(200)]);
    assert_eq!(log["deliveries"][0]["attempts"][0]["signed_at"], NOW - 600);
    assert!(receiver.headers.lock()[0].starts_with(&format!("t={},v1=", NOW - 600)));
}

#[tokio::test]
async fn twins_are_two_events_for_one_change() {
    let sim = Sim::start().await;
    let (receiver, _) = Receiver::listening(&sim, ALL).await;
    sim.control("/faults", &json!({ "delivery": [{ "kind": "twin" }] })).await.ok();
    sim.customer().await;
    sim.product().await;
    ended(&sim, 3).await;
    let got = receiver.got.lock().clone();
    let twins: Vec<&Value> = got.iter().filter(|row| row["type"] == "customer.created").collect();
    assert_eq!(twins.len(), 2);
    assert_ne!(twins[0]["id"], twins[1]["id"]);
    assert_eq!(twins[0]["data"], twins[1]["data"]);
    let listed = sim.get("/v1/events?type=customer.created").await.ok();
    assert_eq!(ids(&listed).len(), 2);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_event_can_come_under_an_unknown_type_or_without_its_nulls() {
    let sim = Sim::start().await;
    let (receiver, _) = Receiver::listening(&sim, ALL).await;
    let faults = json!({ "delivery": [
        { "kind": "unknown_type", "event_type": "customer." },
        { "kind": "missing_fields", "event_type": "product." },
    ] });
    sim.control("/faults", &faults).await.ok();
    sim.customer().await;
    ended(&sim, 1).await;
    sim.product().await;
    ended(&sim, 2).await;
    let got = receiver.got.lock().clone();
    assert_eq!(got[0]["type"], "stripe_sim.unknown_type");
    assert_eq!(ids(&sim.get("/v1/events?type=customer.created").await.ok()), [id(&got[0])]);
    let (sent, shown) = (&got[1], sim.get("/v1/events?type=product.created").await.ok());
    assert!(sent["data"]["object"].get("description").is_none());
    assert_eq!(shown["data"][0]["data"]["object"].get("description"), Some(&Value::Null));
}

#[tokio::test]
async fn while_a_secret_is_rolled_both_sign() {
    let sim = Sim::start().await;
    let (receiver, endpoint) = Receiver::listening(&sim, ALL).await;
    let path = format!("/webhook_endpoints/{endpoint}/roll");
    let rolled = sim.control(&path, &json!({ "keep_s": 60 })).await.ok();
    sim.customer().await; // The receiver still knows only the old secret.
    ended(&sim, 1).await;
    rolled["secret"].as_str().unwrap().clone_into(&mut receiver.secret.lock());
    sim.product().await;
    ended(&sim, 2).await;
    sim.advance(60).await;
    sim.customer().await;
    ended(&sim, 3).await;
    let signatures: Vec<usize> =
        receiver.headers.lock().iter().map(|header| header.matches("v1=").count()).collect();
    assert_eq!(signatures, [2, 2, 1]);
    assert_eq!(receiver.kinds().len(), 3, "all three were taken at the first attempt");
    assert_eq!(sim.control(&path, &json!({ "keep_s": 86_401 })).await.status, 422);
    assert_eq!(sim.control("/webhook_endpoints/we_none/roll", &json!({})).await.status, 404);
}

#[tokio::test]
async fn a_disabled_endpoint_gets_nothing() {
    let sim = Sim::start().await;
    let (receiver, endpoint) = Receiver::listening(&sim, ALL).await;
    sim.post(&format!("/v1/webhook_endpoints/{endpoint}"), "disabled=true").await.ok();
    sim.customer().await;
    assert_eq!(sim.look("/deliveries").await["recorded"], 0);
    sim.post(&format!("/v1/webhook_endpoints/{endpoint}"), "disabled=false").await.ok();
    sim.product().await;
    ended(&sim, 1).await;
    assert_eq!(receiver.kinds(), ["product.created"]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn events_are_listed_for_30_days() {
    let sim = Sim::start().await;
    sim.customer().await;
    sim.advance(30 * 86_400).await;
    assert_eq!(ids(&sim.get("/v1/events").await.ok()).len(), 1);
    sim.advance(1).await;
    assert_eq!(ids(&sim.get("/v1/events").await.ok()).len(), 0);
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_endpoint_elsewhere_is_kept_and_never_sent_to() {
    let sim = Sim::start().await;
    let form = format!("url=https://example.test/hook&{ALL}");
    let made = sim.post("/v1/webhook_endpoints", &form).await.ok();
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    sim.customer().await;
    let seen = sim.until("/deliveries", |seen| seen["deliveries"][0]["state"] == "failed").await;
    let attempts = seen["deliveries"][0]["attempts"].as_array().unwrap();
    let error = attempts[0]["error"].as_str().unwrap();
    assert_eq!(attempts.len(), 1);
    assert!(error.starts_with("not sent: "), "{error}");
}
