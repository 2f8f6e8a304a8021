//! `/v2/core/event_destinations`: receivers of thin events.
//!
//! The URL and the signing secret show only when a request includes them, the secret only at creation, as at Stripe. Absent on purpose:
//! destinations in other clouds, snapshot payloads (those are `/v1/webhook_endpoints`), pings.

use super::{Answer, Call, object};
use crate::clock::rfc3339;
use crate::config;
use crate::error::ApiError;
use crate::ids;
use crate::list::Page;
use crate::params::{Params, merge_metadata};
use crate::store::secrets::Secrets;
use crate::store::table::id_of;
use serde_json::{Value, json};

const COMPONENT: &str = "v2.core.event_destination";

/// `POST /v2/core/event_destinations`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let name = params.required_text("name")?;
    let events = params.texts("enabled_events").unwrap_or_default();
    for (param, only) in [("type", "webhook_endpoint"), ("event_payload", "thin")] {
        let given = params.required_text(param)?;
        if given != only {
            return Err(ApiError::not_simulated(&format!(
                "an event destination with {param} {given}"
            )));
        }
    }
    let Some(mut endpoint) = params.hash("webhook_endpoint") else {
        return Err(ApiError::missing("webhook_endpoint"));
    };
    let url = checked(&endpoint.required_text("url")?)?;
    endpoint.finish()?;
    let include = params.texts("include").unwrap_or_default();
    let description = params.text("description").unwrap_or_default();
    let mut metadata = json!({});
    merge_metadata(&mut metadata, params.take("metadata"))?;
    params.finish()?;
    let mut row = add(call, &name, &url, &events, None);
    row["description"] = json!(description);
    row["metadata"] = metadata;
    call.store().destinations.replace(row.clone());
    let mut answer = shown(&row, &include);
    if include.iter().any(|part| part == "webhook_endpoint.signing_secret") {
        let secrets = call.world.store.endpoint_secrets.get(id_of(&row));
        let secret = secrets.and_then(|secrets| secrets.valid_at(call.now()).into_iter().next());
        answer["webhook_endpoint"]["signing_secret"] = json!(secret);
    }
    Ok(answer)
}

/// Stores a destination with its secret, a fresh one unless it is given. Answers the row.
pub fn add(
    call: &mut Call<'_>,
    name: &str,
    url: &str,
    events: &[String],
    secret: Option<String>,
) -> Value {
    let now = rfc3339(call.now());
    let fields = json!({
        "id": call.mint(ids::DESTINATION), "object": COMPONENT, "created": now, "description": "", "enabled_events": events,
        "event_payload": "thin", "livemode": false, "metadata": {}, "name": name, "status": "enabled", "type": "webhook_endpoint",
        "updated": now, "url": url,
    });
    let row = object(COMPONENT, fields);
    let secret = secret.unwrap_or_else(|| call.mint(ids::ENDPOINT_SECRET));
    call.store().endpoint_secrets.insert(id_of(&row).to_owned(), Secrets::new(secret));
    call.store().destinations.insert(row.clone());
    row
}

fn checked(url: &str) -> Result<String, ApiError> {
    config::endpoint_url(url).map_err(|why| ApiError::invalid("webhook_endpoint[url]", why))
}

/// A row as the API shows it: its URL only where that is included.
fn shown(row: &Value, include: &[String]) -> Value {
    let mut shown = row.clone();
    let url = shown.as_object_mut().and_then(|fields| fields.remove("url"));
    shown["webhook_endpoint"] = json!({});
    if include.iter().any(|part| part == "webhook_endpoint.url") {
        shown["webhook_endpoint"]["url"] = json!(url);
    }
    shown
}

fn found(call: &Call<'_>, id: &str) -> Answer {
    let found = call.world.store.destinations.get(id).cloned();
    found.ok_or_else(|| ApiError::not_found("event destination", id))
}

/// `GET /v2/core/event_destinations/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let include = params.texts("include").unwrap_or_default();
    params.finish()?;
    Ok(shown(&found(call, id)?, &include))
}

/// `GET /v2/core/event_destinations`: the newest first; a page's token is the last row of the page before.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let include = params.texts("include").unwrap_or_default();
    let page = Page::take_v2(&mut params)?;
    params.finish()?;
    let rows = call.world.store.destinations.newest_first();
    let (rows, has_more) = page.cut("event destination", rows, |_| true)?;
    let last = rows.last().filter(|_| has_more).map(|row| id_of(row));
    let next = last.map(|id| format!("/v2/core/event_destinations?page={id}"));
    let data: Vec<Value> = rows.iter().map(|row| shown(row, &include)).collect();
    Ok(json!({ "data": data, "next_page_url": next, "previous_page_url": null }))
}

/// `POST /v2/core/event_destinations/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let mut row = found(call, id)?;
    let include = params.texts("include").unwrap_or_default();
    params.copy_into(&mut row, &["enabled_events"]);
    for name in ["description", "name"] {
        if let Some(value) = params.take(name) {
            row[name] = value;
        }
    }
    if let Some(mut endpoint) = params.hash("webhook_endpoint") {
        row["url"] = json!(checked(&endpoint.required_text("url")?)?);
        endpoint.finish()?;
    }
    merge_metadata(&mut row["metadata"], params.take("metadata"))?;
    params.finish()?;
    keep(call, row, &include)
}

fn keep(call: &mut Call<'_>, mut row: Value, include: &[String]) -> Answer {
    row["updated"] = json!(rfc3339(call.now()));
    call.store().destinations.replace(row.clone());
    Ok(shown(&row, include))
}

/// `POST /v2/core/event_destinations/{id}/enable`.
pub fn enable(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let mut row = found(call, id)?;
    row["status"] = json!("enabled");
    row["status_details"] = Value::Null;
    keep(call, row, &[])
}

/// `POST /v2/core/event_destinations/{id}/disable`.
pub fn disable(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    let mut row = found(call, id)?;
    row["status"] = json!("disabled");
    row["status_details"] = json!({ "disabled": { "reason": "user" } });
    keep(call, row, &[])
}

/// `DELETE /v2/core/event_destinations/{id}`.
pub fn delete(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    found(call, id)?;
    call.store().destinations.remove(id);
    call.store().endpoint_secrets.remove(id);
    Ok(json!({ "id": id, "object": COMPONENT }))
}
