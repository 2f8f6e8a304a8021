//! Subscriptions: opening, dates, changes, ends.

use super::*;

async fn subscribed(sim: &Sim) -> Value {
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let price = sim.metered_price(&meter).await;
    sim.post("/v1/subscriptions", &format!("customer={customer}&items[0][price]={price}"))
        .await
        .ok()
}

#[tokio::test]
async fn a_subscription_has_its_period_on_its_items_and_a_paid_first_invoice() {
    let sim = Sim::start().await;
    let subscription = subscribed(&sim).await;
    let item = &subscription["items"]["data"][0];
    assert_eq!(
        (&subscription["status"], &subscription["billing_mode"]["type"]),
        (&json!("active"), &json!("flexible"))
    );
    assert_eq!(
        (&item["current_period_start"], &item["current_period_end"]),
        (&json!(NOW), &json!(NOW + 30 * 86_400))
    );
    assert_eq!(
        (item.get("quantity"), &item["price"]["recurring"]["usage_type"]),
        (None, &json!("metered"))
    );
    assert!(subscription.get("current_period_end").is_none());
    let path = format!(
        "/v1/subscriptions/{}?expand[]=latest_invoice&expand[]=customer&expand[]=items.data.price.product",
        id(&subscription)
    );
    let shown = sim.get(&path).await.ok();
    let invoice = &shown["latest_invoice"];
    assert_eq!(
        (&invoice["status"], &invoice["total"], &invoice["billing_reason"]),
        (&json!("paid"), &json!(0), &json!("subscription_create"))
    );
    assert_eq!(invoice["parent"]["subscription_details"]["subscription"], subscription["id"]);
    assert_eq!(shown["customer"]["email"], "buyer@example.test");
    assert_eq!(shown["items"]["data"][0]["price"]["product"]["name"], "Calls");
    assert_eq!(sim.get(&format!("/v1/invoices/{}", id(invoice))).await.ok()["id"], invoice["id"]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_licensed_item_is_charged_in_advance() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let form = format!(
        "customer={customer}&items[0][price]={price}&items[0][quantity]=3&expand[]=latest_invoice"
    );
    let invoice = sim.post("/v1/subscriptions", &form).await.ok()["latest_invoice"].clone();
    assert_eq!(
        (&invoice["amount_paid"], &invoice["lines"]["data"][0]["amount"]),
        (&json!(3000), &json!(3000))
    );
    assert_eq!(invoice["lines"]["data"][0]["pricing"]["price_details"]["price"], json!(price));
    let waiting = format!(
        "customer={customer}&items[0][price]={price}&payment_behavior=default_incomplete&expand[]=latest_invoice"
    );
    let waiting = sim.post("/v1/subscriptions", &waiting).await.ok();
    assert_eq!(
        (&waiting["status"], &waiting["latest_invoice"]["status"]),
        (&json!("incomplete"), &json!("open"))
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_anchor_puts_the_period_on_its_edge() {
    let sim = Sim::start().await;
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let price = sim.metered_price(&meter).await;
    let anchor = "billing_cycle_anchor_config[day_of_month]=1&billing_cycle_anchor_config[hour]=0\
                  &billing_cycle_anchor_config[minute]=0&billing_cycle_anchor_config[second]=0";
    let made = sim
        .post("/v1/subscriptions", &format!("customer={customer}&items[0][price]={price}&{anchor}"))
        .await
        .ok();
    let december = 1_796_083_200; // 2026-12-01T00:00:00Z
    assert_eq!(
        (&made["items"]["data"][0]["current_period_end"], &made["billing_cycle_anchor"]),
        (&json!(december), &json!(december))
    );
    assert_eq!(made["billing_cycle_anchor_config"]["day_of_month"], 1);
    let licensed = sim.licensed_price().await;
    let prorated = format!("customer={customer}&items[0][price]={licensed}&{anchor}");
    let share =
        sim.post("/v1/subscriptions", &format!("{prorated}&expand[]=latest_invoice")).await.ok();
    // Ten and a half of November's thirty days of a price of 1000.
    assert_eq!(share["latest_invoice"]["total"], 350);
    let free = sim
        .post(
            "/v1/subscriptions",
            &format!("{prorated}&proration_behavior=none&expand[]=latest_invoice"),
        )
        .await
        .ok();
    assert_eq!(free["latest_invoice"]["total"], 0);
}

#[tokio::test]
async fn a_trial_is_trialing_until_its_end() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let form = format!(
        "customer={customer}&items[0][price]={price}&trial_period_days=14&expand[]=latest_invoice"
    );
    let made = sim.post("/v1/subscriptions", &form).await.ok();
    assert_eq!(
        (&made["status"], &made["trial_end"], &made["trial_start"]),
        (&json!("trialing"), &json!(NOW + 14 * 86_400), &json!(NOW))
    );
    assert_eq!(made["latest_invoice"]["total"], 0);
    sim.assert_sound().await;
}

#[tokio::test]
async fn items_move_between_metered_prices() {
    let sim = Sim::start().await;
    let made = subscribed(&sim).await;
    let path = format!("/v1/subscriptions/{}", id(&made));
    let (meter, item) = (
        made["items"]["data"][0]["price"]["recurring"]["meter"].clone(),
        id(&made["items"]["data"][0]),
    );
    let next = sim.metered_price(meter.as_str().unwrap()).await;
    let moved = sim
        .post(&path, &format!("items[0][id]={item}&items[0][price]={next}&metadata[plan]=pro"))
        .await
        .ok();
    assert_eq!(
        (&moved["items"]["data"][0]["price"]["id"], &moved["metadata"]["plan"]),
        (&json!(next), &json!("pro"))
    );
    assert_eq!(id(&moved["items"]["data"][0]), item);
    let seat = sim.licensed_price().await;
    let both =
        sim.post(&path, &format!("items[0][price]={seat}&proration_behavior=none")).await.ok();
    assert_eq!(both["items"]["data"].as_array().unwrap().len(), 2);
    let one = sim.post(&path, &format!("items[0][id]={item}&items[0][deleted]=true")).await.ok();
    assert_eq!(one["items"]["data"].as_array().unwrap().len(), 1);
    assert_eq!(sim.look("/health").await["invalid_responses"], 0);
}

#[tokio::test]
async fn a_subscription_ends_now_or_at_its_periods_end() {
    let sim = Sim::start().await;
    let made = subscribed(&sim).await;
    let path = format!("/v1/subscriptions/{}", id(&made));
    let set = sim.post(&path, "cancel_at_period_end=true").await.ok();
    assert_eq!(
        (&set["cancel_at"], &set["cancel_at_period_end"]),
        (&made["items"]["data"][0]["current_period_end"], &json!(true))
    );
    assert_eq!(sim.post(&path, "cancel_at_period_end=false").await.ok()["cancel_at"], Value::Null);
    let gone = sim.delete(&path).await.ok();
    assert_eq!(
        (&gone["status"], &gone["ended_at"], &gone["canceled_at"]),
        (&json!("canceled"), &json!(NOW), &json!(NOW))
    );
    assert_eq!(sim.delete(&path).await.status, 400);
    let events = sim.get("/v1/events?type=customer.subscription.*").await.ok();
    let kinds: Vec<_> = events["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "customer.subscription.deleted",
            "customer.subscription.updated",
            "customer.subscription.updated",
            "customer.subscription.created"
        ]
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn lists_are_by_customer_and_status() {
    let sim = Sim::start().await;
    let made = subscribed(&sim).await;
    let (customer, own) = (made["customer"].as_str().unwrap().to_owned(), id(&made));
    assert_eq!(
        ids(&sim.get(&format!("/v1/subscriptions?customer={customer}")).await.ok()),
        std::slice::from_ref(&own)
    );
    assert_eq!(ids(&sim.get("/v1/subscriptions?status=past_due").await.ok()).len(), 0);
    sim.delete(&format!("/v1/customers/{customer}")).await.ok();
    assert_eq!(
        ids(&sim.get("/v1/subscriptions").await.ok()).len(),
        0,
        "canceled ones are not listed unless asked for"
    );
    assert_eq!(
        ids(&sim.get("/v1/subscriptions?status=all").await.ok()),
        std::slice::from_ref(&own)
    );
    assert_eq!(ids(&sim.get("/v1/subscriptions?status=ended").await.ok()), [own]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_status_set_from_outside_tells_the_event_that_fits() {
    let sim = Sim::start().await;
    let own = id(&subscribed(&sim).await);
    let path = format!("/subscriptions/{own}/status");
    let steps = [
        ("past_due", "customer.subscription.updated"),
        ("unpaid", "customer.subscription.updated"),
        ("paused", "customer.subscription.paused"),
        ("active", "customer.subscription.resumed"),
        ("canceled", "customer.subscription.deleted"),
    ];
    let mut before = "active";
    for (status, event_type) in steps {
        assert_eq!(sim.control(&path, &json!({ "status": status })).await.ok()["status"], status);
        let event = sim.get("/v1/events?limit=1").await.ok()["data"][0].clone();
        assert_eq!(
            (&event["type"], &event["data"]["object"]["status"]),
            (&json!(event_type), &json!(status))
        );
        if status != "canceled" {
            assert_eq!(event["data"]["previous_attributes"], json!({ "status": before }));
        }
        before = status;
    }
    assert_eq!(
        sim.control(&path, &json!({ "status": "active" })).await.status,
        400,
        "canceled is the end"
    );
    assert_eq!(
        sim.control("/subscriptions/sub_none/status", &json!({ "status": "active" })).await.status,
        404
    );
    sim.assert_sound().await;
}
