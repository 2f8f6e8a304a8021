//! The customer portal's page: what is subscribed, with one button to cancel and one to take that back.

use super::ControlError;
use super::act::perform;
use crate::app::App;
use crate::resource::{Origin, portal};
use axum::extract::{Path, State};
use axum::response::{Html, Redirect};
use http::StatusCode;
use serde_json::Value;
use std::sync::Arc;

/// `GET /_sim/portal/sessions/{id}`.
pub async fn page(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Html<String>, ControlError> {
    let rows = app.act(Origin::default(), |call| portal::subscriptions(call, &id))?;
    let list: String = rows.iter().map(entry).collect();
    // The session's id is minted here and holds letters, digits and `_` only.
    let button = |act: &str, text: &str| {
        format!(
            "<form method=\"post\" action=\"/_sim/portal/sessions/{id}/{act}\"><button>{text}</button></form>"
        )
    };
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Simulated portal</title><h1>Simulated portal</h1>\
         <ul>{list}</ul>{}{}</html>",
        button("cancel", "Cancel at period end"),
        button("resume", "Don't cancel"),
    )))
}

/// Ids and statuses are minted here: nothing in an entry can write markup.
fn entry(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    let ends = if row["cancel_at"].is_null() { "" } else { ", ends with its period" };
    format!("<li>{}: {}{ends}</li>", text("id"), text("status"))
}

/// `POST /_sim/portal/sessions/{id}/cancel` and `/resume`; goes on to the return page, or back.
pub async fn press(
    State(app): State<Arc<App>>,
    Path((id, act)): Path<(String, String)>,
) -> Result<Redirect, ControlError> {
    let cancels = match act.as_str() {
        "cancel" => true,
        "resume" => false,
        _ => return Err(ControlError::new(StatusCode::NOT_FOUND, "no such button")),
    };
    let session = perform(&app, |call| portal::press(call, &id, cancels))?;
    let back = format!("/_sim/portal/sessions/{id}");
    let target = session["return_url"].as_str().unwrap_or(&back).to_owned();
    if http::HeaderValue::try_from(target.as_str()).is_err() {
        return Err(ControlError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "`return_url` is not a URL",
        ));
    }
    Ok(Redirect::to(&target))
}
