//! Billing's HTTP: the webhook door, and what operators ask.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderMap, header::AUTHORIZATION},
    routing::{get, post},
};
use billing_core::plan::Book;
use runtime::{health::Health, nats::Nats, settings::Secret};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use subtle::ConstantTimeEq;

use crate::{
    checkout, portal,
    problem::Problem,
    reports, statements,
    stripe::{Client, catalog::Catalog},
    webhook,
};

/// The largest body of an operator's request. Unit: bytes.
const LARGEST_COMMAND: usize = 64 * 1024;

/// What operators' requests need.
#[derive(Clone)]
pub struct Api {
    pub pool: PgPool,
    pub nats: Nats,
    pub stripe: Client,
    pub operator_token: Secret,
    /// Stripe's prices, once they have been seen.
    pub catalog: Arc<OnceLock<Catalog>>,
    /// The plans that previews are rated by.
    pub book: Arc<Book>,
}

/// All routes.
pub fn router(door: webhook::Door, api: Api, health: &Health) -> Router {
    let webhooks = Router::new()
        .route("/stripe/webhook", post(webhook::receive))
        .layer(DefaultBodyLimit::max(webhook::LARGEST_BODY))
        .with_state(door);
    let operators = Router::new()
        .route("/billing/checkout", post(checkout::open))
        .route("/billing/portal", post(portal::open))
        .route("/billing/reports", get(reports::read))
        .route("/billing/statements", get(statements::read))
        .route("/billing/discrepancies", get(statements::discrepancies))
        .route("/billing/preview", get(statements::preview))
        .layer(DefaultBodyLimit::max(LARGEST_COMMAND))
        .with_state(api);
    Router::new().merge(webhooks).merge(operators).merge(health.router())
}

/// Lets the operator through.
///
/// # Errors
/// `Unauthorized` for anything but the right bearer token.
pub fn authorize(token: &Secret, headers: &HeaderMap) -> Result<(), Problem> {
    let given =
        headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let given = given.map_or("", |(_, token)| token.trim());
    // Digests are of one length, so the comparison tells nothing of the token's.
    let same = Sha256::digest(given).ct_eq(&Sha256::digest(token.expose()));
    if bool::from(same) { Ok(()) } else { Err(Problem::Unauthorized) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_bearer_token_opens() {
        let token = Secret::new("tok-1".to_owned());
        let ask = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            authorize(&token, &headers).is_ok()
        };
        assert!(ask("Bearer tok-1") && ask("bearer tok-1"));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer tok", "Bearer tok-11", "Basic tok-1", "tok-1"]
        {
            assert!(!ask(wrong), "{wrong}");
        }
        assert!(authorize(&token, &HeaderMap::new()).is_err());
    }
}
