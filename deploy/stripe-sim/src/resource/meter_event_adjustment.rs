//! `POST /v1/billing/meter_event_adjustments` and its v2 twin: cancels an event within 24 hours of its receipt.
//!
//! The answer is `pending`; it takes effect after the account's lag ([`super::thin_event::flush`]). An invoice that is finalized stays
//! as it is.

use super::{Answer, Call};
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::store::usage::IDENTIFIER_KEEP_MS;
use serde_json::json;

/// `POST /v1/billing/meter_event_adjustments`.
pub fn create(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let (event_name, identifier) = cancel(call, params)?;
    Ok(json!({
        "object": "billing.meter_event_adjustment", "cancel": { "identifier": identifier }, "event_name": event_name,
        "livemode": false, "status": "pending", "type": "cancel",
    }))
}

/// `POST /v2/billing/meter_event_adjustments`.
pub fn create_v2(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let (event_name, identifier) = cancel(call, params)?;
    Ok(json!({
        "id": call.mint(ids::ADJUSTMENT), "object": "v2.billing.meter_event_adjustment", "cancel": { "identifier": identifier },
        "created": rfc3339(call.now()), "event_name": event_name, "livemode": false, "status": "pending", "type": "cancel",
    }))
}

/// Orders the end of an event. Answers its name and identifier.
fn cancel(call: &mut Call<'_>, mut params: Params) -> Result<(String, String), ApiError> {
    let event_name = params.required_text("event_name")?;
    params.ignore(&["type"]); // `cancel` is the only one.
    let mut given = params.hash("cancel").unwrap_or_default();
    let identifier = given.required_text("identifier")?;
    given.finish()?;
    params.finish()?;
    let found = call.world.usage.find(&event_name, &identifier);
    let (at, received_ms) = found.ok_or_else(|| {
        ApiError::no_such("billing meter event", &identifier, "cancel[identifier]")
    })?;
    if call.now_ms - received_ms >= IDENTIFIER_KEEP_MS {
        let message = "You can only cancel a meter event within 24 hours of Stripe receiving it.";
        return Err(ApiError::refused(None, "cancel[identifier]", message));
    }
    let due_ms = call.now_ms + call.world.settings.adjustment_lag_s * 1000;
    call.world.usage.adjust(due_ms, at);
    Ok((event_name, identifier))
}
