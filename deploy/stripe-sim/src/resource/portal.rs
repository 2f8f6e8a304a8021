//! `POST /v1/billing_portal/sessions`: a link to a page where the customer cancels, or takes the cancellation back.
//!
//! The page is the simulator's own, under `/_sim/`. Its buttons do what Stripe's do: cancel at the period's end, resume before it.
//! Absent on purpose: portal configurations (there is one, `bpc_default`), flows, changes of plan and of payment methods.

use super::subscription::update;
use super::{Answer, Call, object};
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use serde_json::{Map, Value, json};

/// `POST /v1/billing_portal/sessions`.
pub fn create(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let customer = params.required_text("customer")?;
    call.enter_clock_of_customer(&customer, "customer")?;
    let (return_url, locale) = (params.text("return_url"), params.text("locale"));
    params.finish()?;
    let id = call.mint(ids::PORTAL_SESSION);
    let url = format!("{}/_sim/portal/sessions/{id}", call.base_url);
    let fields = json!({
        "id": id, "object": "billing_portal.session", "configuration": "bpc_default", "created": call.now(),
        "customer": customer, "livemode": false, "locale": locale, "return_url": return_url, "url": url,
    });
    let session = object("billing_portal.session", fields);
    call.store().portal_sessions.insert(session.clone());
    call.emit("billing_portal.session.created", &session, None);
    Ok(session)
}

/// The subscriptions that a session's customer can see, as stored, newest first.
///
/// # Errors
/// 404 without such a session.
pub fn subscriptions(call: &Call<'_>, id: &str) -> Result<Vec<Value>, ApiError> {
    let found = call.world.store.portal_sessions.get(id);
    let session = found.ok_or_else(|| ApiError::not_found("billing_portal.session", id))?;
    let rows = call.world.store.subscriptions.newest_first();
    let own = |row: &&Value| {
        row["customer"] == session["customer"] && !super::subscription::is_terminal(row)
    };
    Ok(rows.filter(own).cloned().collect())
}

/// The customer presses a button: every running subscription is to end at its period's end, or no longer is.
///
/// # Errors
/// 404 without such a session.
pub fn press(call: &mut Call<'_>, id: &str, cancels: bool) -> Answer {
    for row in subscriptions(call, id)? {
        let fields = Map::from_iter([("cancel_at_period_end".to_owned(), json!(cancels))]);
        let own = row["id"].as_str().unwrap_or_default();
        update::update(call, own, Params::new(fields))?;
    }
    let session = call.world.store.portal_sessions.get(id);
    session.cloned().ok_or_else(|| ApiError::not_found("billing_portal.session", id))
}
