//! The sweep: what nobody told of is found; and the portal, which operators ask for.

use http::StatusCode;
use schemas::{BillingMode, TenantId};
use serde_json::{Value, json};

use crate::world::{OPERATOR, World, hour};

const EVERY_SECOND: [(&str, &str); 1] = [("BILLING_SWEEP_CRON", "* * * * * *")];

/// A metric's value, as it is written.
async fn metric(world: &World, name: &str) -> Option<String> {
    let request = http::Request::get(format!("{}/metrics", world.billing));
    let request = request.body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
    let answer = runtime::http::Client::default()
        .send(request, std::time::Duration::from_secs(5), 1 << 20)
        .await
        .unwrap();
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map(|rest| rest.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_that_nobody_looked_at_for_a_day_is_looked_at() {
    let world = World::new().await;
    let _billing = world.start_with(&EVERY_SECOND).await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (_, subscription) = world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world.until_worked().await;
    // No event tells of it, and none can be fetched: only a look shows it.
    world.drop_deliveries().await;
    world.sql("update subscribed set read_at_ms = read_at_ms - 90000000").await;
    let old = "select read_at_ms from subscribed";
    let read_at = async || sqlx::query_scalar::<_, i64>(old).fetch_one(&world.pool).await.unwrap();
    let before = read_at().await;
    world.until("it is read again", async || read_at().await > before + 80_000_000).await;
    assert_eq!(world.access(tenant).await.as_deref(), Some("active: subscription active"));
    // One that is over is not.
    world.set_status(&subscription, "canceled").await;
    world
        .until("it is suspended", async || {
            world.access(tenant).await.is_some_and(|said| said.starts_with("suspended"))
        })
        .await;
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stuck_is_counted() {
    let world = World::new().await;
    let settings = [EVERY_SECOND[0], ("BILLING_STUCK_AFTER_MS", "1000")];
    let _billing = world.start_with(&settings).await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    // Stripe's answers are lost, again and again.
    let order = json!({ "kind": "unavailable_503", "method": "POST", "path": "/v1/billing/meter_events", "count": 1000 });
    world.faults(json!({ "api": [order] })).await;
    world.seal(&[(tenant, hour(3), 1, 5)]).await;
    let stuck = async |state: &str| {
        metric(&world, &format!("billing_reports_stuck{{state=\"{state}\"}}")).await
    };
    world
        .until("one is stuck", async || {
            [stuck("pending").await, stuck("sent").await, stuck("ambiguous").await]
                .contains(&Some("1".to_owned()))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_differs_from_what_stripe_took_is_a_row_until_it_agrees() {
    let world = World::new().await;
    let _billing = world.start_with(&EVERY_SECOND).await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let (_, subscription) = world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world.seal(&[(tenant, hour(0), 1, 5), (tenant, hour(0), 2, 7)]).await;
    world.until_all_accepted(2).await;
    let drift = async || -> Vec<Value> {
        world.get("/billing/drift").await.1["drift"].as_array().cloned().unwrap_or_default()
    };
    // Both sides hold 12: compared when they have been quiet for a while, and nothing differs.
    world.sql("update meter_report set settled_at_ms = settled_at_ms - 1000000").await;
    let compared = async || -> i64 {
        sqlx::query_scalar("select count(*) from drift").fetch_one(&world.pool).await.unwrap()
    };
    world.until("it is compared", async || compared().await == 1).await;
    assert_eq!(drift().await, Vec::<Value>::new());
    // By our books Stripe took more than it holds.
    world.sql("update meter_report set quantity = quantity + 3 where revision = 1").await;
    world.sql("update drift set compared_at_ms = 0").await;
    world.until("it differs", async || drift().await.len() == 1).await;
    let row = drift().await.remove(0);
    assert_eq!((&row["taken_units"], &row["told_units"]), (&json!(15), &json!(12)));
    assert_eq!(row["subscription"], subscription.as_str());
    world
        .until("it shows", async || {
            metric(&world, "billing_drift_units").await.as_deref() == Some("3")
        })
        .await;
    world.sql("update meter_report set quantity = quantity - 3 where revision = 1").await;
    world.sql("update drift set compared_at_ms = 0").await;
    world.until("it agrees again", async || drift().await.is_empty()).await;
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_portal_opens_for_a_tenant_with_a_customer_and_for_nobody_else() {
    let world = World::new().await;
    let _billing = world.start().await;
    let (tenant, none) =
        (world.tenant(BillingMode::Stripe).await, world.tenant(BillingMode::None).await);
    let (customer, _) = world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    let back = "https://example.com/account";
    let ask = async |tenant: TenantId, token: Option<&str>| {
        let body = json!({ "tenant_id": tenant, "return_url": back });
        world.post("/billing/portal", token, &body).await
    };
    let (status, answer) = ask(tenant, Some(OPERATOR)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer["url"].as_str().unwrap().starts_with("http"), "{answer}");
    let journal = world.sim_get("/_sim/journal?path=/v1/billing_portal/sessions").await.to_string();
    assert!(journal.contains(&customer), "{journal}");
    assert_eq!(ask(tenant, None).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(none, Some(OPERATOR)).await.0, StatusCode::CONFLICT);
    assert_eq!(ask(TenantId(uuid::Uuid::now_v7()), Some(OPERATOR)).await.0, StatusCode::NOT_FOUND);
    let typo = json!({ "tenant_id": tenant, "return_url": back, "typo": 1 });
    assert_eq!(
        world.post("/billing/portal", Some(OPERATOR), &typo).await.0,
        StatusCode::BAD_REQUEST
    );
    world.assert_valid().await;
}
