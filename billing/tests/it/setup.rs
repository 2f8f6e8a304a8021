//! Meter, product and price: made once, and refused when they are not what they must be.

use std::time::Duration;

use schemas::BillingMode;
use serde_json::Value;
use stack::Part;

use crate::world::{World, now};

fn count(list: &Value) -> usize {
    list["data"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setting_up_twice_makes_one_of_each_and_one_customer_a_tenant() {
    let world = World::new().await;
    let mut billing = world.start().await;
    billing.stop().await.unwrap();
    billing.start_again().await.unwrap();
    world.until_ready().await;
    for list in ["/v1/billing/meters", "/v1/products", "/v1/prices"] {
        assert_eq!(count(&world.sim_get(list).await), 1, "{list}");
    }
    let price = world.sim_get("/v1/prices").await["data"][0].clone();
    assert_eq!(
        (price["unit_amount_decimal"].as_str(), price["recurring"]["usage_type"].as_str()),
        (Some("0.1"), Some("metered"))
    );
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (first, second) = (world.checkout(tenant).await, world.checkout(tenant).await);
    assert_ne!(first, second);
    assert_eq!(count(&world.sim_get("/v1/customers").await), 1);
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meter_that_counts_otherwise_keeps_billing_from_starting() {
    let world = World::new().await;
    let missing = world.try_start(&[("BILLING_SETUP", "0")]).await;
    assert!(ends(missing, "no active meter").await, "without a meter it must not serve");
    let form = "display_name=X&event_name=tool_calls&default_aggregation[formula]=count";
    world.stripe_post("/v1/billing/meters", form).await;
    let wrong = world.try_start(&[]).await;
    assert!(
        ends(wrong, "default_aggregation.formula is `count`").await,
        "a counting meter must be refused"
    );
    let live = world.try_start(&[("BILLING_STRIPE_API_KEY", "sk_live_x")]).await;
    assert!(ends(live, "only ever sent to https://api.stripe.com").await);
    let blank = world.try_start(&[("BILLING_STRIPE_WEBHOOK_SECRETS", " ")]).await;
    assert!(ends(blank, "STRIPE_WEBHOOK_SECRETS").await);
}

/// Whether a start ended by itself and said this.
async fn ends(start: Result<stack::Service, stack::StackError>, said: &str) -> bool {
    match start {
        Err(error) => format!("{error}\n{error:?}").contains(said),
        // It answered /health before it saw the catalog; then it must end.
        Ok(service) => {
            let ended = service.child().unwrap().ended();
            tokio::time::timeout(Duration::from_secs(30), ended).await.is_ok()
                && service.log_tail().contains(said)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn periods_that_begin_inside_an_hour_keep_billing_from_starting_until_they_are_mended() {
    let world = World::new().await;
    let mut billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (customer, _) = world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    billing.stop().await.unwrap();
    billing.start_again().await.unwrap();
    world.until_ready().await; // What checkout makes begins at an hour's edge.
    // Made by hand at Stripe, ten minutes and a second past an hour.
    let price = world.sim_get("/v1/prices").await["data"][0]["id"].as_str().unwrap().to_owned();
    let anchor = (now().hour().0 + 24) * 3600 + 601;
    let form = format!("customer={customer}&items[0][price]={price}&billing_cycle_anchor={anchor}");
    let made = world.stripe_post("/v1/subscriptions", &form).await;
    let made = made["id"].as_str().unwrap();
    world
        .until("it is known", async || {
            let sql = "select count(*) from subscribed where subscription = $1";
            let known: i64 =
                sqlx::query_scalar(sql).bind(made).fetch_one(&world.pool).await.unwrap();
            known == 1
        })
        .await;
    billing.stop().await.unwrap();
    let refused = world.try_start(&[]).await;
    assert!(ends(refused, &format!("the periods of subscription {made} are counted from")).await);
    // Over at Stripe, which nobody has told of yet.
    world.drop_deliveries().await;
    world.stripe_delete(&format!("/v1/subscriptions/{made}")).await;
    billing.start_again().await.unwrap();
    world.until_ready().await;
    world.assert_valid().await;
}
