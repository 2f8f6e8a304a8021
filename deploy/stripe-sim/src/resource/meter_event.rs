//! `POST /v1/billing/meter_events` and its v2 twin.
//!
//! Refused at once: a timestamp outside the window, an identifier that is still remembered, a second call for the same customer
//! and meter while one is in flight. Everything else is taken in with a 200, also what will not count; the ledger keeps why.
//! What comes later is in [`super::thin_event`] and [`super::meter_event_adjustment`], many events at once in [`super::meter_stream`].

use super::subscription::threshold;
use super::{Answer, Call, alert, meter};
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::ids;
use crate::params::Params;
use crate::store::World;
use crate::store::table::id_of;
use crate::store::usage::{Outcome, Row};
use chrono::DateTime;
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

/// The paths that take one event at a time, for the request pipeline.
pub const TEMPLATES: [&str; 2] = ["/v1/billing/meter_events", "/v2/billing/meter_events"];
/// How far back a timestamp may lie, in seconds.
pub const PAST_S: i64 = 35 * 86_400;
/// How far ahead a timestamp may lie, in seconds.
pub const FUTURE_S: i64 = 300;

/// The (event name, customer) pair that a call holds while it is in flight.
pub fn slot(world: &World, parameters: &Map<String, Value>) -> Option<(String, String)> {
    let event_name = parameters.get("event_name")?.as_str()?;
    let meter = world.store.meters.newest_first().find(|meter| meter["event_name"] == event_name);
    let key = meter.map_or("stripe_customer_id", |meter| customer_key(meter));
    let customer = parameters.get("payload")?.get(key)?.as_str()?;
    Some((event_name.to_owned(), customer.to_owned()))
}

/// An event as a request gives it.
pub struct Given {
    event_name: String,
    pub identifier: String,
    payload: Value,
    /// Unix seconds.
    timestamp: i64,
    /// The second of its customer's clock.
    now: i64,
}

impl Given {
    /// Reads what v1 and v2 have in common; `stamp` reads the timestamp.
    fn read(
        call: &mut Call<'_>,
        mut params: Params,
        stamp: impl FnOnce(&mut Params) -> Result<Option<i64>, ApiError>,
    ) -> Result<Self, ApiError> {
        let event_name = params.required_text("event_name")?;
        let identifier = match params.text("identifier") {
            Some(identifier) => identifier,
            None => call.mint(ids::METER_EVENT),
        };
        let payload = params.take("payload").unwrap_or_default();
        let now = clock_of(call, &event_name, &payload);
        let timestamp = stamp(&mut params)?.unwrap_or(now);
        params.finish()?;
        Ok(Self { event_name, identifier, payload, timestamp, now })
    }

    /// An event of v2, whose time is a text.
    ///
    /// # Errors
    /// 400 for a time that is not RFC 3339.
    pub fn of_v2(call: &mut Call<'_>, params: Params) -> Result<Self, ApiError> {
        Self::read(call, params, |params| {
            let path = params.path_of("timestamp");
            let Some(text) = params.text("timestamp") else { return Ok(None) };
            let at = DateTime::parse_from_rfc3339(&text)
                .map_err(|_| ApiError::invalid(&path, format!("Invalid timestamp: {text}")))?;
            Ok(Some(at.timestamp()))
        })
    }

    /// What is refused at once.
    fn check(&self, call: &mut Call<'_>) -> Result<(), ApiError> {
        check_window(self.timestamp, self.now)?;
        if call.world.usage.knows(&self.identifier, call.now_ms) {
            return Err(ApiError::duplicate_identifier(&self.identifier));
        }
        Ok(())
    }
}

/// `POST /v1/billing/meter_events`.
pub fn create(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let event = Given::read(call, params, |params| Ok(params.int("timestamp")))?;
    event.check(call)?;
    take_in(call, &event);
    Ok(json!({
        "object": "billing.meter_event", "created": call.now(), "event_name": event.event_name, "identifier": event.identifier,
        "livemode": false, "payload": event.payload, "timestamp": event.timestamp,
    }))
}

/// `POST /v2/billing/meter_events`.
pub fn create_v2(call: &mut Call<'_>, _id: &str, params: Params) -> Answer {
    let event = Given::of_v2(call, params)?;
    event.check(call)?;
    take_in(call, &event);
    Ok(json!({
        "object": "v2.billing.meter_event", "created": rfc3339(call.now()), "event_name": event.event_name,
        "identifier": event.identifier, "livemode": false, "payload": event.payload, "timestamp": rfc3339(event.timestamp),
    }))
}

/// Takes an event in, whether it counts or not.
pub fn take_in(call: &mut Call<'_>, event: &Given) {
    let meter = meter::with_event_name(call, &event.event_name);
    let window =
        meter.and_then(|meter| meter["event_time_window"].as_str()).map(|window| match window {
            "day" => 86_400,
            _ => 3_600,
        });
    let row = judge(call, event);
    let own = row.meter.clone().zip(row.customer.clone());
    let (own, value) = (own.filter(|_| row.outcome == Outcome::Counted), row.value);
    call.world.usage.take_in(row, window);
    if let Some((meter, customer)) = own {
        alert::look(call, &meter, &customer, value);
        threshold::look(call, &customer);
    }
}

/// The second that the event's customer lives in: of its test clock, if it has one. Not known of Stripe, and the only way to test.
fn clock_of(call: &Call<'_>, event_name: &str, payload: &Value) -> i64 {
    let key = meter::with_event_name(call, event_name).map_or("stripe_customer_id", customer_key);
    let customer = payload[key].as_str().and_then(|id| call.world.store.customers.get(id));
    let clock = customer.and_then(|row| row["test_clock"].as_str());
    let clock = clock.and_then(|id| call.world.store.test_clocks.get(id));
    clock.and_then(|clock| clock["frozen_time"].as_i64()).unwrap_or_else(|| call.now())
}

fn check_window(timestamp: i64, now: i64) -> Result<(), ApiError> {
    let (oldest, newest) = (now - PAST_S, now + FUTURE_S);
    if timestamp < oldest {
        let message = format!(
            "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater than or equal to {oldest}."
        );
        return Err(ApiError::invalid("timestamp", message));
    }
    if timestamp > newest {
        let message = format!(
            "The event timestamp cannot be more than 5 minutes in the future. Expected a timestamp less than or equal to {newest}."
        );
        return Err(ApiError::invalid("timestamp", message));
    }
    Ok(())
}

/// Decides whether the event will count.
fn judge(call: &Call<'_>, event: &Given) -> Row {
    let (payload, timestamp) = (&event.payload, event.timestamp);
    let meter = meter::with_event_name(call, &event.event_name);
    let customer =
        meter.and_then(|meter| payload[customer_key(meter)].as_str()).filter(|id| !id.is_empty());
    let read = meter.map_or(Ok(None), |meter| value(meter, payload));
    let outcome = match (meter, customer) {
        (None, _) => Outcome::NoMeter,
        _ if timestamp < event.now - PAST_S => Outcome::TimestampTooFarInPast,
        _ if timestamp > event.now + FUTURE_S => Outcome::TimestampInFuture,
        (Some(meter), _) if meter["status"] != "active" => Outcome::ArchivedMeter,
        (_, None) => Outcome::MeterEventNoCustomerDefined,
        (_, Some(id)) if call.world.store.live_customer(id).is_none() => {
            Outcome::MeterEventCustomerNotFound
        }
        _ => read.err().unwrap_or(Outcome::Counted),
    };
    Row {
        identifier: event.identifier.clone(),
        event_name: event.event_name.clone(),
        meter: meter.map(|meter| id_of(meter).to_owned()),
        customer: customer.map(str::to_owned),
        value: read.ok().flatten(),
        timestamp,
        received_at_ms: call.now_ms,
        request_id: call.origin.request_id.clone().unwrap_or_default(),
        idempotency_key: call.origin.idempotency_key.clone(),
        outcome,
    }
}

fn customer_key(meter: &Value) -> &str {
    meter["customer_mapping"]["event_payload_key"].as_str().unwrap_or("stripe_customer_id")
}

/// The value of an event: none for a counting meter; at most 15 digits, 12 of them after the point; negative ones pass.
fn value(meter: &Value, payload: &Value) -> Result<Option<Decimal>, Outcome> {
    if meter["default_aggregation"]["formula"] == "count" {
        return Ok(None);
    }
    let key = meter["value_settings"]["event_payload_key"].as_str().unwrap_or("value");
    let text = payload[key].as_str().unwrap_or_default();
    let plain = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if !plain || digits == 0 {
        return Err(Outcome::MeterEventInvalidValue);
    }
    let value = Decimal::from_str_exact(text);
    match value {
        _ if digits > 15 => Err(Outcome::MeterEventValueTooManyDigits),
        Ok(value) if value.scale() > 12 => Err(Outcome::MeterEventValueTooManyDigits),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Outcome::MeterEventInvalidValue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_plain_decimals_of_at_most_15_digits() {
        #[track_caller]
        fn check(text: &str, expect: Result<&str, Outcome>) {
            let meter = json!({ "default_aggregation": { "formula": "sum" }, "value_settings": { "event_payload_key": "value" } });
            let read =
                value(&meter, &json!({ "value": text })).map(|value| value.unwrap().to_string());
            assert_eq!(read, expect.map(str::to_owned), "{text}");
        }
        check("25", Ok("25"));
        check("-3", Ok("-3"));
        check("0.000000000001", Ok("0.000000000001"));
        check("999999999999999", Ok("999999999999999"));
        check("1000000000000000", Err(Outcome::MeterEventValueTooManyDigits));
        check("0.0000000000001", Err(Outcome::MeterEventValueTooManyDigits));
        for text in ["", "x", "1e3", " 1", "1,5", "-", "1-2", "1.2.3"] {
            check(text, Err(Outcome::MeterEventInvalidValue));
        }
    }

    #[test]
    fn the_window_is_35_days_back_and_5_minutes_ahead() {
        let now = 1_795_176_000;
        assert!(check_window(now - PAST_S, now).is_ok());
        let error = check_window(now - PAST_S - 1, now).unwrap_err();
        assert_eq!(
            error.message,
            "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater than or equal to 1792152000."
        );
        assert!(check_window(now + FUTURE_S, now).is_ok());
        assert!(check_window(now + FUTURE_S + 1, now).is_err());
    }
}
