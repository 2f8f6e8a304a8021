//! Controls that change something.

use super::ControlError;
use crate::app::App;
use crate::config;
use crate::error::ApiError;
use crate::faults::Faults;
use crate::ids;
use crate::resource::{Call, Origin, checkout, event_destination, subscription, webhook_endpoint};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::Redirect;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

type Reply = Result<Json<Value>, ControlError>;

/// The buyer's particulars; both may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Buyer {
    email: Option<String>,
    name: Option<String>,
}

/// `POST /_sim/checkout/sessions/{id}/complete`: the buyer pays. Answers the session.
pub async fn complete_checkout(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    body: Result<Option<Json<Buyer>>, JsonRejection>,
) -> Reply {
    let buyer = body?.map_or_else(Buyer::default, |Json(buyer)| buyer);
    complete(&app, &id, &buyer).map(Json)
}

/// `POST /_sim/checkout/sessions/{id}/pay`: the page's button; goes on to the success page.
pub async fn pay_on_page(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Redirect, ControlError> {
    let session = complete(&app, &id, &Buyer::default())?;
    let target =
        session["success_url"].as_str().unwrap_or_default().replace("{CHECKOUT_SESSION_ID}", &id);
    // A header cannot carry every text; a success URL that cannot be one is the tester's mistake.
    if http::HeaderValue::try_from(target.as_str()).is_err() {
        return Err(ControlError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "`success_url` is not a URL",
        ));
    }
    Ok(Redirect::to(&target))
}

fn complete(app: &App, id: &str, buyer: &Buyer) -> Result<Value, ControlError> {
    perform(app, |call| checkout::complete(call, id, buyer.email.as_deref(), buyer.name.as_deref()))
}

/// The body of a status change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusChange {
    status: String,
}

/// `POST /_sim/subscriptions/{id}/status`. Answers the subscription.
pub async fn set_subscription_status(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    body: Result<Json<StatusChange>, JsonRejection>,
) -> Reply {
    let Json(change) = body?;
    perform(&app, |call| subscription::set_status(call, &id, &change.status)).map(Json)
}

/// A receiver of thin events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    url: String,
    /// Absent: a fresh one, shown in the answer.
    secret: Option<String>,
    /// Absent: all.
    enabled_events: Option<Vec<String>>,
}

/// `POST /_sim/event_destinations`: registers a receiver of thin events. Answers it with its signing secret.
pub async fn register_destination(
    State(app): State<Arc<App>>,
    body: Result<Json<Destination>, JsonRejection>,
) -> Reply {
    let Json(wanted) = body?;
    let url = config::webhook_url(&wanted.url)
        .map_err(|text| ControlError::new(StatusCode::UNPROCESSABLE_ENTITY, text))?;
    let events = wanted.enabled_events.unwrap_or_else(|| vec!["*".to_owned()]);
    perform(&app, |call| {
        let given = wanted.secret.unwrap_or_else(|| call.mint(ids::ENDPOINT_SECRET));
        let mut row = event_destination::add(call, "receiver", &url, &events, Some(given.clone()));
        row["secret"] = given.into();
        Ok(row)
    })
    .map(Json)
}

/// How long the old secret signs beside the new one, in seconds: at most a day, as in Stripe's Dashboard.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roll {
    keep_s: u32,
}

/// `POST /_sim/webhook_endpoints/{id}/roll`: a new signing secret, for an event destination too. Answers it.
pub async fn roll_secret(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    body: Result<Option<Json<Roll>>, JsonRejection>,
) -> Reply {
    let Roll { keep_s } = body?.map_or_else(Roll::default, |Json(roll)| roll);
    if keep_s > 86_400 {
        let text = "`keep_s` is 0 to 86400, which is a day";
        return Err(ControlError::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    perform(&app, |call| webhook_endpoint::roll_secret(call, &id, keep_s.into())).map(Json)
}

/// `POST /_sim/faults`: adds orders. Answers all that are open.
pub async fn order_faults(
    State(app): State<Arc<App>>,
    body: Result<Json<Faults>, JsonRejection>,
) -> Result<Json<Faults>, ControlError> {
    let Json(more) = body?;
    let mut world = app.world();
    world.faults.add(more);
    Ok(Json(world.faults.clone()))
}

/// `DELETE /_sim/faults`: forgets all orders and lets held requests go on.
pub async fn clear_faults(State(app): State<Arc<App>>) -> Json<Faults> {
    let mut world = app.world();
    world.faults = Faults::default();
    app.cleared.send_modify(|count| *count += 1);
    Json(world.faults.clone())
}

/// Does something at Stripe's side, with the same self-check as a request.
pub fn perform(
    app: &App,
    work: impl FnOnce(&mut Call<'_>) -> Result<Value, ApiError>,
) -> Result<Value, ControlError> {
    app.act(Origin::default(), |call| {
        let answer = work(call)?;
        match call.check_events() {
            Ok(()) => Ok(answer),
            Err(complaint) => {
                call.world.tally.invalid_responses += 1;
                call.world.tally.complain(complaint.clone());
                Err(ControlError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("stripe-sim broke the API description: {complaint}"),
                ))
            }
        }
    })
}
