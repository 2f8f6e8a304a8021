//! What comes after the 200 of a meter event, and the customer portal.

use super::*;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

async fn event(sim: &Sim, name: &str, customer: &str, value: &str, key: &str) {
    let form = format!(
        "event_name={name}&payload[stripe_customer_id]={customer}&payload[value]={value}&identifier={key}"
    );
    sim.post_keyed("/v1/billing/meter_events", &form, key).await.unwrap().ok();
}

#[tokio::test]
async fn what_does_not_count_is_told_by_a_thin_event_with_five_samples() {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    let receiver = webhooks::Receiver::of_thin_events(&sim).await;
    for n in 0..7 {
        event(&sim, "calls", "cus_none", "1", &format!("nobody-{n}")).await;
    }
    let customer = sim.customer().await;
    event(&sim, "calls", &customer, "x", "unread").await;
    event(&sim, "calls", &customer, "4", "good").await;
    event(&sim, "other", &customer, "1", "no-meter").await;
    assert_eq!(sim.look("/deliveries").await["recorded"], 0, "reports have a lag");
    sim.advance(10).await;
    let seen = sim
        .until("/deliveries", |seen| {
            let rows = seen["deliveries"].as_array().unwrap();
            rows.len() == 2 && rows.iter().all(|row| row["state"] == "delivered")
        })
        .await;
    let of = |kind: &str| {
        let rows = seen["deliveries"].as_array().unwrap();
        rows.iter().find(|row| row["event_type"] == kind).unwrap()["event"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let told = of("v1.billing.meter.error_report_triggered");
    let bodies = receiver.got.lock().clone();
    assert_eq!(bodies.len(), 2);
    assert!(
        bodies.iter().all(|body| body["object"] == "v2.core.event" && body.get("data").is_none())
    );
    let report = sim.get(&format!("/v2/core/events/{told}")).await.ok();
    assert_eq!(report["related_object"]["id"], json!(meter));
    let reason = &report["data"]["reason"];
    assert_eq!(reason["error_count"], 8);
    let types = reason["error_types"].as_array().unwrap();
    let counts: Vec<_> = types
        .iter()
        .map(|row| {
            let samples = row["sample_errors"].as_array().unwrap();
            (row["code"].as_str().unwrap(), row["error_count"].as_u64().unwrap(), samples.len())
        })
        .collect();
    assert_eq!(
        counts,
        [("meter_event_customer_not_found", 7, 5), ("meter_event_invalid_value", 1, 1)]
    );
    assert_eq!(types[0]["sample_errors"][0]["request"]["identifier"], "nobody-0");
    let none =
        sim.get(&format!("/v2/core/events/{}", of("v1.billing.meter.no_meter_found"))).await.ok();
    assert_eq!(none["data"]["reason"]["error_types"][0]["code"], "no_meter");
    assert_eq!(sim.get("/v2/core/events/evt_none").await.status, 404);
    sim.advance(DAY).await;
    assert_eq!(sim.look("/deliveries").await["recorded"], 2, "each failure is told once");
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_adjustment_cancels_within_a_day_and_after_its_lag() {
    let sim = Sim::start().await;
    sim.meter().await;
    let customer = sim.customer().await;
    sim.settings(json!({ "adjustment_lag_s": 60 })).await;
    event(&sim, "calls", &customer, "4", "a").await;
    event(&sim, "calls", &customer, "5", "b").await;
    let form = |key: &str| format!("event_name=calls&type=cancel&cancel[identifier]={key}");
    let path = "/v1/billing/meter_event_adjustments";
    assert_eq!(sim.post(path, &form("a")).await.ok()["status"], "pending");
    let sum = async || sim.look("/meters/totals").await["grand_total"]["sum"].clone();
    assert_eq!(sum().await, "9");
    sim.advance(60).await;
    assert_eq!(sum().await, "5");
    assert_eq!(sim.look("/meters/totals").await["uncounted"]["canceled"], 1);
    assert_eq!(sim.post(path, &form("a")).await.refusal().2, Some("resource_missing"));
    sim.advance(24 * HOUR).await;
    assert_eq!(sim.post(path, &form("b")).await.status, 400, "a day has passed since its receipt");
    assert_eq!(sum().await, "5");
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_portal_cancels_and_takes_it_back() {
    let sim = Sim::start().await;
    let (customer, price) = (sim.customer().await, sim.licensed_price().await);
    let form = format!("customer={customer}&items[0][price]={price}");
    let own = id(&sim.post("/v1/subscriptions", &form).await.ok());
    let form = format!("customer={customer}&return_url=http://127.0.0.1/back");
    let session = sim.post("/v1/billing_portal/sessions", &form).await.ok();
    let url = session["url"].as_str().unwrap();
    let path = &url[url.find("/_sim").unwrap()..];
    let page = sim.send(Method::GET, path, &[], String::new()).await.unwrap();
    assert!(String::from_utf8_lossy(&page.raw).contains(&format!("{own}: active")));
    for (act, ends) in [("cancel", true), ("resume", false)] {
        let gone =
            sim.send(Method::POST, &format!("{path}/{act}"), &[], String::new()).await.unwrap();
        assert_eq!((gone.status, gone.header("location")), (303, Some("http://127.0.0.1/back")));
        let row = sim.get(&format!("/v1/subscriptions/{own}")).await.ok();
        assert_eq!(row["cancel_at_period_end"], ends);
    }
    let none = sim.send(Method::GET, "/_sim/portal/sessions/bps_none", &[], String::new()).await;
    assert_eq!(none.unwrap().status, 404);
    sim.assert_sound().await;
}

#[tokio::test]
async fn thin_events_are_listed_page_by_page_and_filtered() {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    for n in 0..3 {
        event(&sim, "calls", "cus_none", "1", &format!("nobody-{n}")).await;
        event(&sim, "other", "cus_none", "1", &format!("no-meter-{n}")).await;
        sim.advance(60).await;
    }
    let all = sim.get("/v2/core/events?limit=100").await.ok();
    assert_eq!((ids(&all).len(), &all["next_page_url"]), (6, &Value::Null));
    let asked = format!("object_id={meter}&created[gte]=2026-11-20T12:02:00Z");
    let first = sim.get(&format!("/v2/core/events?limit=1&{asked}")).await.ok();
    let next = first["next_page_url"].as_str().unwrap();
    let rest = sim.get(next).await.ok();
    assert_eq!((ids(&first).len(), ids(&rest).len()), (1, 1), "the first report is too old");
    assert!(rest["data"][0]["data"]["reason"].is_object());
    let kind = "types[]=v1.billing.meter.no_meter_found";
    assert_eq!(ids(&sim.get(&format!("/v2/core/events?{kind}")).await.ok()).len(), 3);
    let bad = sim.get("/v2/core/events?created[gt]=yesterday").await;
    assert_eq!((bad.status, &bad.body["error"]["code"]), (400, &json!("invalid_fields")));
    sim.assert_sound().await;
}
