//! What a request holds while it runs: its idempotency key, and the slot of its customer and meter.
//!
//! Both are let go when the claims are dropped, whatever happened in between; a settled key stays.

use super::reply::Reply;
use crate::app::App;
use crate::error::ApiError;
use crate::idempotency::{Begin, Idempotency, KEY_LIMIT, Stored};
use crate::resource::meter_event;
use crate::schema::Operation;
use serde_json::{Map, Value};
use std::sync::Arc;

/// What the key said.
pub enum Key {
    /// The request was answered before.
    Replay(Stored),
    /// The request goes on, with or without a key.
    Ours(Claims),
}

/// Held until dropped.
pub struct Claims {
    app: Arc<App>,
    key: Option<String>,
    slot: Option<(String, String)>,
}

impl Claims {
    /// Claims the key of a request.
    ///
    /// # Errors
    /// 400 for a key of another request, 409 while the first request runs.
    pub fn of_key(
        app: &Arc<App>,
        key: Option<&str>,
        path: &str,
        fingerprint: &str,
    ) -> Result<Key, ApiError> {
        let ours = |key: Option<&str>| {
            Key::Ours(Self { app: Arc::clone(app), key: key.map(str::to_owned), slot: None })
        };
        let Some(key) = key else { return Ok(ours(None)) };
        if key.is_empty() || key.chars().count() > KEY_LIMIT {
            let message = format!("An idempotency key must have 1 to {KEY_LIMIT} characters.");
            return Err(ApiError::invalid("", message));
        }
        let now_ms = app.clock.now_ms();
        match app.world().idempotency.begin(key, path, fingerprint, now_ms) {
            Begin::Fresh => Ok(ours(Some(key))),
            Begin::Replay(stored) => Ok(Key::Replay(stored)),
            Begin::OtherParameters => Err(ApiError::key_reused(key)),
            Begin::OtherEndpoint(path) => Err(ApiError::key_of_other_endpoint(key, &path)),
            Begin::InFlight => Err(ApiError::key_in_use(key)),
        }
    }

    /// Holds the customer and meter of a meter event.
    ///
    /// # Errors
    /// 429 when another call holds them.
    pub fn hold_slot(
        &mut self,
        operation: &Operation,
        parameters: &Map<String, Value>,
    ) -> Result<(), ApiError> {
        if !meter_event::TEMPLATES.contains(&operation.template.as_str()) {
            return Ok(());
        }
        let mut world = self.app.world();
        let Some(slot) = meter_event::slot(&world, parameters) else { return Ok(()) };
        if !world.usage.hold(&slot) {
            return Err(ApiError::concurrent_meter_event());
        }
        self.slot = Some(slot);
        Ok(())
    }

    /// Keeps the answer under the key, if there is one. Called under the world's lock, together with the effect.
    pub fn settle(&self, idempotency: &mut Idempotency, reply: &Reply, request_id: &str) {
        if let Some(key) = &self.key {
            idempotency.settle(key, reply.stored(request_id));
        }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let mut world = self.app.world();
        if let Some(key) = &self.key {
            world.idempotency.release(key);
        }
        if let Some(slot) = &self.slot {
            world.usage.let_go(slot);
        }
    }
}
