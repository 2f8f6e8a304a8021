//! Meters, meter events, summaries and the simulator's own ledger.

use super::*;

fn event(customer: &str, value: &str, identifier: &str, timestamp: i64) -> String {
    format!(
        "event_name=calls&payload[stripe_customer_id]={customer}&payload[value]={value}&identifier={identifier}&timestamp={timestamp}"
    )
}

#[tokio::test]
async fn an_event_name_belongs_to_one_active_meter() {
    let sim = Sim::start().await;
    let form = "display_name=Calls&event_name=calls&default_aggregation[formula]=sum";
    let first = sim.post("/v1/billing/meters", form).await.ok();
    assert_eq!(
        first["customer_mapping"],
        json!({ "type": "by_id", "event_payload_key": "stripe_customer_id" })
    );
    assert_eq!(sim.post("/v1/billing/meters", form).await.refusal().3, Some("event_name"));
    let path = format!("/v1/billing/meters/{}", id(&first));
    let off = sim.post(&format!("{path}/deactivate"), "").await.ok();
    assert_eq!(
        (&off["status"], &off["status_transitions"]["deactivated_at"]),
        (&json!("inactive"), &json!(NOW))
    );
    assert_eq!(sim.post(&format!("{path}/deactivate"), "").await.status, 400);
    let second = sim.post("/v1/billing/meters", form).await.ok();
    assert_eq!(
        sim.post(&format!("{path}/reactivate"), "").await.status,
        400,
        "the name is taken now"
    );
    sim.post(&format!("/v1/billing/meters/{}/deactivate", id(&second)), "").await.ok();
    assert_eq!(sim.post(&format!("{path}/reactivate"), "").await.ok()["status"], "active");
    assert_eq!(ids(&sim.get("/v1/billing/meters?status=active").await.ok()), [id(&first)]);
    sim.assert_sound().await;
}

#[tokio::test]
async fn only_the_display_name_of_a_meter_changes() {
    let sim = Sim::start().await;
    let path = format!("/v1/billing/meters/{}", sim.meter().await);
    assert_eq!(sim.post(&path, "display_name=New").await.ok()["display_name"], "New");
    assert_eq!(sim.post(&path, "event_name=other").await.refusal().2, Some("parameter_unknown"));
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_repeated_identifier_is_refused_for_24_hours_and_then_counts_again() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    sim.meter().await;
    let form = event(&customer, "5", "row-1", NOW);
    let taken = sim.post("/v1/billing/meter_events", &form).await.ok();
    assert_eq!(
        (&taken["identifier"], &taken["timestamp"], &taken["payload"]["value"]),
        (&json!("row-1"), &json!(NOW), &json!("5"))
    );
    let again = sim.post_keyed("/v1/billing/meter_events", &form, "another key").await.unwrap();
    assert_eq!(again.refusal(), (400, "invalid_request_error", None, None));
    assert_eq!(again.message(), "An event already exists with identifier row-1.");
    assert_eq!(again.header("stripe-should-retry"), Some("false"));
    sim.advance(86_399).await;
    assert_eq!(sim.post("/v1/billing/meter_events", &form).await.status, 400);
    sim.advance(1).await;
    sim.post("/v1/billing/meter_events", &form).await.ok();
    assert_eq!(sim.look("/meters/totals").await["grand_total"], json!({ "sum": "10", "count": 2 }));
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_timestamp_must_lie_in_the_window() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    sim.meter().await;
    let oldest = NOW - 35 * 86_400;
    sim.post("/v1/billing/meter_events", &event(&customer, "1", "a", oldest)).await.ok();
    let old = sim.post("/v1/billing/meter_events", &event(&customer, "1", "b", oldest - 1)).await;
    assert_eq!(old.refusal(), (400, "invalid_request_error", None, Some("timestamp")));
    let expect = format!(
        "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater than or equal to {oldest}."
    );
    assert_eq!(old.message(), expect);
    sim.post("/v1/billing/meter_events", &event(&customer, "1", "c", NOW + 300)).await.ok();
    assert_eq!(
        sim.post("/v1/billing/meter_events", &event(&customer, "1", "d", NOW + 301)).await.status,
        400
    );
    sim.post("/v1/billing/meter_events", &event(&customer, "1", "b", NOW)).await.ok(); // A refused identifier is not used up.
    sim.assert_sound().await;
}

#[tokio::test]
async fn two_calls_for_one_customer_and_meter_at_once_are_one_too_many() {
    let sim = std::sync::Arc::new(Sim::start().await);
    let (customer, other) = (sim.customer().await, sim.customer().await);
    sim.meter().await;
    sim.hold("/v1/billing/meter_events").await;
    let first = tokio::spawn({
        let (sim, form) = (std::sync::Arc::clone(&sim), event(&customer, "1", "a", NOW));
        async move { sim.post("/v1/billing/meter_events", &form).await.status }
    });
    sim.held().await;
    let second = sim.post("/v1/billing/meter_events", &event(&customer, "1", "b", NOW)).await;
    assert_eq!(
        (second.status, second.header("stripe-rate-limited-reason")),
        (429, Some("resource-specific"))
    );
    assert_eq!(
        sim.post("/v1/billing/meter_events", &event(&other, "1", "c", NOW)).await.status,
        200,
        "another customer may"
    );
    sim.release().await;
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(
        sim.post("/v1/billing/meter_events", &event(&customer, "1", "b", NOW)).await.status,
        200,
        "free again"
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn an_event_is_taken_in_even_if_it_will_not_count() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let meter = sim.meter().await;
    let post = |form: String| {
        let sim = &sim;
        async move { sim.post("/v1/billing/meter_events", &form).await.ok() }
    };
    post("event_name=unknown&payload[stripe_customer_id]=cus_x&payload[value]=1".to_owned()).await;
    post("event_name=calls&payload[value]=1".to_owned()).await;
    post(event("cus_none", "1", "c", NOW)).await;
    post(event(&customer, "1.5x", "d", NOW)).await;
    post(event(&customer, "1234567890123456", "e", NOW)).await;
    post(event(&customer, "-2", "f", NOW)).await;
    sim.post(&format!("/v1/billing/meters/{meter}/deactivate"), "").await.ok();
    post(event(&customer, "1", "g", NOW)).await;
    let totals = sim.look("/meters/totals").await;
    assert_eq!(totals["grand_total"], json!({ "sum": "-2", "count": 1 }));
    let reasons = json!({
        "no_meter": 1, "meter_event_no_customer_defined": 1, "meter_event_customer_not_found": 1, "meter_event_invalid_value": 1,
        "meter_event_value_too_many_digits": 1, "archived_meter": 1,
    });
    assert_eq!(totals["uncounted"], reasons);
    assert_eq!(sim.look("/meter_events").await["recorded"], 7);
    sim.assert_sound().await;
}

/// Usage of 1, 2, 4 and 8 in four different hours of one day, and 16 the day before.
async fn used(sim: &Sim) -> (String, String, i64) {
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let midnight = NOW - NOW.rem_euclid(86_400);
    for (value, at) in [
        ("16", midnight - 1),
        ("1", midnight),
        ("2", midnight + 3_600),
        ("4", midnight + 7_199 + 3_600),
        ("8", midnight + 4 * 3_600),
    ] {
        sim.post("/v1/billing/meter_events", &event(&customer, value, value, at)).await.ok();
    }
    (customer, meter, midnight)
}

#[tokio::test]
async fn summaries_group_by_hour_and_day_and_exclude_their_end() {
    let sim = Sim::start().await;
    let (customer, meter, midnight) = used(&sim).await;
    let list = |from: i64, to: i64, more: &'static str| {
        let path = format!(
            "/v1/billing/meters/{meter}/event_summaries?customer={customer}&start_time={from}&end_time={to}{more}"
        );
        let sim = &sim;
        async move {
            let list = sim.get(&path).await.ok();
            let row = |row: &Value| {
                (
                    row["start_time"].as_i64().unwrap(),
                    row["end_time"].as_i64().unwrap(),
                    row["aggregated_value"].clone(),
                )
            };
            list["data"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()
        }
    };
    let whole = list(midnight - 86_400, midnight + 86_400, "").await;
    assert_eq!(whole, [(midnight - 86_400, midnight + 86_400, json!(31))]);
    let hours = list(midnight, midnight + 4 * 3_600, "&value_grouping_window=hour").await;
    let at = |hour: i64, value: i64| {
        (midnight + hour * 3_600, midnight + (hour + 1) * 3_600, json!(value))
    };
    assert_eq!(
        hours,
        [at(2, 4), at(1, 2), at(0, 1)],
        "newest first, no empty hours, the hour at the end not included"
    );
    let days = list(midnight - 86_400, midnight + 86_400, "&value_grouping_window=day").await;
    assert_eq!(
        days,
        [(midnight, midnight + 86_400, json!(15)), (midnight - 86_400, midnight, json!(16))]
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn summaries_refuse_times_off_the_edges() {
    let sim = Sim::start().await;
    let (customer, meter, midnight) = used(&sim).await;
    let status = |from: i64, to: i64, more: &'static str| {
        let path = format!(
            "/v1/billing/meters/{meter}/event_summaries?customer={customer}&start_time={from}&end_time={to}{more}"
        );
        let sim = &sim;
        async move { sim.get(&path).await.status }
    };
    assert_eq!(status(midnight, midnight + 60, "").await, 200);
    assert_eq!(status(midnight + 1, midnight + 60, "").await, 400);
    assert_eq!(status(midnight + 60, midnight + 3_600, "&value_grouping_window=hour").await, 400);
    assert_eq!(status(midnight, midnight + 3_600, "&value_grouping_window=day").await, 400);
    assert_eq!(status(midnight, midnight, "").await, 400);
    let missing = sim
        .get(&format!("/v1/billing/meters/{meter}/event_summaries?start_time=0&end_time=60"))
        .await;
    assert_eq!(
        missing.refusal(),
        (400, "invalid_request_error", Some("parameter_missing"), Some("customer"))
    );
}

#[tokio::test]
async fn summaries_come_ten_at_a_time_and_page_to_the_truth() {
    let sim = Sim::start().await;
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    let start = NOW - NOW.rem_euclid(86_400) - 86_400;
    for hour in 0..24 {
        sim.post(
            "/v1/billing/meter_events",
            &event(&customer, "1", &format!("h{hour}"), start + hour * 3_600 + 59),
        )
        .await
        .ok();
    }
    let base = format!(
        "/v1/billing/meters/{meter}/event_summaries?customer={customer}&start_time={start}&end_time={}&value_grouping_window=hour",
        start + 86_400
    );
    let mut page = sim.get(&base).await.ok();
    assert_eq!((ids(&page).len(), &page["has_more"]), (10, &json!(true)));
    let mut total = 10;
    while page["has_more"] == true {
        let last = ids(&page).pop().unwrap();
        page = sim.get(&format!("{base}&starting_after={last}")).await.ok();
        total += ids(&page).len();
    }
    assert_eq!(total, 24);
    sim.assert_sound().await;
}

#[tokio::test]
async fn summaries_can_lag_behind_the_events() {
    let sim = Sim::with(|config| config.summary_lag_s = 60).await;
    let (customer, meter, midnight) = used(&sim).await;
    let path = format!(
        "/v1/billing/meters/{meter}/event_summaries?customer={customer}&start_time={midnight}&end_time={}",
        midnight + 86_400
    );
    assert_eq!(ids(&sim.get(&path).await.ok()).len(), 0);
    assert_eq!(
        sim.look("/meters/totals").await["grand_total"]["sum"],
        "31",
        "the ledger knows at once"
    );
    sim.advance(60).await;
    assert_eq!(sim.get(&path).await.ok()["data"][0]["aggregated_value"], 15);
}

#[tokio::test]
async fn meters_can_count_or_keep_the_last_value() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    for formula in ["count", "last"] {
        let form = format!(
            "display_name=M&event_name={formula}&default_aggregation[formula]={formula}&value_settings[event_payload_key]=n"
        );
        let meter = id(&sim.post("/v1/billing/meters", &form).await.ok());
        for (value, at) in [("7", NOW - 60), ("9", NOW - 30), ("8", NOW - 45)] {
            let form = format!(
                "event_name={formula}&payload[stripe_customer_id]={customer}&payload[n]={value}&timestamp={at}"
            );
            sim.post("/v1/billing/meter_events", &form).await.ok();
        }
        let path = format!(
            "/v1/billing/meters/{meter}/event_summaries?customer={customer}&start_time={}&end_time={NOW}",
            NOW - 60
        );
        let expect = if formula == "count" { 3 } else { 9 };
        assert_eq!(sim.get(&path).await.ok()["data"][0]["aggregated_value"], expect, "{formula}");
    }
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_ledger_totals_by_name_customer_and_hour() {
    let sim = Sim::start().await;
    let (customer, _, midnight) = used(&sim).await;
    let totals = sim.look("/meters/totals").await;
    let row = |hour: i64, sum: &str| json!({ "event_name": "calls", "customer": customer, "hour": midnight + hour * 3_600, "sum": sum, "count": 1 });
    assert_eq!(
        totals["hours"],
        json!([row(-1, "16"), row(0, "1"), row(1, "2"), row(2, "4"), row(4, "8")])
    );
    assert_eq!(totals["grand_total"], json!({ "sum": "31", "count": 5 }));
}

#[tokio::test]
async fn in_a_meter_with_a_window_the_last_event_of_an_hour_stands() {
    let sim = Sim::start().await;
    let customer = sim.customer().await;
    let form = "display_name=Calls&event_name=calls&default_aggregation[formula]=sum&event_time_window=hour";
    let meter = sim.post("/v1/billing/meters", form).await.ok();
    assert_eq!(meter["event_time_window"], "hour");
    let hour = NOW - 7_200;
    for (value, at) in [("5", hour), ("7", hour + 3_599), ("1", hour + 3_600)] {
        sim.used(&customer, value, at).await;
    }
    let path = format!(
        "/v1/billing/meters/{}/event_summaries?customer={customer}&start_time={hour}&end_time={NOW}&value_grouping_window=hour",
        id(&meter)
    );
    let rows = sim.get(&path).await.ok();
    let values: Vec<_> =
        rows["data"].as_array().unwrap().iter().map(|row| &row["aggregated_value"]).collect();
    assert_eq!(values, [&json!(1), &json!(7)]);
    assert_eq!(sim.look("/meters/totals").await["uncounted"], json!({ "replaced": 1 }));
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_end_of_a_summary_is_exclusive_unless_set_otherwise() {
    let sim = Sim::start().await;
    let (customer, meter) = (sim.customer().await, sim.meter().await);
    sim.used(&customer, "5", NOW).await;
    let path = format!(
        "/v1/billing/meters/{meter}/event_summaries?customer={customer}&start_time={}&end_time={NOW}&value_grouping_window=hour",
        NOW - 3_600
    );
    assert_eq!(ids(&sim.get(&path).await.ok()).len(), 0);
    sim.settings(json!({ "summary_end": "inclusive" })).await;
    let rows = sim.get(&path).await.ok();
    assert_eq!(
        (&rows["data"][0]["aggregated_value"], &rows["data"][0]["end_time"]),
        (&json!(5), &json!(NOW))
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_sandbox_takes_25_requests_a_second_and_says_why_it_takes_no_more() {
    let sim = Sim::start().await;
    sim.settings(json!({ "rates": "sandbox" })).await;
    for _ in 0..25 {
        sim.get("/v1/events").await.ok();
    }
    let refused = sim.get("/v1/events").await;
    assert_eq!(refused.refusal(), (429, "invalid_request_error", Some("rate_limit"), None));
    assert_eq!(refused.header("stripe-rate-limited-reason"), Some("global-rate"));
    assert_eq!(refused.header("stripe-should-retry"), Some("true"));
    sim.advance(1).await;
    sim.get("/v1/events").await.ok();
    sim.settings(json!({ "rates": "none" })).await;
    for _ in 0..30 {
        sim.get("/v1/events").await.ok();
    }
    sim.assert_sound().await;
}
