//! `/v1/events`, and how everything else tells of a change.
//!
//! An event holds the object as it was shown at that moment and never changes, except that `pending_webhooks` counts down. Events
//! are listed for 30 days. Thin events are in [`super::thin_event`].

use super::{API_VERSION, Answer, Call, entitlement, page};
use crate::ids;
use crate::list::Range;
use crate::params::Params;
use crate::store::deliveries::{Delivery, State};
use crate::store::table::{Table, id_of};
use crate::store::{Store, World};
use serde_json::{Map, Value, json};

const LISTED_S: i64 = 30 * 86_400;

impl Call<'_> {
    /// Tells of a change to every endpoint that wants its type: by one event, or by two where twins were ordered.
    pub fn emit(&mut self, event_type: &str, object: &Value, previous: Option<Map<String, Value>>) {
        let mut data = json!({ "object": object });
        if let Some(previous) = previous {
            data["previous_attributes"] = Value::Object(previous);
        }
        if self.world.faults.meet_event(event_type) {
            self.record(event_type, &data);
        }
        self.record(event_type, &data);
        if event_type.starts_with("customer.subscription.") {
            let customer = object["customer"].as_str().unwrap_or_default();
            entitlement::refresh(self, customer);
        }
    }

    fn record(&mut self, event_type: &str, data: &Value) {
        let id = self.mint(ids::EVENT);
        let waiting = self.owe(&id, event_type, |store| &store.endpoints);
        let event = json!({
            "id": id, "object": "event", "api_version": API_VERSION, "created": self.now(), "data": data, "livemode": false,
            "pending_webhooks": waiting, "type": event_type,
            "request": { "id": self.origin.request_id, "idempotency_key": self.origin.idempotency_key },
        });
        if let Some(at) = self.beside_test_clock {
            self.world.store.event_ages.insert(id.clone(), at);
        }
        self.world.store.events.insert(event);
        self.events.push(id);
    }

    /// Owes an event to every enabled receiver that wants its type. Answers how many there are.
    pub fn owe(&mut self, event: &str, event_type: &str, receivers: fn(&Store) -> &Table) -> usize {
        let wants = |row: &&Value| row["status"] == "enabled" && listens(row, event_type);
        let rows = receivers(&self.world.store).newest_first().filter(wants);
        let found: Vec<(String, String)> = rows
            .map(|row| (id_of(row).to_owned(), row["url"].as_str().unwrap_or_default().to_owned()))
            .collect();
        let count = found.len();
        for (endpoint, url) in found {
            let id = self.mint(ids::DELIVERY);
            self.world.deliveries.add(Delivery {
                id: id.clone(),
                event: event.to_owned(),
                event_type: event_type.to_owned(),
                endpoint,
                url,
                state: State::Pending,
                fault: None,
                attempts: Vec::new(),
            });
            self.outbox.push(id);
        }
        count
    }
}

fn listens(endpoint: &Value, event_type: &str) -> bool {
    let wanted = endpoint["enabled_events"].as_array().into_iter().flatten();
    wanted.filter_map(Value::as_str).any(|wanted| wanted == "*" || wanted == event_type)
}

/// The event with its webhooks that are still open.
pub fn render(world: &World, event: &Value) -> Value {
    let mut shown = event.clone();
    shown["pending_webhooks"] = json!(world.deliveries.undelivered(id_of(event)));
    shown
}

/// `GET /v1/events/{id}`.
pub fn retrieve(call: &mut Call<'_>, id: &str, params: Params) -> Answer {
    super::show(call, &call.world.store.events, "event", id, params)
}

/// `GET /v1/events`: the last 30 days.
pub fn list(call: &mut Call<'_>, _id: &str, mut params: Params) -> Answer {
    let created = Range::take(&mut params, "created")?;
    let oldest = call.now() - LISTED_S;
    let pattern = params.text("type");
    let types = params.texts("types");
    let delivered = params.flag("delivery_success");
    let world = &*call.world;
    page(world, &world.store.events, "event", "/v1/events", params, |row| {
        let age = world.store.event_ages.get(id_of(row)).copied();
        let (at, kind) =
            (row["created"].as_i64().unwrap_or_default(), row["type"].as_str().unwrap_or_default());
        let is_delivered = || world.deliveries.undelivered(id_of(row)) == 0;
        age.unwrap_or(at) >= oldest
            && created.contains(at)
            && pattern.as_ref().is_none_or(|pattern| matches(pattern, kind))
            && types.as_ref().is_none_or(|types| types.iter().any(|wanted| wanted == kind))
            && delivered.is_none_or(|delivered| delivered == is_delivered())
    })
}

fn matches(pattern: &str, event_type: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => event_type.starts_with(prefix),
        None => pattern == event_type,
    }
}
