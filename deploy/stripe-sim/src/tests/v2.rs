//! Meter events of API v2: one by one, in sessions, and their adjustments.

use super::*;

const EVENTS: &str = "/v2/billing/meter_events";
const STREAM: &str = "/v2/billing/meter_event_stream";

async fn json_post(sim: &Sim, path: &str, key: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    sim.send(Method::POST, path, &headers, body.to_string()).await.unwrap()
}

async fn post(sim: &Sim, path: &str, body: Value) -> Reply {
    json_post(sim, path, DEFAULT_API_KEY, &body).await
}

fn event(customer: &str, identifier: &str, timestamp: &str) -> Value {
    json!({
        "event_name": "calls", "identifier": identifier, "timestamp": timestamp,
        "payload": { "stripe_customer_id": customer, "value": "3" },
    })
}

#[tokio::test]
async fn one_event_counts_as_in_v1_and_shares_its_identifiers() {
    let sim = Sim::start().await;
    let (customer, _) = (sim.customer().await, sim.meter().await);
    let body = event(&customer, "a", "2026-11-20T11:59:00Z");
    let taken = post(&sim, EVENTS, body.clone()).await.ok();
    assert_eq!(
        (&taken["object"], &taken["timestamp"]),
        (&json!("v2.billing.meter_event"), &json!("2026-11-20T11:59:00.000Z"))
    );
    let again = post(&sim, EVENTS, body).await;
    assert_eq!(again.status, 400);
    assert_eq!(again.header("stripe-should-retry"), Some("false"));
    assert_eq!(again.message(), "An event already exists with identifier a.");
    assert_eq!(sim.look("/meters/totals").await["grand_total"]["sum"], "3");
    let cancel =
        json!({ "type": "cancel", "event_name": "calls", "cancel": { "identifier": "a" } });
    let adjusted = post(&sim, "/v2/billing/meter_event_adjustments", cancel).await.ok();
    assert_eq!(adjusted["status"], "pending");
    assert_eq!(sim.look("/meters/totals").await["grand_total"]["sum"], "0");
    sim.assert_sound().await;
}

#[tokio::test]
async fn v2_takes_json_of_the_right_types_and_nothing_else() {
    let sim = Sim::start().await;
    let (customer, _) = (sim.customer().await, sim.meter().await);
    #[track_caller]
    fn check(reply: &Reply, code: &str) {
        let error = &reply.body["error"];
        assert_eq!((reply.status, error["code"].as_str()), (400, Some(code)), "{error}");
    }
    let mut number = event(&customer, "a", "2026-11-20T11:59:00Z");
    number["payload"]["value"] = json!(3);
    check(&post(&sim, EVENTS, number).await, "invalid_fields");
    check(&post(&sim, EVENTS, json!({ "event_name": "calls" })).await, "parameter_missing");
    let unknown = json!({ "event_name": "calls", "payload": {}, "x": 1 });
    check(&post(&sim, EVENTS, unknown).await, "parameter_unknown");
    check(&post(&sim, EVENTS, event(&customer, "a", "yesterday")).await, "invalid_fields");
    check(&post(&sim, EVENTS, json!([1])).await, "invalid_fields");
    let wrong_key = json_post(&sim, EVENTS, "sk_test_wrong", &json!({})).await;
    assert_eq!((wrong_key.status, &wrong_key.body["error"]["code"]), (401, &json!("unauthorized")));
    assert_eq!(sim.look("/meters/totals").await["grand_total"]["count"], 0);
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_session_streams_events_for_15_minutes_and_failures_come_later() {
    let sim = Sim::start().await;
    let (customer, _) = (sim.customer().await, sim.meter().await);
    let session = post(&sim, "/v2/billing/meter_event_session", json!({})).await.ok();
    assert_eq!(session["expires_at"], "2026-11-20T12:15:00.000Z");
    let token = session["authentication_token"].as_str().unwrap();
    let old = event(&customer, "old", "2026-01-01T00:00:00Z");
    let good = event(&customer, "a", "2026-11-20T11:59:00Z");
    let body =
        json!({ "events": [good, event("cus_none", "b", "2026-11-20T11:59:00Z"), old, good] });
    assert_eq!(json_post(&sim, STREAM, token, &body).await.ok(), json!({}));
    let totals = sim.look("/meters/totals").await;
    assert_eq!(totals["grand_total"], json!({ "sum": "3", "count": 1 }));
    assert_eq!(
        totals["uncounted"],
        json!({ "meter_event_customer_not_found": 1, "timestamp_too_far_in_past": 1 })
    );
    let many = json!({ "events": vec![good; 101] });
    assert_eq!(json_post(&sim, STREAM, token, &many).await.status, 400);
    let elsewhere = json_post(&sim, EVENTS, token, &json!({})).await;
    assert_eq!(elsewhere.status, 401, "the token opens the stream only");
    sim.advance(900).await;
    let late = json_post(&sim, STREAM, token, &body).await;
    assert_eq!(
        (late.status, &late.body["error"]["type"]),
        (401, &json!("temporary_session_expired"))
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_key_replays_a_json_request_whatever_its_order() {
    let sim = Sim::start().await;
    let (customer, _) = (sim.customer().await, sim.meter().await);
    let send = async |body: String| {
        let bearer = bearer();
        let headers = [("authorization", &*bearer), ("idempotency-key", "k")];
        sim.send(Method::POST, EVENTS, &headers, body).await.unwrap()
    };
    let head = r#""event_name":"calls","identifier":"a""#;
    let payload = format!(r#""payload":{{"stripe_customer_id":"{customer}","value":"1"}}"#);
    send(format!("{{{head},{payload}}}")).await.ok();
    let again = send(format!("{{{payload},{head}}}")).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    let other = send(format!("{{{head}}}")).await;
    assert_eq!((other.status, &other.body["error"]["type"]), (400, &json!("idempotency_error")));
    sim.assert_sound().await;
}
