//! The door: what is signed is kept once, what is not leaves no trace.

use hmac::{Hmac, KeyInit, Mac};
use http::{Method, StatusCode};
use schemas::{BillingMode, subject};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::world::{SECRET, World, now};

impl World {
    /// Delivers a body as Stripe would, signed with `secret`.
    pub async fn deliver_as(&self, secret: &str, body: &str) -> (StatusCode, Value) {
        let at = now().0 / 1000;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{at}.{body}").as_bytes());
        let signature = format!("t={at},v1={}", hex::encode(mac.finalize().into_bytes()));
        let url = format!("{}/stripe/webhook", self.billing);
        self.send(Method::POST, &url, &[("stripe-signature", &signature)], body).await
    }

    pub async fn deliver(&self, body: &Value) -> StatusCode {
        self.deliver_as(SECRET, &body.to_string()).await.0
    }

    /// Waits until every event in the log has been worked on.
    pub async fn until_worked(&self) {
        self.until("all events are worked on", async || {
            let done: i64 =
                sqlx::query_scalar("select seq from checkpoint where projection = 'stripe'")
                    .fetch_one(&self.pool)
                    .await
                    .unwrap();
            u64::try_from(done).unwrap() == self.messages_of(subject::STRIPE).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_signature_leaves_no_trace() {
    let world = World::new().await;
    world.drop_deliveries().await; // Setting up makes events of its own.
    let _billing = world.start().await;
    let event = json!({ "id": "evt_1", "object": "event", "type": "invoice.paid", "livemode": false, "data": { "object": { "customer": "cus_1" } } });
    let (status, problem) = world.deliver_as("whsec_of_somebody_else", &event.to_string()).await;
    assert_eq!(
        (status, problem["type"].as_str()),
        (StatusCode::BAD_REQUEST, Some("/problems/bad-signature"))
    );
    let url = format!("{}/stripe/webhook", world.billing);
    assert_eq!(
        world.send(Method::POST, &url, &[], &event.to_string()).await.0,
        StatusCode::BAD_REQUEST
    );
    let huge = "x".repeat(1024 * 1024);
    assert_eq!(world.deliver_as(SECRET, &huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.messages_of(subject::STRIPE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_signed_is_kept_once_and_set_aside_if_it_cannot_be_used() {
    let world = World::new().await;
    world.drop_deliveries().await; // Setting up makes events of its own.
    let _billing = world.start().await;
    let event = |id: &str, kind: &str, live: bool, object: Value| json!({ "id": id, "object": "event", "type": kind, "livemode": live, "data": { "object": object } });
    let ghost = "tnt_00000000000000000000000000000009";
    let free = world.tenant(BillingMode::None).await;
    let stranger = world.stripe_post("/v1/customers", "name=Stranger").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let bodies = [
        event("evt_later", "a.type.of.tomorrow", false, json!({})),
        event("evt_mode", "invoice.paid", true, json!({ "customer": "cus_1" })),
        event("evt_nobody", "invoice.paid", false, json!({ "customer": stranger })),
        event(
            "evt_ghost",
            "checkout.session.completed",
            false,
            json!({ "customer": stranger, "client_reference_id": ghost }),
        ),
        event(
            "evt_free",
            "checkout.session.completed",
            false,
            json!({ "customer": stranger, "client_reference_id": free }),
        ),
        event("evt.with.dots", "invoice.paid", false, json!({ "customer": stranger })),
        json!({ "no": "id" }),
    ];
    for body in bodies.iter().chain(&bodies) {
        assert_eq!(world.deliver(body).await, StatusCode::OK, "{body}");
    }
    assert_eq!(world.deliver_as(SECRET, "not even JSON").await.0, StatusCode::OK);
    assert_eq!(world.messages_of(subject::STRIPE).await, 8, "each once");
    world.until_worked().await;
    let reasons = ["not_billed_here", "unknown_tenant", "unreadable", "unreadable", "wrong_mode"];
    assert_eq!(world.quarantined().await, reasons);
    assert_eq!(world.get("/ready").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_never_delivered_is_fetched_by_the_sweep() {
    let world = World::new().await;
    world.drop_deliveries().await;
    let _billing = world.start_with(&[("BILLING_SWEEP_CRON", "* * * * * *")]).await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    world
        .until("access", async || {
            world.access(tenant).await.as_deref() == Some("active: subscription active")
        })
        .await;
    let deliveries = world.sim_get("/_sim/deliveries").await;
    assert!(
        deliveries["deliveries"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["attempts"].as_array().unwrap().is_empty())
    );
    world.assert_valid().await;
}
