//! Webhooks: forged ones change nothing; doubled and disordered ones end the same.

use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, StatusCode};
use http_body_util::Full;
use plant::{Demo, Plant, PlantSettings};
use runtime::http::Client;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::world::{eventually, subscribed};

async fn deliver(plant: &Plant, event: &Value, secret: &str) -> StatusCode {
    let body = event.to_string();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{now}.{body}").as_bytes());
    let signature = format!("t={now},v1={}", hex::encode(mac.finalize().into_bytes()));
    let request = Request::post(format!("{}/stripe/webhook", plant.addresses.billing))
        .header("stripe-signature", signature)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    Client::default().send(request, Duration::from_secs(10), 1 << 20).await.unwrap().status()
}

async fn status(plant: &Plant, demo: &Demo) -> String {
    let key = plant.admin_api().get(&format!("/admin/api-keys/{}", demo.limited.id)).await.unwrap();
    key["status"].as_str().unwrap().to_owned()
}

/// The events that Stripe has sent so far, oldest first.
async fn sent(plant: &Plant) -> Vec<Value> {
    let stripe = plant::Api::new(&plant.stripe_sim_url(), Some(plant::STRIPE_KEY));
    let page = stripe.get("/v1/events?limit=100").await.unwrap();
    let mut events = page["data"].as_array().unwrap().clone();
    events.reverse();
    events
}

async fn subscription(plant: &Plant) -> String {
    let events = sent(plant).await;
    let created =
        events.iter().find(|event| event["type"] == "customer.subscription.created").unwrap();
    created["data"]["object"]["id"].as_str().unwrap().to_owned()
}

async fn set(plant: &Plant, subscription: &str, status: &str) {
    let path = format!("/_sim/subscriptions/{subscription}/status");
    plant.stripe_control().post(&path, &json!({ "status": status })).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_webhook_changes_nothing() {
    let (plant, demo) = subscribed(PlantSettings::default(), 10).await;
    let id = subscription(&plant).await;
    let mut forged = sent(&plant)
        .await
        .into_iter()
        .find(|e| e["type"] == "customer.subscription.created")
        .unwrap();
    forged["id"] = json!("evt_forged");
    forged["type"] = json!("customer.subscription.deleted");
    forged["data"]["object"]["id"] = json!(id);
    forged["data"]["object"]["status"] = json!("canceled");
    assert_eq!(deliver(&plant, &forged, "whsec_wrong").await, StatusCode::BAD_REQUEST);
    assert_eq!(status(&plant, &demo).await, "active");
    // Even well signed it is only a reason to look: Stripe says that the subscription is active.
    assert_eq!(deliver(&plant, &forged, &plant.addresses.webhook_secret).await, StatusCode::OK);
    set(&plant, &id, "past_due").await;
    set(&plant, &id, "active").await;
    assert_eq!(status(&plant, &demo).await, "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn doubled_and_disordered_webhooks_end_the_same() {
    let (plant, demo) = subscribed(PlantSettings::default(), 10).await;
    let id = subscription(&plant).await;
    set(&plant, &id, "unpaid").await;
    eventually("an unpaid subscription suspends", || async {
        status(&plant, &demo).await == "suspended"
    })
    .await;
    set(&plant, &id, "active").await;
    eventually("a paid one resumes", || async { status(&plant, &demo).await == "active" }).await;
    let mut events = sent(&plant).await;
    events.reverse();
    for event in events.iter().chain(events.iter().rev()) {
        assert_eq!(deliver(&plant, event, &plant.addresses.webhook_secret).await, StatusCode::OK);
    }
    set(&plant, &id, "canceled").await;
    eventually("a canceled one suspends", || async { status(&plant, &demo).await == "suspended" })
        .await;
    for event in &events {
        assert_eq!(deliver(&plant, event, &plant.addresses.webhook_secret).await, StatusCode::OK);
    }
    assert_eq!(status(&plant, &demo).await, "suspended", "old news is no news");
}
