//! The clock, what it will do next, and what decides how: the account's settings and the customers' cards.
//!
//! Moving the clock forward does everything that becomes due, in order, before the call is answered.

use super::ControlError;
use crate::app::App;
use crate::clock::{Command, utc};
use crate::resource::Origin;
use crate::settings::Settings;
use crate::store::cards::{Card, Outcome};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the clock shows.
#[derive(Debug, Serialize)]
pub struct ClockView {
    /// Unix seconds.
    now: i64,
    now_utc: Option<String>,
    frozen: bool,
    /// The second that `Date` and signature stamps show.
    wire_now: i64,
}

fn view(app: &App) -> ClockView {
    let now = app.clock.now();
    ClockView {
        now,
        now_utc: utc(now).map(|at| at.to_rfc3339()),
        frozen: app.clock.is_frozen(),
        wire_now: app.clock.wire_now(),
    }
}

/// `GET /_sim/clock`.
pub async fn clock(State(app): State<Arc<App>>) -> Json<ClockView> {
    Json(view(&app))
}

/// `POST /_sim/clock`. Answers the new time, after all that was due by then.
pub async fn set_clock(
    State(app): State<Arc<App>>,
    body: Result<Json<Command>, JsonRejection>,
) -> Result<Json<ClockView>, ControlError> {
    let Json(command) = body?;
    app.clock.apply(command);
    app.act(Origin::default(), |_| ());
    Ok(Json(view(&app)))
}

/// How many entries of the agenda are shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    limit: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { limit: 10 }
    }
}

/// `GET /_sim/agenda?limit=`: what the simulator's own clock will do next, so that a script can go from one moment to the next.
pub async fn agenda(
    State(app): State<Arc<App>>,
    window: Result<Query<Window>, QueryRejection>,
) -> Result<Json<Value>, ControlError> {
    let Query(window) = window?;
    app.act(Origin::default(), |_| ());
    let world = app.world();
    let next = world.agenda.upcoming(window.limit.min(1_000));
    let rows: Vec<Value> =
        next.map(|entry| json!({ "at": entry.at, "object": entry.id })).collect();
    Ok(Json(json!({ "now": app.clock.now(), "next": rows })))
}

/// `GET /_sim/settings`.
pub async fn settings(State(app): State<Arc<App>>) -> Json<Settings> {
    Json(app.world().settings.clone())
}

/// `POST /_sim/settings`: changes the fields that are given. Answers all.
pub async fn change_settings(
    State(app): State<Arc<App>>,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Settings>, ControlError> {
    let Json(change) = body?;
    app.act(Origin::default(), |call| {
        let changed = call.world.settings.change(&change);
        changed.map_err(|text| ControlError::new(StatusCode::UNPROCESSABLE_ENTITY, text))?;
        call.world.limiter.rates = call.world.settings.rates;
        call.world.store.subscriptions.touch_all(); // Notices may be due at other times now.
        Ok(Json(call.world.settings.clone()))
    })
}

/// `GET /_sim/customers/{id}/card`: what the customer's next payment will meet.
pub async fn card(State(app): State<Arc<App>>, Path(id): Path<String>) -> Json<Value> {
    Json(json!({ "outcome": app.world().cards.peek(&id) }))
}

/// `POST /_sim/customers/{id}/card`: `{"outcome":"ok"|"decline"|"requires_action"|"missing","times":N}`.
pub async fn set_card(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    body: Result<Json<Card>, JsonRejection>,
) -> Result<Json<Card>, ControlError> {
    let Json(card) = body?;
    let mut world = app.world();
    if world.store.live_customer(&id).is_none() {
        return Err(ControlError::new(StatusCode::NOT_FOUND, "no such customer"));
    }
    if card.times == Some(0) && card.outcome != Outcome::Ok {
        return Err(ControlError::new(StatusCode::UNPROCESSABLE_ENTITY, "`times` is at least 1"));
    }
    world.cards.set(&id, card);
    Ok(Json(card))
}
