//! Stripe's own test clocks: customers with a time of their own.

use super::*;

const DAY: i64 = 86_400;

#[tokio::test]
async fn a_test_clock_moves_its_customers_and_nobody_else() {
    let sim = Sim::start().await;
    let price = sim.licensed_price().await;
    let start = NOW - 100 * DAY;
    let clock = sim
        .post("/v1/test_helpers/test_clocks", &format!("frozen_time={start}&name=year"))
        .await
        .ok();
    assert_eq!((&clock["status"], &clock["name"]), (&json!("ready"), &json!("year")));
    let own = id(&clock);
    let clocked = id(&sim.post("/v1/customers", &format!("test_clock={own}")).await.ok());
    let free = sim.customer().await;
    let form = |customer: &str| format!("customer={customer}&items[0][price]={price}");
    let bound = sim.post("/v1/subscriptions", &form(&clocked)).await.ok();
    let other = id(&sim.post("/v1/subscriptions", &form(&free)).await.ok());
    assert_eq!((&bound["test_clock"], &bound["created"]), (&json!(own), &json!(start)));
    let path = format!("/v1/test_helpers/test_clocks/{own}");
    let moving = sim
        .post(&format!("{path}/advance"), &format!("frozen_time={}", start + 32 * DAY))
        .await
        .ok();
    assert_eq!(moving["status"], "advancing");
    assert_eq!(
        moving["status_details"]["advancing"]["target_frozen_time"],
        json!(start + 32 * DAY)
    );
    let there = sim.get(&path).await.ok();
    assert_eq!(
        (&there["status"], &there["frozen_time"]),
        (&json!("ready"), &json!(start + 32 * DAY))
    );
    assert_eq!(sim.latest_events(1).await, ["test_helpers.test_clock.ready"]);
    assert_eq!(sim.invoices_of(&id(&bound)).await.len(), 2);
    assert_eq!(sim.invoices_of(&other).await.len(), 1);
    let back = sim.post(&format!("{path}/advance"), &format!("frozen_time={start}")).await;
    assert_eq!(back.refusal().3, Some("frozen_time"));
    sim.assert_sound().await;
}

#[tokio::test]
async fn objects_of_a_test_clock_are_in_no_unscoped_list_and_end_with_it() {
    let sim = Sim::start().await;
    let price = sim.licensed_price().await;
    let clock = sim.post("/v1/test_helpers/test_clocks", &format!("frozen_time={NOW}")).await.ok();
    let own = id(&clock);
    let customer = id(&sim.post("/v1/customers", &format!("test_clock={own}")).await.ok());
    let form = format!("customer={customer}&items[0][price]={price}");
    let bound = id(&sim.post("/v1/subscriptions", &form).await.ok());
    for path in ["/v1/customers", "/v1/subscriptions", "/v1/invoices"] {
        assert_eq!(ids(&sim.get(path).await.ok()).len(), 0, "{path}");
    }
    for path in [
        format!("/v1/customers?test_clock={own}"),
        format!("/v1/subscriptions?test_clock={own}"),
        format!("/v1/invoices?customer={customer}"),
    ] {
        assert_eq!(ids(&sim.get(&path).await.ok()).len(), 1, "{path}");
    }
    sim.delete(&format!("/v1/test_helpers/test_clocks/{own}")).await.ok();
    assert_eq!(sim.get(&format!("/v1/customers/{customer}")).await.ok()["deleted"], true);
    assert_eq!(sim.status_of(&bound).await, "canceled");
    let nobody = sim.post("/v1/customers", "test_clock=clock_none").await;
    assert_eq!(nobody.refusal().3, Some("test_clock"));
    sim.assert_sound().await;
}
