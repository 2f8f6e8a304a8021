//! The door for Stripe's webhooks: verify the raw bytes, append them to `STRIPE`, answer. Everything else is later.
//!
//! Invariants: nothing that is not signed by a secret of ours leaves a trace; whatever is, is kept, readable or not;
//! an event that comes again is the same message. Absent on purpose: acting on anything (see `work`).

pub mod event;
pub mod signature;

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use runtime::{
    nats::{Nats, PublishError, publish_expecting},
    settings::Secret,
};
use schemas::subject;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{clock::now, problem::Problem};

/// The largest body that is taken: what NATS and the stream take of one message, less its headers. Unit: bytes.
pub const LARGEST_BODY: usize = 1024 * 1024 - 4096;
/// How long the log may take to store an event before Stripe is asked to come again.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What the door needs.
#[derive(Clone)]
pub struct Door {
    pub nats: Nats,
    pub secrets: Vec<Secret>,
}

/// How an event came into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was there.
    Known,
}

/// `POST /stripe/webhook`: 200 once the event is in the log, 400 for a bad signature, 503 when the log is away.
pub async fn receive(State(door): State<Door>, headers: HeaderMap, body: Bytes) -> Response {
    let header =
        headers.get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Err(refused) = signature::verify(header, &body, &door.secrets, now().0.div_euclid(1000))
    {
        tracing::warn!(%refused, "Refused a webhook");
        metrics::counter!("billing_webhooks_total", "outcome" => "refused").increment(1);
        return Problem::BadSignature(refused).into_response();
    }
    match store(&door.nats, &name(&body), body).await {
        Ok(stored) => {
            let outcome = if stored == Stored::New { "stored" } else { "known" };
            metrics::counter!("billing_webhooks_total", "outcome" => outcome).increment(1);
            (StatusCode::OK, Json(serde_json::json!({ "received": true }))).into_response()
        }
        Err(error) => {
            metrics::counter!("billing_webhooks_total", "outcome" => "failed").increment(1);
            Problem::dependency("the log", error).into_response()
        }
    }
}

/// Appends an event to `STRIPE` under its name, once.
///
/// # Errors
/// When it is not certain that the event is in the log. Trying again is safe.
pub async fn store(nats: &Nats, name: &str, body: Bytes) -> Result<Stored, PublishError> {
    let publish = publish_expecting(&nats.jetstream, subject::stripe_event(name), None, body, 0);
    match tokio::time::timeout(TIMEOUT, publish).await {
        Ok(Ok(_)) => Ok(Stored::New),
        // One is there under this name: a redelivery, or the first try of one whose answer was lost.
        Ok(Err(PublishError::WrongSequence)) => Ok(Stored::Known),
        Ok(Err(error)) => Err(error),
        Err(late) => Err(PublishError::Unknown(Box::new(late))),
    }
}

/// The name of an event in the log: its id, or a digest of the body where there is no id that can be one.
#[must_use]
pub fn name(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    match serde_json::from_slice::<Named>(body) {
        Ok(Named { id }) if is_token(&id) => id,
        _ => format!("body_{}", hex::encode(Sha256::digest(body))),
    }
}

/// Whether a text is one token of a subject and nothing else.
fn is_token(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_name_is_one_token_whatever_its_id_says() {
        assert_eq!(name(br#"{"id":"evt_1Sxx"}"#), "evt_1Sxx");
        for body in [
            r#"{"id":"evt.1"}"#,
            r#"{"id":"evt *"}"#,
            r#"{"id":">"}"#,
            r#"{"id":""}"#,
            r#"{"id":7}"#,
            "",
            "no",
        ] {
            let name = name(body.as_bytes());
            assert!(name.starts_with("body_") && is_token(&name), "{body}: {name}");
        }
        let long = format!(r#"{{"id":"{}"}}"#, "e".repeat(129));
        assert!(name(long.as_bytes()).starts_with("body_"));
        assert_ne!(name(b"a"), name(b"b"));
    }
}
