//! Stripe's meters as a sink of reports: what each of its answers means for a row.

use billing_core::report::{Outcome, Row};
use http::StatusCode;
use schemas::{Hour, MeterName, Period, Quantity, TOOL_CALLS};

use super::{Provider, Told, Unread};
use crate::stripe::{
    Client, StripeError,
    catalog::Meter,
    error::ApiError,
    meter::{self, Event},
};

/// The largest difference between Stripe's clock and ours at which anything is sent. Unit: milliseconds.
///
/// Reports are dated by our hours, and Stripe takes them up to five minutes ahead of its own time.
const MAX_APART_MS: i64 = 60_000;
/// How long to wait before clocks that differ are compared again. Unit: milliseconds.
const COMPARE_AGAIN_MS: i64 = 60_000;
/// The most of Stripe's words that is kept with a row. Unit: characters.
const WORDS: usize = 300;

/// Reports of `tool_calls` go to one meter of one account.
pub struct StripeMeters {
    client: Client,
    meter: Meter,
}

impl StripeMeters {
    /// A sink over `client`, whose own retries are switched off: the outbox counts every send.
    #[must_use]
    pub fn new(client: &Client, meter: Meter) -> Self {
        Self { client: client.trying_once(), meter }
    }
}

impl StripeMeters {
    /// How far Stripe's clock is ahead of ours, if that is too far also when it is looked at again.
    async fn clocks_apart(&self) -> Option<i64> {
        let apart = || Some(self.client.clock_ahead_ms()).filter(|ms| ms.abs() > MAX_APART_MS);
        apart()?;
        // The last answer may be old, or of a time at which a clock was being set.
        if let Err(error) = meter::touch(&self.client, &self.meter).await {
            tracing::warn!(%error, "Stripe's clock cannot be looked at");
        }
        apart()
    }
}

impl Provider for StripeMeters {
    fn takes(&self, meter: &MeterName) -> bool {
        meter.as_str() == TOOL_CALLS
    }

    async fn tell(&self, row: &Row, identifier: &str, key: &str) -> Told {
        if let Some(apart_ms) = self.clocks_apart().await {
            tracing::error!(apart_ms, "Stripe's clock and ours differ: nothing is sent");
            let retry_after_ms = Some(COMPARE_AGAIN_MS);
            let said = format!("Stripe's clock is {apart_ms} ms ahead of ours");
            return Told { outcome: Outcome::NotExecuted { retry_after_ms }, said };
        }
        let event = Event {
            customer: &row.customer,
            timestamp_s: row.timestamp_s(),
            quantity: row.quantity,
            identifier,
        };
        match meter::send(&self.client, &self.meter, &event, key).await {
            Ok(()) => Told { outcome: Outcome::Accepted, said: String::new() },
            Err(error) => Told { outcome: outcome(&error), said: words(&error) },
        }
    }

    async fn hour_total(
        &self,
        customer: &str,
        _: &MeterName,
        hour: Hour,
    ) -> Result<Quantity, Unread> {
        meter::hour_total(&self.client, &self.meter, customer, hour).await.map_err(unread)
    }

    async fn period_total(
        &self,
        customer: &str,
        _: &MeterName,
        period: Period,
    ) -> Result<Quantity, Unread> {
        meter::period_total(&self.client, &self.meter, customer, period).await.map_err(unread)
    }
}

fn unread(error: StripeError) -> Unread {
    Unread {
        retry_after_ms: error.retry_after_ms(),
        transient: !error.is_final(),
        source: Box::new(error),
    }
}

fn words(error: &StripeError) -> String {
    let mut words = error.to_string();
    if let StripeError::Transport(cause) = error {
        words = format!("{words}: {cause}");
    }
    words.chars().take(WORDS).collect()
}

/// What a failed send means for the row.
fn outcome(error: &StripeError) -> Outcome {
    match error {
        StripeError::Transport(error) if error.was_not_sent() => {
            Outcome::NotExecuted { retry_after_ms: None }
        }
        StripeError::Transport(_) => Outcome::Unknown,
        StripeError::Api(error) => answered(error),
        // A 2xx that is not Stripe's own answer may be a proxy's: the same again tells, as a duplicate if it arrived.
        StripeError::Unreadable(_) => Outcome::Unknown,
        StripeError::Request(_) | StripeError::Key => Outcome::Refused,
    }
}

fn answered(error: &ApiError) -> Outcome {
    let retry_after_ms = error.retry_after_ms;
    match error.status {
        // Neither says anything of the row: we are too fast, or our key is not good (any more).
        StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Outcome::NotExecuted { retry_after_ms }
        }
        // The same key is at work at this moment: how that ends is not known here.
        StatusCode::CONFLICT => Outcome::Unknown,
        status if status.is_server_error() => Outcome::ServerError { retry_after_ms },
        _ => match known_identifier(error) {
            Some(identifier) => Outcome::Duplicate { identifier },
            None => Outcome::Refused,
        },
    }
}

/// The identifier that Stripe says it knows already.
///
/// Stripe documents no code for it: it is a 400 `invalid_request_error` with the sentence "An event already exists
/// with identifier X". Our identifiers have neither spaces nor a full stop, so X ends where they begin.
fn known_identifier(error: &ApiError) -> Option<String> {
    const SENTENCE: &str = "already exists with identifier ";
    if error.status != StatusCode::BAD_REQUEST || error.kind != "invalid_request_error" {
        return None;
    }
    let (_, rest) = error.message.split_once(SENTENCE)?;
    let quote = |c: char| c.is_whitespace() || matches!(c, '`' | '\'' | '"' | '.' | ',');
    let identifier = rest.trim_start_matches(quote).split(quote).next()?;
    (!identifier.is_empty()).then(|| identifier.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, kind: &str, message: &str) -> Outcome {
        answered(&ApiError {
            status: StatusCode::from_u16(status).unwrap(),
            kind: kind.to_owned(),
            code: None,
            message: message.to_owned(),
            request_id: None,
            should_retry: Some(false),
            retry_after_ms: Some(3_000),
            limited_by: None,
        })
    }

    #[test]
    fn what_an_answer_means_for_a_row() {
        let known = |identifier: &str| Outcome::Duplicate { identifier: identifier.to_owned() };
        let invalid = "invalid_request_error";
        for message in [
            "An event already exists with identifier tb1:00ff",
            "An event already exists with identifier tb1:00ff.",
            "An event already exists with identifier `tb1:00ff`. Use another one.",
        ] {
            assert_eq!(answer(400, invalid, message), known("tb1:00ff"), "{message}");
        }
        assert_eq!(
            answer(400, invalid, "An event already exists with identifier tb1:00ff0"),
            known("tb1:00ff0")
        );
        assert_eq!(
            answer(400, "idempotency_error", "An event already exists with identifier x"),
            Outcome::Refused
        );
        assert_eq!(
            answer(404, invalid, "An event already exists with identifier x"),
            Outcome::Refused
        );
        assert_eq!(answer(400, invalid, "Missing required param: event_name."), Outcome::Refused);
        assert_eq!(answer(409, invalid, ""), Outcome::Unknown);
        let later = Outcome::NotExecuted { retry_after_ms: Some(3_000) };
        for status in [401, 403, 429] {
            assert_eq!(answer(status, "", ""), later, "{status}");
        }
        for status in [500, 502, 503, 504] {
            assert_eq!(
                answer(status, "", ""),
                Outcome::ServerError { retry_after_ms: Some(3_000) },
                "{status}"
            );
        }
    }
}
