//! Keys follow the subscription, in whatever order, and how often, the news comes.

use std::time::Duration;

use billing::access::{Access, Looked};
use runtime::settings::Secret;
use schemas::BillingMode;
use serde_json::json;

use crate::{
    proxy::{Hold, Proxy},
    world::{API_KEY, World},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_follows_the_subscription() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (_, subscription) = world.subscribe(tenant).await;
    for (status, access) in [
        ("active", "active: subscription active"),
        ("past_due", "active: payment overdue"),
        ("unpaid", "suspended: unpaid"),
        ("active", "active: subscription active"),
        ("paused", "suspended: subscription paused"),
        ("active", "active: subscription active"),
        ("canceled", "suspended: canceled"),
    ] {
        world.set_status(&subscription, status).await;
        world.until(status, async || world.access(tenant).await.as_deref() == Some(access)).await;
    }
    assert_eq!(
        world.decisions(tenant).await.len(),
        7,
        "one decision for each change, the link with the first"
    );
    // Won back: a new subscription of the same customer, and the end of the old one comes late.
    let (_, second) = world.subscribe(tenant).await;
    world
        .until("won back", async || {
            world.access(tenant).await.as_deref() == Some("active: subscription active")
        })
        .await;
    assert_ne!(second, subscription);
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_plan_reaches_the_keys_though_access_stays() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (_, subscription) = world.subscribe(tenant).await;
    let is = async |plan: &str| world.plan(tenant).await.as_deref() == Some(plan);
    world.until("the plan of the settings", async || is("payg-usd-100@1").await).await;
    let now = world.sim_get(&format!("/v1/subscriptions/{subscription}")).await;
    let item = &now["items"]["data"][0];
    let form = format!(
        "currency=usd&product={}&recurring[interval]=month&recurring[usage_type]=metered&recurring[meter]={}&unit_amount=1\
         &metadata[tollbook_plan]=team@2&metadata[tollbook_charge]=tool-calls",
        item["price"]["product"].as_str().unwrap(),
        item["price"]["recurring"]["meter"].as_str().unwrap(),
    );
    let price = world.stripe_post("/v1/prices", &form).await;
    let form = format!(
        "items[0][id]={}&items[0][price]={}",
        item["id"].as_str().unwrap(),
        price["id"].as_str().unwrap()
    );
    world.stripe_post(&format!("/v1/subscriptions/{subscription}"), &form).await;
    world.until("the new plan", async || is("team@2").await).await;
    assert_eq!(world.access(tenant).await.as_deref(), Some("active: subscription active"));
    assert_eq!(world.decisions(tenant).await.len(), 2, "one for each plan");
}

/// Every order of four changes, each told twice, while Stripe itself has gone on: the end is what Stripe says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_every_order_and_twice_end_alike() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (customer, subscription) = world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world.until_worked().await;
    world.drop_deliveries().await;
    let words = ["past_due", "unpaid", "paused", "active"];
    let event = |round: usize, word: &str| {
        json!({
            "id": format!("evt_{round}_{word}"), "object": "event", "type": "customer.subscription.updated", "livemode": false,
            "data": { "object": { "id": subscription, "object": "subscription", "status": word, "customer": customer } },
        })
    };
    for (round, order) in orders().into_iter().enumerate() {
        // What Stripe holds at the end differs from round to round, so that a stale event would show.
        let end = words[round % words.len()];
        let midway = words[(round + 2) % words.len()];
        world.set_status(&subscription, midway).await;
        for (place, word) in order.iter().enumerate() {
            if place == 2 {
                world.set_status(&subscription, end).await;
            }
            for _ in 0..2 {
                world.deliver(&event(round, words[*word])).await;
            }
        }
        world.until_worked().await;
        let expected = match end {
            "past_due" => "active: payment overdue",
            "unpaid" => "suspended: unpaid",
            "paused" => "suspended: subscription paused",
            _ => "active: subscription active",
        };
        assert_eq!(world.access(tenant).await.as_deref(), Some(expected), "{order:?}");
    }
    assert_eq!(world.quarantined().await, Vec::<String>::new());
    world.assert_valid().await;
}

fn orders() -> Vec<[usize; 4]> {
    let mut all = Vec::new();
    for a in 0..4 {
        for b in 0..4 {
            for c in 0..4 {
                for d in 0..4 {
                    if [a, b, c, d].iter().collect::<std::collections::BTreeSet<_>>().len() == 4 {
                        all.push([a, b, c, d]);
                    }
                }
            }
        }
    }
    assert_eq!(all.len(), 24);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkout_for_somebody_elses_tenant_links_nothing() {
    let world = World::new().await;
    let _billing = world.start().await;
    let (mine, yours) =
        (world.tenant(BillingMode::Stripe).await, world.tenant(BillingMode::Stripe).await);
    let (customer, _) = world.subscribe(mine).await;
    world.subscribe(yours).await;
    world
        .until("both have access", async || {
            world.access(mine).await.is_some() && world.access(yours).await.is_some()
        })
        .await;
    let stranger = world.stripe_post("/v1/customers", "name=Stranger").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (id, customer) in [("evt_known", customer), ("evt_stranger", stranger)] {
        let completed = json!({
            "id": id, "object": "event", "type": "checkout.session.completed", "livemode": false,
            "data": { "object": { "id": "cs_1", "customer": customer, "client_reference_id": yours } },
        });
        world.deliver(&completed).await;
    }
    world.until_worked().await;
    assert_eq!(world.quarantined().await, ["other_customer", "tenant_conflict"]);
    assert_eq!((world.decisions(mine).await.len(), world.decisions(yours).await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_customer_loses_access() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (customer, _) = world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world.stripe_delete(&format!("/v1/customers/{customer}")).await;
    world
        .until("suspended", async || {
            world.access(tenant).await.as_deref() == Some("suspended: customer deleted")
        })
        .await;
    world.assert_valid().await;
}

/// Somebody reads Stripe, sleeps over it, and comes back with old news when newer news was decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_news_never_overwrites_newer() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (customer, subscription) = world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world.drop_deliveries().await;

    let proxy = Proxy::start(&world.sim, "GET /v1/subscriptions?", Hold::Answers).await;
    let key = Secret::new(API_KEY.to_owned());
    let stripe = billing::stripe::Client::new(&proxy.url(), key, Duration::from_secs(60));
    let ladder = std::sync::Arc::default();
    let slow =
        Access { pool: world.pool.clone(), nats: world.nats.clone(), stripe, ladder, heals: false };
    world.set_status(&subscription, "past_due").await;
    let look = tokio::spawn(async move { slow.look(&customer, None).await });
    proxy.held.clone().wait_for(|held| *held > 0).await.unwrap();

    world.set_status(&subscription, "unpaid").await;
    let event = json!({
        "id": "evt_news", "object": "event", "type": "customer.subscription.updated", "livemode": false,
        "data": { "object": { "id": subscription, "customer": world.customer_of(tenant).await } },
    });
    world.deliver(&event).await;
    world
        .until("the newer is decided", async || {
            world.access(tenant).await.as_deref() == Some("suspended: unpaid")
        })
        .await;
    proxy.release();
    assert_eq!(look.await.unwrap().unwrap(), Looked::Unchanged);
    assert_eq!(world.access(tenant).await.as_deref(), Some("suspended: unpaid"));
}
