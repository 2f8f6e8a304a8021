//! The embedded description: what it refuses, and that published samples pass it.

use super::*;
use crate::form;

fn typed(method: &str, path: &str, body: &str) -> Result<Value, ApiError> {
    let (operation, _) = spec().route(method, path).unwrap();
    let tree = form::parse("", body.as_bytes()).unwrap();
    let parameters = Value::Object(coerce::coerce(&operation.parameters, &tree)?);
    spec().check_parameters(operation, &parameters)?;
    Ok(parameters)
}

#[test]
fn text_becomes_the_type_that_the_schema_names() {
    let body = "currency=usd&recurring[interval]=month&recurring[interval_count]=2&metadata[n]=12&active=true\
                &tiers[0][up_to]=10&tiers[0][unit_amount]=5&tiers[1][up_to]=inf&expand[]=product";
    let expect = json!({
        "currency": "usd", "recurring": { "interval": "month", "interval_count": 2 }, "metadata": { "n": "12" },
        "active": true, "tiers": [{ "up_to": 10, "unit_amount": 5 }, { "up_to": "inf" }], "expand": ["product"],
    });
    assert_eq!(typed("POST", "/v1/prices", body).unwrap(), expect);
}

#[test]
fn refusals_name_code_and_parameter() {
    #[track_caller]
    fn check(path: &str, body: &str, code: Option<&str>, param: &str, message: &str) {
        let error = typed("POST", path, body).unwrap_err();
        assert_eq!(
            (error.status, error.code, error.param.as_deref()),
            (400, code, Some(param)),
            "{body}"
        );
        assert!(error.message.contains(message), "{}", error.message);
        assert!(!error.stored);
    }
    let long = "x".repeat(101);
    check(
        "/v1/customers",
        "nme=x",
        Some("parameter_unknown"),
        "nme",
        "Received unknown parameter: nme",
    );
    check("/v1/products", "", Some("parameter_missing"), "name", "Missing required param: name.");
    check(
        "/v1/products",
        "name=",
        Some("parameter_invalid_empty"),
        "name",
        "You passed an empty string",
    );
    check(
        "/v1/prices",
        "currency=usd&recurring[intervall]=x",
        Some("parameter_unknown"),
        "recurring[intervall]",
        "",
    );
    check(
        "/v1/prices",
        "currency=usd&recurring[usage_type]=metered",
        Some("parameter_missing"),
        "recurring[interval]",
        "",
    );
    check(
        "/v1/prices",
        "currency=usd&unit_amount=1.5",
        Some("parameter_invalid_integer"),
        "unit_amount",
        "Invalid integer: 1.5",
    );
    check("/v1/prices", "currency=usd&active=yes", None, "active", "Invalid boolean: yes");
    check(
        "/v1/prices",
        "currency=usd&recurring[interval]=hour",
        None,
        "recurring[interval]",
        "must be one of day, month, week, or year",
    );
    check("/v1/prices", "currency=usd&recurring=month", None, "recurring", "Invalid object");
    check("/v1/products", "name=x&images=y", None, "images", "Invalid array");
    check("/v1/products", "name[a]=x", None, "name", "Invalid string");
    let event = format!("event_name=calls&payload[value]=1&identifier={long}");
    check("/v1/billing/meter_events", &event, None, "identifier", "must be at most 100 characters");
}

#[test]
fn an_empty_text_unsets_where_something_can_be_unset() {
    assert_eq!(
        typed("POST", "/v1/customers/cus_1", "metadata=&shipping=&tax_exempt=").unwrap()["metadata"],
        ""
    );
    assert_eq!(typed("POST", "/v1/customers/cus_1", "metadata[a]=").unwrap()["metadata"]["a"], "");
    assert!(typed("POST", "/v1/customers/cus_1", "balance=").is_err());
}

#[test]
fn a_literal_path_wins_over_an_id() {
    let (operation, id) = spec().route("POST", "/v1/invoices/create_preview").unwrap();
    assert_eq!((operation.template.as_str(), id), ("/v1/invoices/create_preview", ""));
    let (operation, id) = spec().route("GET", "/v1/billing/meters/mtr_1/event_summaries").unwrap();
    assert_eq!(
        (operation.template.as_str(), id),
        ("/v1/billing/meters/{id}/event_summaries", "mtr_1")
    );
    assert!(spec().route("GET", "/v1/customers/").is_none());
    assert!(spec().route("PUT", "/v1/customers").is_none());
}

#[test]
fn answers_must_carry_what_stripe_always_sends_and_nothing_unknown() {
    let mut meter = json!({
        "id": "mtr_1", "object": "billing.meter", "created": 1, "updated": 1, "livemode": false, "display_name": "d",
        "event_name": "e", "event_time_window": null, "status": "active",
        "customer_mapping": { "type": "by_id", "event_payload_key": "c" }, "default_aggregation": { "formula": "sum" },
        "value_settings": { "event_payload_key": "value" }, "status_transitions": { "deactivated_at": null },
    });
    assert_eq!(spec().check_component("billing.meter", &meter), Ok(()));
    meter["surplus"] = json!(1);
    assert!(spec().check_component("billing.meter", &meter).unwrap_err().contains("surplus"));
    meter.as_object_mut().unwrap().remove("surplus");
    meter.as_object_mut().unwrap().remove("event_time_window");
    assert!(
        spec().check_component("billing.meter", &meter).unwrap_err().contains("event_time_window")
    );
}

#[test]
fn published_fixtures_of_simulated_resources_pass() {
    let fixtures: Value = serde_json::from_str(include_str!("../../data/fixtures.json")).unwrap();
    for name in [
        "billing.meter",
        "billing.meter_event",
        "billing.meter_event_summary",
        "price",
        "item",
        "webhook_endpoint",
    ] {
        assert_eq!(spec().check_component(name, &fixtures["resources"][name]), Ok(()), "{name}");
    }
}

#[test]
fn an_events_previous_attributes_must_exist() {
    let fixtures: Value = serde_json::from_str(include_str!("../../data/fixtures.json")).unwrap();
    let mut event = json!({
        "id": "evt_1", "object": "event", "api_version": null, "created": 1, "livemode": false, "pending_webhooks": 0,
        "request": null, "type": "billing.meter.updated",
        "data": { "object": fixtures["resources"]["billing.meter"], "previous_attributes": { "display_name": "x" } },
    });
    assert_eq!(spec().check_event(&event), Ok(()));
    event["data"]["previous_attributes"] = json!({ "colour": "x" });
    assert!(spec().check_event(&event).is_err());
}
