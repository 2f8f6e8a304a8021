//! `/v1/billing/alerts`: tells once for each customer that usage of a meter reached a value.
//!
//! Usage counts from the alert's creation, while it is active; Stripe does not say from when. An alert is no limiter: it comes
//! after the usage. Absent on purpose: other kinds of alerts.

use super::{Answer, Call, object, page, summary};
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::store::table::id_of;
use crate::store::usage;
use rust_decimal::Decimal;
use serde_json::{Value, json};

/// `POST /v1/billing/alerts`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let kind = params.required_text("alert_type")?;
    let title = params.required_text("title")?;
    let threshold = params.hash("usage_threshold");
    let mut given = threshold.ok_or_else(|| ApiError::missing("usage_threshold"))?;
    params.finish()?;
    let gte = given.int("gte").unwrap_or_default();
    if gte < 1 {
        let message = "The value of an alert must be greater than 0.";
        return Err(ApiError::invalid("usage_threshold[gte]", message));
    }
    let meter = given.required_text("meter")?;
    if call.world.store.meters.get(&meter).is_none() {
        return Err(ApiError::no_such("billing meter", &meter, "usage_threshold[meter]"));
    }
    let recurrence = given.required_text("recurrence")?;
    let filters = read_filters(call, &mut given)?;
    given.finish()?;
    let fields = json!({
        "id": call.mint(ids::ALERT), "object": "billing.alert", "alert_type": kind, "livemode": false, "status": "active",
        "title": title,
        "usage_threshold": { "filters": filters, "gte": gte, "meter": meter, "recurrence": recurrence },
    });
    let alert = object("billing.alert", fields);
    call.store().alerts.insert(alert.clone());
    Ok(alert)
}

fn read_filters(call: &Call<'_>, given: &mut Params) -> Answer {
    let Some(rows) = given.hashes("filters") else { return Ok(Value::Null) };
    if rows.len() > 1 {
        let message = "You can only specify up to one filter.";
        return Err(ApiError::invalid("usage_threshold[filters]", message));
    }
    let read = |mut row: Params| -> Answer {
        let path = row.path_of("customer");
        let customer = row.text("customer");
        row.ignore(&["type"]); // `customer` is the only one.
        row.finish()?;
        match customer {
            Some(id) if call.world.store.live_customer(&id).is_none() => {
                Err(ApiError::no_such("customer", &id, &path))
            }
            customer => Ok(json!({ "type": "customer", "customer": customer })),
        }
    };
    rows.into_iter().map(read).collect()
}

/// `GET /v1/billing/alerts/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.alerts, "billing alert", id, params)
}

/// `GET /v1/billing/alerts`.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let (kind, meter) = (params.take("alert_type"), params.take("meter"));
    let rows = &call.world.store.alerts;
    page(call.world, rows, "billing alert", "/v1/billing/alerts", params, |row| {
        kind.as_ref().is_none_or(|kind| row["alert_type"] == *kind)
            && meter.as_ref().is_none_or(|meter| row["usage_threshold"]["meter"] == *meter)
    })
}

/// `POST /v1/billing/alerts/{id}/activate`.
pub fn activate(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    set(call, id, params, ("active", &["inactive"]))
}

/// `POST /v1/billing/alerts/{id}/deactivate`.
pub fn deactivate(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    set(call, id, params, ("inactive", &["active"]))
}

/// `POST /v1/billing/alerts/{id}/archive`: for good.
pub fn archive(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    set(call, id, params, ("archived", &["active", "inactive"]))
}

fn set(call: &mut Call<'_>, id: &str, params: Params, (status, from): (&str, &[&str])) -> Answer {
    params.finish()?;
    let found = call.world.store.alerts.get(id).cloned();
    let mut alert = found.ok_or_else(|| ApiError::not_found("billing alert", id))?;
    let own = alert["status"].as_str().unwrap_or_default();
    if !from.contains(&own) {
        let message = format!("The alert {id} is {own} and cannot become {status}.");
        return Err(ApiError::refused(None, "id", message));
    }
    alert["status"] = json!(status);
    call.store().alerts.replace(alert.clone());
    Ok(alert)
}

/// A customer used a meter: tells of every alert that this reached. That is nobody's request.
pub fn look(call: &mut Call<'_>, meter: &str, customer: &str, value: Option<Decimal>) {
    let concerns = |row: &&Value| {
        let own = &row["usage_threshold"];
        let mut only = own["filters"].as_array().into_iter().flatten();
        row["status"] == "active"
            && own["meter"] == meter
            && only.all(|only| only["customer"].is_null() || only["customer"] == customer)
    };
    let alerts: Vec<Value> =
        call.world.store.alerts.newest_first().filter(concerns).cloned().collect();
    let formula = call.world.store.meters.get(meter);
    let formula = formula.map_or(Value::Null, |row| row["default_aggregation"]["formula"].clone());
    for alert in alerts {
        let key = (id_of(&alert).to_owned(), customer.to_owned());
        let seen = call.store().alert_usage.entry(key.clone()).or_default();
        *seen = match formula.as_str() {
            Some("count") => usage::add(*seen, Some(Decimal::ONE)),
            Some("last") => value.unwrap_or_default(),
            _ => usage::add(*seen, value),
        };
        let seen = *seen;
        let limit = alert["usage_threshold"]["gte"].as_i64().unwrap_or_default();
        if seen < Decimal::from(limit) || !call.store().alerts_told.insert(key) {
            continue;
        }
        let told = json!({
            "object": "billing.alert_triggered", "alert": alert, "created": call.now(), "customer": customer, "livemode": false,
            "value": summary::number(&seen),
        });
        let origin = std::mem::take(&mut call.origin);
        call.emit("billing.alert.triggered", &told, None);
        call.origin = origin;
    }
}
