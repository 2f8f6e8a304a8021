//! Usage alerts: told once for each customer.

use super::*;

const ALERTS: &str = "/v1/billing/alerts";

async fn told(sim: &Sim) -> Vec<(String, i64)> {
    let events = sim.get("/v1/events?type=billing.alert.triggered&limit=100").await.ok();
    let rows = events["data"].as_array().unwrap().iter().rev().map(|row| &row["data"]["object"]);
    rows.map(|row| (row["customer"].as_str().unwrap().to_owned(), row["value"].as_i64().unwrap()))
        .collect()
}

#[tokio::test]
async fn usage_that_reaches_an_alert_is_told_once_for_each_customer() {
    let sim = Sim::start().await;
    let (one, other, meter) = (sim.customer().await, sim.customer().await, sim.meter().await);
    sim.used(&one, "50", NOW).await; // Before the alert.
    let form = format!(
        "alert_type=usage_threshold&title=T&usage_threshold[gte]=10&usage_threshold[meter]={meter}&usage_threshold[recurrence]=one_time"
    );
    let alert = sim.post(ALERTS, &format!("{form}&expand[]=usage_threshold.meter")).await.ok();
    assert_eq!(
        (&alert["status"], &alert["usage_threshold"]["meter"]["id"]),
        (&json!("active"), &json!(meter))
    );
    sim.used(&one, "9", NOW).await;
    assert_eq!(told(&sim).await, []);
    sim.used(&one, "2", NOW).await;
    sim.used(&one, "20", NOW).await;
    sim.used(&other, "10", NOW).await;
    assert_eq!(told(&sim).await, [(one.clone(), 11), (other, 10)]);
    sim.post(&format!("{ALERTS}/{}/archive", id(&alert)), "").await.ok();
    let filter = "usage_threshold[filters][0][type]=customer&usage_threshold[filters][0][customer]";
    let narrow = sim.post(ALERTS, &format!("{form}&{filter}={one}")).await.ok();
    let third = sim.customer().await;
    sim.used(&third, "10", NOW).await;
    assert_eq!(told(&sim).await.len(), 2);
    let path = format!("{ALERTS}/{}", id(&narrow));
    sim.post(&format!("{path}/deactivate"), "").await.ok();
    sim.used(&one, "10", NOW).await;
    assert_eq!(told(&sim).await.len(), 2);
    sim.post(&format!("{path}/activate"), "").await.ok();
    sim.used(&one, "10", NOW).await;
    assert_eq!(told(&sim).await[2], (one, 10));
    let listed = sim.get(&format!("{ALERTS}?meter={meter}&alert_type=usage_threshold")).await.ok();
    assert_eq!(ids(&listed), [id(&narrow), id(&alert)]);
    assert_eq!(sim.get(&path).await.ok()["status"], "active");
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_alert_is_checked_and_archived_for_good() {
    let sim = Sim::start().await;
    let meter = sim.meter().await;
    let form = |gte: i64, meter: &str| {
        format!(
            "alert_type=usage_threshold&title=T&usage_threshold[gte]={gte}&usage_threshold[meter]={meter}&usage_threshold[recurrence]=one_time"
        )
    };
    let none = sim.post(ALERTS, &form(0, &meter)).await;
    assert_eq!(none.refusal().3, Some("usage_threshold[gte]"));
    let unknown = sim.post(ALERTS, &form(1, "mtr_none")).await;
    assert_eq!(unknown.refusal().2, Some("resource_missing"));
    let bare = sim.post(ALERTS, "alert_type=usage_threshold&title=T").await;
    assert_eq!(bare.refusal().3, Some("usage_threshold"));
    let path = format!("{ALERTS}/{}", id(&sim.post(ALERTS, &form(1, &meter)).await.ok()));
    assert_eq!(sim.post(&format!("{path}/activate"), "").await.status, 400);
    assert_eq!(sim.post(&format!("{path}/archive"), "").await.ok()["status"], "archived");
    assert_eq!(sim.post(&format!("{path}/activate"), "").await.status, 400);
    sim.assert_sound().await;
}
