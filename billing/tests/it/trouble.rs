//! What Stripe says later of reports that it took, and what is done while clocks differ.

use std::time::Duration;

use schemas::BillingMode;
use serde_json::json;

use crate::world::{SECRET, World, hour};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_stripe_refuses_later_is_found_by_its_thin_event() {
    let world = World::new().await;
    let _billing = world.start().await;
    let url = format!("{}/stripe/webhook", world.billing);
    let destination = json!({ "url": url, "secret": SECRET });
    world.sim_post("/_sim/event_destinations", &destination).await;
    let (gone, stays) =
        (world.tenant(BillingMode::Stripe).await, world.tenant(BillingMode::Stripe).await);
    let (customer, _) = world.subscribe(gone).await;
    world.subscribe(stays).await;
    world
        .until("access", async || {
            world.access(gone).await.is_some() && world.access(stays).await.is_some()
        })
        .await;
    world.stripe_delete(&format!("/v1/customers/{customer}")).await;
    world.seal(&[(gone, hour(1), 1, 5), (stays, hour(1), 2, 7)]).await;
    world
        .until("both left", async || {
            let totals = (world.totals(gone).await, world.totals(stays).await);
            totals.0["pending"] == 0 && totals.1["accepted"] == 7
        })
        .await;
    world.sim_post("/_sim/clock", &json!({ "advance": 11 })).await;
    world.until("it is told", async || world.totals(gone).await["rejected"] == 5).await;
    assert_eq!(
        (&world.totals(gone).await["accepted"], &world.totals(stays).await["accepted"]),
        (&json!(0), &json!(7))
    );
    let said: String = sqlx::query_scalar("select said from meter_report where state = 'rejected'")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(said, "refused later: meter_event_customer_not_found");
    assert_eq!(world.quarantined().await, Vec::<String>::new());
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_while_stripes_clock_and_ours_differ() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world.sim_post("/_sim/clock", &json!({ "advance": 120 })).await;
    world.checkout(tenant).await; // Any answer shows Stripe's clock.
    world.seal(&[(tenant, hour(1), 1, 5)]).await;
    let said = async || -> Option<String> {
        let sql = "select said from meter_report where state = 'pending' and said <> ''";
        sqlx::query_scalar(sql).fetch_optional(&world.pool).await.unwrap()
    };
    world
        .until("it waits", async || said().await.is_some_and(|said| said.contains("ahead of ours")))
        .await;
    assert_eq!(world.stripe_total().await, (0, 0));
    world.sim_post("/_sim/clock", &json!("system")).await;
    sqlx::query("update meter_report set due_at_ms = 0").execute(&world.pool).await.unwrap();
    world.until_all_accepted(1).await;
    let again = world
        .until_seen(Duration::from_millis(200), async || world.stripe_total().await.1 > 1)
        .await;
    assert!(!again);
    assert_eq!(world.stripe_total().await, (5, 1));
}
