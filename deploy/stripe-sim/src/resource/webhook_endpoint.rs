//! `/v1/webhook_endpoints`.
//!
//! The signing secret is shown once, at creation. Only plain http to this machine is delivered to. An endpoint's API version is one
//! whose objects the simulator has. Only the Dashboard can roll a secret, so only the control API does. Absent on purpose: Connect.

use super::{API_VERSIONS, Answer, Call, object, page};
use crate::config;
use crate::error::ApiError;
use crate::ids;
use crate::params::{Params, merge_metadata};
use crate::store::secrets::Secrets;
use crate::store::table::id_of;
use serde_json::{Value, json};

/// Endpoints that an account can have, as at Stripe.
const LIMIT: usize = 16;

/// `POST /v1/webhook_endpoints`: the only answer that carries the secret.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let url = checked_url(&params.required_text("url")?)?;
    let events = params.take("enabled_events").unwrap_or_default();
    let version = params.text("api_version");
    check_version(version.as_deref())?;
    let mut endpoint = blank(call, &url, &events);
    endpoint["api_version"] = json!(version);
    params.copy_into(&mut endpoint, &["description"]);
    merge_metadata(&mut endpoint["metadata"], params.take("metadata"))?;
    if params.flag("connect") == Some(true) {
        return Err(ApiError::not_simulated("a Connect endpoint"));
    }
    params.finish()?;
    if call.world.store.endpoints.len() >= LIMIT {
        let message = format!("You have reached the maximum of {LIMIT} test webhook endpoints.");
        return Err(ApiError::refused(None, "", message));
    }
    let secret = call.mint(ids::ENDPOINT_SECRET);
    add(call, endpoint.clone(), secret.clone());
    endpoint["secret"] = json!(secret);
    Ok(endpoint)
}

/// Registers an endpoint for all events from the command line.
pub fn register(call: &mut Call<'_>, url: &str, secret: &str) {
    let endpoint = blank(call, url, &json!(["*"]));
    add(call, endpoint, secret.to_owned());
}

fn add(call: &mut Call<'_>, endpoint: Value, secret: String) {
    let id = id_of(&endpoint).to_owned();
    call.store().endpoint_secrets.insert(id, Secrets::new(secret));
    call.store().endpoints.insert(endpoint);
}

fn blank(call: &mut Call<'_>, url: &str, events: &Value) -> Value {
    let fields = json!({
        "id": call.mint(ids::ENDPOINT), "object": "webhook_endpoint", "created": call.now(), "enabled_events": events,
        "livemode": false, "metadata": {}, "status": "enabled", "url": url,
    });
    object("webhook_endpoint", fields)
}

/// Gives an endpoint or event destination a new secret; the old one signs as well for some seconds. Answers the new one.
///
/// # Errors
/// 404 when there is no such receiver.
pub fn roll_secret(call: &mut Call<'_>, id: &str, keep_s: i64) -> Answer {
    let (secret, until) = (call.mint(ids::ENDPOINT_SECRET), call.now().saturating_add(keep_s));
    let found = call.store().endpoint_secrets.get_mut(id);
    found.ok_or_else(|| ApiError::not_found("webhook endpoint", id))?.roll(secret.clone(), until);
    Ok(json!({ "id": id, "secret": secret }))
}

fn checked_url(url: &str) -> Result<String, ApiError> {
    config::endpoint_url(url)
        .map_err(|why| ApiError::invalid_code("url_invalid", "url", format!("Invalid URL: {why}")))
}

fn check_version(version: Option<&str>) -> Result<(), ApiError> {
    match version {
        Some(version) if !API_VERSIONS.contains(&version) => {
            Err(ApiError::not_simulated(&format!("webhooks at API version {version}")))
        }
        _ => Ok(()),
    }
}

/// `GET /v1/webhook_endpoints/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.endpoints, "webhook endpoint", id, params)
}

/// `GET /v1/webhook_endpoints`.
pub fn list(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    page(
        call.world,
        &call.world.store.endpoints,
        "webhook endpoint",
        "/v1/webhook_endpoints",
        params,
        |_| true,
    )
}

/// `POST /v1/webhook_endpoints/{id}`.
pub fn update(call: &mut Call<'_>, id: &str, mut params: Params) -> Answer {
    let found = call.world.store.endpoints.get(id).cloned();
    let mut endpoint = found.ok_or_else(|| ApiError::not_found("webhook endpoint", id))?;
    if let Some(url) = params.text("url") {
        endpoint["url"] = json!(checked_url(&url)?);
    }
    if let Some(disabled) = params.flag("disabled") {
        endpoint["status"] = json!(if disabled { "disabled" } else { "enabled" });
    }
    params.copy_into(&mut endpoint, &["description", "enabled_events"]);
    merge_metadata(&mut endpoint["metadata"], params.take("metadata"))?;
    params.finish()?;
    call.store().endpoints.replace(endpoint.clone());
    Ok(endpoint)
}

/// `DELETE /v1/webhook_endpoints/{id}`.
pub fn delete(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    params.finish()?;
    call.store().endpoints.remove(id).ok_or_else(|| ApiError::not_found("webhook endpoint", id))?;
    call.store().endpoint_secrets.remove(id);
    Ok(json!({ "id": id, "object": "webhook_endpoint", "deleted": true }))
}
