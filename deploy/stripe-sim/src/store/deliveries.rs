//! The log of webhook deliveries: one row per event and endpoint, with every attempt.

use serde::Serialize;
use std::collections::HashMap;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Attempts go on.
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// All attempts are used up, or the endpoint is gone.
    Failed,
    /// A fault kept it from being sent at all.
    Dropped,
}

/// One attempt: a status, or the reason why there is none.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// The stamp in the signature, Unix seconds.
    pub signed_at: i64,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub fault: Option<&'static str>,
}

/// One event on its way to one endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    pub id: String,
    pub event: String,
    pub event_type: String,
    pub endpoint: String,
    pub url: String,
    pub state: State,
    /// The fault that met this delivery.
    pub fault: Option<&'static str>,
    pub attempts: Vec<Attempt>,
}

/// All deliveries, oldest first.
#[derive(Debug, Default)]
pub struct Deliveries {
    rows: Vec<Delivery>,
    by_id: HashMap<String, usize>,
    by_event: HashMap<String, Vec<usize>>,
}

impl Deliveries {
    pub fn add(&mut self, delivery: Delivery) {
        let at = self.rows.len();
        self.by_id.insert(delivery.id.clone(), at);
        self.by_event.entry(delivery.event.clone()).or_default().push(at);
        self.rows.push(delivery);
    }

    pub fn get(&self, id: &str) -> Option<&Delivery> {
        self.by_id.get(id).map(|at| &self.rows[*at])
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Delivery> {
        self.by_id.get(id).map(|at| &mut self.rows[*at])
    }

    pub fn rows(&self) -> &[Delivery] {
        &self.rows
    }

    /// How many endpoints still lack the event: Stripe's `pending_webhooks`.
    pub fn undelivered(&self, event: &str) -> usize {
        let rows = self.by_event.get(event).into_iter().flatten();
        rows.filter(|at| self.rows[**at].state != State::Delivered).count()
    }
}
