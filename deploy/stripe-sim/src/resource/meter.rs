//! `/v1/billing/meters`.
//!
//! An event name belongs to one active meter. Nothing but the display name changes after creation; a deactivated meter no longer
//! takes events, and what comes meanwhile is lost for good. With an `event_time_window`, an event takes the place of those of its
//! customer's same UTC hour or day; which of two wins is not documented: here the one that came last.

use super::{Answer, Call, object, page};
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::store::table::id_of;
use serde_json::{Value, json};

/// `POST /v1/billing/meters`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let event_name = params.required_text("event_name")?;
    check_length("event_name", &event_name, 100)?;
    let display_name = params.required_text("display_name")?;
    check_length("display_name", &display_name, 250)?;
    let customer_key =
        hash_text(&mut params, "customer_mapping", "event_payload_key", "stripe_customer_id")?;
    let value_key = hash_text(&mut params, "value_settings", "event_payload_key", "value")?;
    let formula = hash_text(&mut params, "default_aggregation", "formula", "sum")?;
    let window = params.text("event_time_window");
    params.finish()?;
    check_unique(call, &event_name)?;
    let fields = json!({
        "id": call.mint(ids::METER), "object": "billing.meter", "created": call.now(), "updated": call.now(), "livemode": false,
        "customer_mapping": { "type": "by_id", "event_payload_key": customer_key },
        "default_aggregation": { "formula": formula }, "display_name": display_name, "event_name": event_name,
        "event_time_window": window, "status": "active", "status_transitions": { "deactivated_at": null },
        "value_settings": { "event_payload_key": value_key },
    });
    let meter = object("billing.meter", fields);
    call.store().meters.insert(meter.clone());
    call.emit("billing.meter.created", &meter, None);
    Ok(meter)
}

fn hash_text(
    params: &mut Params,
    hash: &str,
    field: &str,
    default: &str,
) -> Result<String, ApiError> {
    let Some(mut given) = params.hash(hash) else { return Ok(default.to_owned()) };
    given.ignore(&["type"]); // `by_id` is the only one.
    let text = given.text(field).unwrap_or_else(|| default.to_owned());
    given.finish()?;
    Ok(text)
}

fn check_length(param: &str, text: &str, limit: usize) -> Result<(), ApiError> {
    if text.chars().count() <= limit {
        return Ok(());
    }
    Err(ApiError::invalid(
        param,
        format!(
            "Invalid string: {}...; must be at most {limit} characters",
            text.chars().take(20).collect::<String>()
        ),
    ))
}

fn check_unique(call: &Call<'_>, event_name: &str) -> Result<(), ApiError> {
    match with_event_name(call, event_name) {
        Some(meter) if meter["status"] == "active" => {
            let message = format!(
                "An active meter ({}) already uses the event name {event_name}.",
                id_of(meter)
            );
            Err(ApiError::refused(Some("resource_already_exists"), "event_name", message))
        }
        _ => Ok(()),
    }
}

/// The meter that takes events of this name: the active one, else the newest inactive one.
pub fn with_event_name<'a>(call: &'a Call<'_>, event_name: &str) -> Option<&'a Value> {
    let named =
        || call.world.store.meters.newest_first().filter(|meter| meter["event_name"] == event_name);
    named().find(|meter| meter["status"] == "active").or_else(|| named().next())
}

/// `GET /v1/billing/meters/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.meters, "billing meter", id, params)
}

/// `GET /v1/billing/meters`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let status = params.text("status");
    page(
        call.world,
        &call.world.store.meters,
        "billing meter",
        "/v1/billing/meters",
        params,
        |row| status.as_ref().is_none_or(|status| row["status"] == status.as_str()),
    )
}

/// `POST /v1/billing/meters/{id}`: the display name only.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut meter = found(call, id)?;
    if let Some(name) = params.text("display_name") {
        check_length("display_name", &name, 250)?;
        meter["display_name"] = json!(name);
    }
    params.finish()?;
    meter["updated"] = json!(call.now());
    Ok(call.save(|store| &mut store.meters, meter, "billing.meter.updated"))
}

/// `POST /v1/billing/meters/{id}/deactivate`.
pub fn deactivate(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    switch(call, id, "inactive", "billing.meter.deactivated")
}

/// `POST /v1/billing/meters/{id}/reactivate`.
pub fn reactivate(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let meter = found(call, id)?;
    if meter["status"] == "inactive" {
        check_unique(call, meter["event_name"].as_str().unwrap_or_default())?;
    }
    switch(call, id, "active", "billing.meter.reactivated")
}

fn switch(call: &mut Call<'_>, id: &str, status: &str, event_type: &str) -> Answer {
    let mut meter = found(call, id)?;
    if meter["status"] == status {
        return Err(ApiError::refused(None, "", format!("The meter {id} is already {status}.")));
    }
    meter["status"] = json!(status);
    meter["status_transitions"]["deactivated_at"] =
        if status == "inactive" { json!(call.now()) } else { Value::Null };
    meter["updated"] = json!(call.now());
    Ok(call.save(|store| &mut store.meters, meter, event_type))
}

fn found(call: &Call<'_>, id: &str) -> Answer {
    call.world.store.meters.get(id).cloned().ok_or_else(|| ApiError::not_found("billing meter", id))
}
