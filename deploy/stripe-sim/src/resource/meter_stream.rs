//! `/v2/billing/meter_event_session` and `/v2/billing/meter_event_stream`: many meter events in one request.
//!
//! A session's token is the key of the stream for 15 minutes and of nothing else. All checks of a streamed event come after the 200:
//! a timestamp outside the window is reported like any other failure, and an identifier that is still remembered is passed over, once
//! taken in is taken in. Stripe has the stream on a host of its own; here it is on the one address. Only a request that is refused
//! whole (too many events) has no effect at all. Absent on purpose: that Stripe has no stream in sandboxes.

use super::meter_event::{self, Given};
use super::{Answer, Call};
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use serde_json::json;

/// The path that takes a session's token as its key.
pub const TEMPLATE: &str = "/v2/billing/meter_event_stream";
const SESSION_S: i64 = 15 * 60;
const EVENTS: usize = 100;

/// `POST /v2/billing/meter_event_session`.
pub fn open(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    params.finish()?;
    let (token, expires_at) = (call.mint(ids::STREAM_TOKEN), call.now() + SESSION_S);
    call.store().stream_sessions.insert(token.clone(), expires_at);
    Ok(json!({
        "id": call.mint(ids::STREAM_SESSION), "object": "v2.billing.meter_event_session", "authentication_token": token,
        "created": rfc3339(call.now()), "expires_at": rfc3339(expires_at), "livemode": false,
    }))
}

/// `POST /v2/billing/meter_event_stream`. Says nothing.
pub fn send(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let rows = params.hashes("events").unwrap_or_default();
    params.finish()?;
    if rows.len() > EVENTS {
        let message = format!("At most {EVENTS} events can be sent in one request.");
        return Err(ApiError::invalid("events", message));
    }
    let read =
        rows.into_iter().map(|row| Given::of_v2(call, row)).collect::<Result<Vec<_>, _>>()?;
    for event in read {
        if !call.world.usage.knows(&event.identifier, call.now_ms) {
            meter_event::take_in(call, &event);
        }
    }
    Ok(json!({}))
}
