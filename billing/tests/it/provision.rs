//! One command makes a tenant with all it needs; a repeat makes nothing twice, and finishes what a kill cut off.

use std::time::{Duration, Instant};

use http::StatusCode;
use schemas::{BillingMode, ControlFact, Decision, KeyDigest, TenantId, subject};
use serde_json::{Value, json};
use stack::Part;

use crate::{
    proxy::{Hold, Proxy},
    world::World,
};

const PATH: &str = "/billing/provision";

fn invoiced() -> Value {
    json!({
        "name": "Acme", "time_zone": "Europe/Berlin", "project": "Search", "keys": ["server", "laptop"],
        "subscribe": { "invoiced": { "email": "billing@acme.example", "due_days": 30 } },
    })
}

impl World {
    /// Every fact on CONTROL that is of a tenant.
    async fn facts_of(&self, tenant: TenantId) -> Vec<ControlFact> {
        let stream = self.nats.jetstream.get_stream(subject::CONTROL).await.unwrap();
        let mut found = Vec::new();
        for seq in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(seq).await.unwrap();
            let decision: Decision = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(message.subject.as_str(), subject::control(&decision.facts[0]));
            if decision.tenant == tenant {
                found.extend(decision.facts);
            }
        }
        found
    }

    /// How many things Stripe has of a kind.
    async fn at_stripe(&self, list: &str) -> usize {
        let found = self.sim_get(&format!("/v1/{list}?limit=100")).await;
        found["data"].as_array().unwrap().len()
    }
}

fn tenant(answer: &Value) -> TenantId {
    answer["tenant_id"].as_str().unwrap().parse().unwrap()
}

fn secrets(answer: &Value) -> Vec<Option<String>> {
    let keys = answer["keys"].as_array().unwrap();
    keys.iter().map(|key| key["secret"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_makes_a_tenant_that_serves_and_a_repeat_makes_nothing() {
    let world = World::new().await;
    let _billing = world.start().await;
    let began = Instant::now();
    let (status, answer) = world.post_as("first", PATH, &invoiced()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let tenant = tenant(&answer);
    let facts = world.facts_of(tenant).await;
    let [
        ControlFact::TenantCreated { name, time_zone, billing: BillingMode::Stripe, .. },
        ControlFact::ProjectCreated { project, name: project_name, .. },
        ControlFact::CustomerLinked { customer, .. },
        ControlFact::AccessChanged { reason, subscription: Some(subscription), .. },
        ControlFact::KeyCreated { project: of, digest, name: server, .. },
        ControlFact::KeyCreated { name: laptop, .. },
    ] = &facts[..]
    else {
        panic!("{facts:?}");
    };
    assert_eq!(
        (name.as_str(), time_zone.as_str(), project_name.as_str()),
        ("Acme", "Europe/Berlin", "Search")
    );
    assert_eq!((server.as_str(), laptop.as_str(), of), ("server", "laptop", project));
    assert_eq!(reason, "subscription active");
    assert_eq!(
        (answer["customer"].as_str(), answer["subscription"].as_str()),
        (Some(&**customer), Some(&**subscription))
    );
    // The secret that is shown is the one whose digest is stored, and it is stored nowhere.
    let shown = secrets(&answer);
    let secret = shown[0].as_deref().unwrap();
    assert!(schemas::secret::is_well_formed(secret));
    assert_eq!(KeyDigest::of(secret), *digest);
    let found = world.sim_get(&format!("/v1/subscriptions/{subscription}")).await;
    let anchor = found["billing_cycle_anchor"].as_i64().unwrap();
    assert_eq!(anchor % 3600, 0, "periods begin at the edge of an hour");
    assert_eq!(found["collection_method"], "send_invoice");

    let (status, again) = world.post_as("first", PATH, &invoiced()).await;
    assert_eq!(status, StatusCode::OK, "{again}");
    assert_eq!(secrets(&again), [None, None], "a secret is shown once");
    for same in ["tenant_id", "project_id", "customer", "subscription"] {
        assert_eq!(again[same], answer[same]);
    }
    for place in 0..2 {
        for same in ["id", "name", "hint"] {
            assert_eq!(again["keys"][place][same], answer["keys"][place][same]);
        }
    }
    assert_eq!(world.facts_of(tenant).await, facts);
    assert_eq!(
        (world.at_stripe("customers").await, world.at_stripe("subscriptions").await),
        (1, 1)
    );
    let other = json!({ "name": "Other", "subscribe": invoiced()["subscribe"] });
    let (status, problem) = world.post_as("first", PATH, &other).await;
    assert_eq!(
        (status, problem["type"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("/problems/idempotency-key-reused"))
    );
    let (_, another) = world.post_as("second", PATH, &other).await;
    assert_ne!(another["tenant_id"], answer["tenant_id"]);
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkout_link_gives_access_when_it_is_paid() {
    let world = World::new().await;
    let _billing = world.start().await;
    let body = json!({
        "name": "Acme",
        "subscribe": { "checkout": { "success_url": "https://acme.example/done", "cancel_url": null } },
    });
    let (status, answer) = world.post_as("a", PATH, &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (tenant, again) = (tenant(&answer), world.post_as("a", PATH, &body).await.1);
    assert_eq!(again["checkout_url"], answer["checkout_url"]);
    assert_eq!(
        (world.at_stripe("customers").await, world.at_stripe("subscriptions").await),
        (1, 0)
    );
    assert_eq!(world.access(tenant).await, None, "nobody has paid");
    let sessions = world.sim_get("/v1/checkout/sessions?limit=100").await["data"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 1);
    let session = sessions[0]["id"].as_str().unwrap();
    world.sim_post(&format!("/_sim/checkout/sessions/{session}/complete"), &json!({})).await;
    world
        .until("access", async || {
            world.access(tenant).await.as_deref() == Some("active: subscription active")
        })
        .await;
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_obeyed_begins_nothing() {
    let world = World::new().await;
    let _billing = world.start().await;
    let with = |field: &str, value: Value| {
        let mut body = invoiced();
        body[field] = value;
        body
    };
    let to = |email: &str, due_days: u32| json!({ "invoiced": { "email": email, "due_days": due_days } });
    for wrong in [
        with("name", json!(" ")),
        with("time_zone", json!("Mars/Olympus")),
        with("keys", json!([])),
        with("keys", json!(["a", "a"])),
        with("plan", json!("gold@1")),
        with("typo", json!(1)),
        with("subscribe", to("nobody", 30)),
        with("subscribe", to("a@b.example", 0)),
        with("subscribe", json!({ "checkout": { "success_url": "ftp://x", "cancel_url": null } })),
    ] {
        assert_eq!(world.post_as("k", PATH, &wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(world.post(PATH, None, &invoiced()).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.messages_of(subject::CONTROL).await, 0);
    assert_eq!(world.at_stripe("customers").await, 0);
}

/// Kills billing while a request to Stripe is held, repeats the command and looks for one of everything.
async fn killed_while(watched: &'static str, hold: Hold) {
    let world = World::new().await;
    let proxy = Proxy::start(&world.sim, watched, hold).await;
    let url = proxy.url();
    let mut billing = world.start_with(&[("BILLING_STRIPE_URL", &url)]).await;
    let mut held = proxy.held.clone();
    let cut_off = async {
        held.wait_for(|held| *held > 0).await.unwrap();
        billing.kill().await.unwrap();
        proxy.cut_and_release().await;
    };
    let body = invoiced();
    let (answer, ()) = tokio::join!(world.post_as("k", PATH, &body), cut_off);
    assert!(!answer.0.is_success() || answer.1.is_null(), "{answer:?}");
    billing.start_again().await.unwrap();
    world.until_ready().await;
    let (status, answer) = world.post_as("k", PATH, &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(secrets(&answer).iter().all(Option::is_some), "nobody has seen them before");
    assert_eq!(
        (world.at_stripe("customers").await, world.at_stripe("subscriptions").await),
        (1, 1)
    );
    let facts = world.facts_of(tenant(&answer)).await;
    assert_eq!(facts.len(), 6, "{facts:?}");
    assert_eq!(world.access(tenant(&answer)).await.as_deref(), Some("active: subscription active"));
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_the_customer_is_made_leaves_a_repeat_to_finish() {
    killed_while("POST /v1/customers ", Hold::Requests).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_the_customer_was_made_makes_no_second_one() {
    killed_while("POST /v1/customers ", Hold::Answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_the_subscription_was_made_makes_no_second_one() {
    killed_while("POST /v1/subscriptions ", Hold::Answers).await;
}

/// As a kill between two keys leaves it: the first is on the log and perhaps nobody has its secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_two_keys_leaves_the_second_to_a_repeat() {
    let world = World::new().await;
    let _billing = world.start().await;
    let mut body = invoiced();
    body["keys"] = json!(["server"]);
    let (_, first) = world.post_as("k", PATH, &body).await;
    world.sql("delete from provision").await;
    let (status, answer) = world.post_as("k", PATH, &invoiced()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let secrets = secrets(&answer);
    assert!(secrets[0].is_none() && secrets[1].is_some(), "{answer}");
    assert_eq!(answer["keys"][0]["id"], first["keys"][0]["id"]);
    assert_eq!(world.facts_of(tenant(&answer)).await.len(), 6);
}
