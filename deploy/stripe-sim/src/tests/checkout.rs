//! Checkout sessions and their completion.

use super::*;

async fn session(sim: &Sim, more: &str) -> Value {
    let meter = sim.meter().await;
    let price = sim.metered_price(&meter).await;
    let form = format!(
        "mode=subscription&success_url=http://127.0.0.1/done&client_reference_id=tnt_1&line_items[0][price]={price}\
         &subscription_data[metadata][tenant]=tnt_1{more}"
    );
    sim.post("/v1/checkout/sessions", &form).await.ok()
}

#[tokio::test]
async fn completing_a_session_makes_the_customer_and_an_active_subscription() {
    let sim = Sim::start().await;
    let open = session(&sim, "&customer_email=buyer@example.test").await;
    assert_eq!(
        (&open["status"], &open["payment_status"], &open["customer"]),
        (&json!("open"), &json!("unpaid"), &Value::Null)
    );
    let done = sim
        .control(&format!("/checkout/sessions/{}/complete", id(&open)), &json!({ "name": "Ann" }))
        .await
        .ok();
    assert_eq!(
        (&done["status"], &done["payment_status"], &done["client_reference_id"]),
        (&json!("complete"), &json!("paid"), &json!("tnt_1"))
    );
    assert_eq!(
        (&done["url"], &done["customer_details"]["email"]),
        (&Value::Null, &json!("buyer@example.test"))
    );
    let path = format!(
        "/v1/checkout/sessions/{}?expand[]=subscription&expand[]=customer&expand[]=line_items",
        id(&open)
    );
    let shown = sim.get(&path).await.ok();
    assert_eq!(
        (&shown["subscription"]["status"], &shown["subscription"]["metadata"]["tenant"]),
        (&json!("active"), &json!("tnt_1"))
    );
    assert_eq!(shown["customer"]["name"], "Ann");
    assert_eq!(shown["line_items"]["data"][0]["price"]["recurring"]["usage_type"], "metered");
    let events = sim.get("/v1/events?limit=7").await.ok();
    let kinds: Vec<_> = events["data"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "customer.created",
            "checkout.session.completed",
            "customer.subscription.created",
            "invoice.created",
            "invoice.finalized",
            "invoice.paid",
            "invoice.payment_succeeded"
        ]
    );
    assert_eq!(
        events["data"][0]["request"],
        json!({ "id": null, "idempotency_key": null }),
        "nobody called the API"
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_session_completes_once() {
    let sim = Sim::start().await;
    let path = format!("/checkout/sessions/{}/complete", id(&session(&sim, "").await));
    assert_eq!(sim.control(&path, &json!({})).await.status, 200);
    assert_eq!(sim.control(&path, &json!({})).await.status, 400);
    assert_eq!(
        sim.control("/checkout/sessions/cs_test_none/complete", &json!({})).await.status,
        404
    );
    assert_eq!(ids(&sim.get("/v1/subscriptions").await.ok()).len(), 1);
}

#[tokio::test]
async fn a_session_of_a_known_customer_keeps_it() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let open = session(&sim, &format!("&customer={customer}")).await;
    let done =
        sim.control(&format!("/checkout/sessions/{}/complete", id(&open)), &json!({})).await.ok();
    assert_eq!(done["customer"], json!(customer));
    assert_eq!(ids(&sim.get("/v1/customers").await.ok()), [customer]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn quantity_belongs_to_licensed_prices_only() {
    let sim = Sim::start().await;
    let (seat, meter) = (sim.licensed_price().await, sim.meter().await);
    let calls = sim.metered_price(&meter).await;
    let base = "mode=subscription&success_url=http://127.0.0.1/done";
    let metered = sim
        .post(
            "/v1/checkout/sessions",
            &format!("{base}&line_items[0][price]={calls}&line_items[0][quantity]=1"),
        )
        .await;
    assert_eq!(metered.refusal().3, Some("line_items[0][quantity]"));
    let licensed =
        sim.post("/v1/checkout/sessions", &format!("{base}&line_items[0][price]={seat}")).await;
    assert_eq!(licensed.message(), "Quantity is required. Add `quantity` to `line_items[0]`");
    let both = format!(
        "{base}&line_items[0][price]={seat}&line_items[0][quantity]=2&line_items[1][price]={calls}"
    );
    let both = sim.post("/v1/checkout/sessions", &both).await.ok();
    assert_eq!(both["amount_total"], 2000);
    let lines = sim.get(&format!("/v1/checkout/sessions/{}/line_items", id(&both))).await.ok();
    assert_eq!(
        (&lines["data"][0]["quantity"], &lines["data"][1]["quantity"]),
        (&json!(2), &Value::Null)
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_session_expires_by_call_and_by_time() {
    let sim = Sim::start().await;
    let first = session(&sim, "").await;
    let expired = sim.post(&format!("/v1/checkout/sessions/{}/expire", id(&first)), "").await.ok();
    assert_eq!(expired["status"], "expired");
    let price = expired_price(&sim).await;
    let form = format!(
        "mode=subscription&success_url=http://127.0.0.1/done&line_items[0][price]={price}&expires_at={}",
        NOW + 3_600
    );
    let second = sim.post("/v1/checkout/sessions", &form).await.ok();
    sim.advance(3_600).await;
    assert_eq!(
        sim.control(&format!("/checkout/sessions/{}/complete", id(&second)), &json!({}))
            .await
            .status,
        400
    );
    assert_eq!(
        sim.get(&format!("/v1/checkout/sessions/{}", id(&second))).await.ok()["status"],
        "expired"
    );
    assert_eq!(ids(&sim.get("/v1/events?type=checkout.session.expired").await.ok()).len(), 2);
    sim.assert_sound().await;
}

async fn expired_price(sim: &Sim) -> String {
    ids(&sim.get("/v1/prices").await.ok()).remove(0)
}

#[tokio::test]
async fn the_page_behind_the_url_has_a_button_that_pays() {
    let sim = Sim::start().await;
    let open = session(&sim, "").await;
    let url = open["url"].as_str().unwrap();
    let path = &url[url.find("/_sim").unwrap()..];
    let page = sim.send(Method::GET, path, &[], String::new()).await.unwrap();
    assert!(String::from_utf8_lossy(&page.raw).contains("<button>Pay</button>"));
    let paid = sim.send(Method::POST, &format!("{path}/pay"), &[], String::new()).await.unwrap();
    assert_eq!((paid.status, paid.header("location")), (303, Some("http://127.0.0.1/done")));
    assert_eq!(
        sim.get(&format!("/v1/checkout/sessions/{}", id(&open))).await.ok()["status"],
        "complete"
    );
}

#[tokio::test]
async fn a_session_takes_metadata_later() {
    let sim = Sim::start().await;
    let price = sim.licensed_price().await;
    let form = format!(
        "mode=subscription&success_url=https://example.test&line_items[0][price]={price}&line_items[0][quantity]=1&metadata[a]=1"
    );
    let made = sim.post("/v1/checkout/sessions", &form).await.ok();
    let path = format!("/v1/checkout/sessions/{}", id(&made));
    let changed = sim.post(&path, "metadata[b]=2").await.ok();
    assert_eq!(changed["metadata"], json!({ "a": "1", "b": "2" }));
    assert_eq!(sim.get(&path).await.ok()["metadata"], changed["metadata"]);
    assert_eq!(sim.post("/v1/checkout/sessions/cs_none", "metadata[b]=2").await.status, 404);
    sim.assert_sound().await;
}
