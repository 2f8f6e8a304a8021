//! Controls that only look.

use super::ControlError;
use crate::app::App;
use crate::faults::Faults;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Html;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /_sim/health`: that it serves, and what the self-check found.
pub async fn health(State(app): State<Arc<App>>) -> Json<Value> {
    let world = app.world();
    Json(json!({
        "ok": true, "unvalidated_paths": world.tally.unvalidated_paths, "invalid_responses": world.tally.invalid_responses,
        "not_simulated": world.tally.not_simulated, "complaints": world.tally.complaints,
    }))
}

/// Which rows a listing shows.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    /// Skip this many from the oldest (for the journal: up to this `seq`).
    after: u64,
    /// Only requests to paths that start with this.
    path: Option<String>,
}

type Reply = Result<Json<Value>, ControlError>;

/// `GET /_sim/journal?after=&path=`: requests, oldest first.
pub async fn journal(
    State(app): State<Arc<App>>,
    window: Result<Query<Window>, QueryRejection>,
) -> Reply {
    let Query(window) = window?;
    let world = app.world();
    let wanted =
        |path: &str| window.path.as_ref().is_none_or(|prefix| path.starts_with(prefix.as_str()));
    let requests: Vec<_> =
        world.journal.after(window.after).filter(|entry| wanted(&entry.path)).collect();
    Ok(Json(json!({ "recorded": world.journal.recorded(), "requests": requests })))
}

/// `GET /_sim/deliveries?after=`: webhooks, oldest first, with all attempts.
pub async fn deliveries(
    State(app): State<Arc<App>>,
    window: Result<Query<Window>, QueryRejection>,
) -> Reply {
    let Query(window) = window?;
    let world = app.world();
    let rows = world.deliveries.rows();
    let after = usize::try_from(window.after).unwrap_or(usize::MAX);
    Ok(Json(json!({ "recorded": rows.len(), "deliveries": rows.get(after..).unwrap_or_default() })))
}

/// `GET /_sim/meter_events?after=`: every meter event that was taken in, oldest first.
pub async fn meter_events(
    State(app): State<Arc<App>>,
    window: Result<Query<Window>, QueryRejection>,
) -> Reply {
    let Query(window) = window?;
    let world = app.world();
    let after = usize::try_from(window.after).unwrap_or(usize::MAX);
    Ok(Json(json!({ "recorded": world.usage.len(), "meter_events": world.usage.rows(after) })))
}

/// `GET /_sim/meters/totals`: what Stripe would bill, by event name, customer and hour. Sums are exact decimal texts.
pub async fn totals(State(app): State<Arc<App>>) -> Json<Value> {
    let world = app.world();
    let (sum, count) = world.usage.grand_total();
    let uncounted: serde_json::Map<String, Value> = world
        .usage
        .uncounted()
        .into_iter()
        .filter_map(|(reason, count)| Some((json!(reason).as_str()?.to_owned(), json!(count))))
        .collect();
    Json(json!({
        "as_of": app.clock.now(), "hours": world.usage.hours(),
        "grand_total": { "sum": sum.normalize().to_string(), "count": count }, "uncounted": uncounted,
    }))
}

/// `GET /_sim/faults`: the orders that are still open.
pub async fn faults(State(app): State<Arc<App>>) -> Json<Faults> {
    Json(app.world().faults.clone())
}

/// `GET /_sim/checkout/sessions/{id}`: the page behind a session's `url`, with one button.
pub async fn checkout_page(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Html<String>, ControlError> {
    let world = app.world();
    let session = world
        .store
        .sessions
        .get(&id)
        .ok_or_else(|| ControlError::new(StatusCode::NOT_FOUND, "no such checkout session"))?;
    let lines = world.store.session_lines.get(&id).into_iter().flatten();
    let rows: String = lines
        .map(|line| {
            format!("<li>{}</li>", escaped(line["description"].as_str().unwrap_or("a price")))
        })
        .collect();
    let body = if session["status"] == "open" {
        // The session's id is minted here and holds letters and digits only.
        format!(
            "<ul>{rows}</ul><form method=\"post\" action=\"/_sim/checkout/sessions/{id}/pay\"><button>Pay</button></form>"
        )
    } else {
        format!(
            "<p>This session is {}.</p>",
            escaped(session["status"].as_str().unwrap_or_default())
        )
    };
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Simulated checkout</title><h1>Simulated checkout</h1>\
         <p>No money moves here.</p>{body}</html>"
    )))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_write_markup() {
        assert_eq!(escaped("<b>\"&"), "&lt;b&gt;&quot;&amp;");
    }
}
