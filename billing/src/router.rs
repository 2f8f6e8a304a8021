//! Billing's HTTP: the webhook door, and what operators ask.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    http::{HeaderMap, header::AUTHORIZATION},
    routing::{get, post},
};
use runtime::{health::Health, nats::Nats, settings::Secret};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use subtle::ConstantTimeEq;

use crate::{
    checkout, drift, portal,
    problem::Problem,
    provision, reports, shadow, statements,
    stripe::{Client, catalog::Catalog},
    webhook,
    workers::Rules,
};

/// The largest body of an operator's request. Unit: bytes.
const LARGEST_COMMAND: usize = 64 * 1024;

/// What any request of an operator needs.
#[derive(Clone)]
pub struct Desk {
    pub pool: PgPool,
    pub operator_token: Secret,
}

/// What operators' requests need where Stripe bills.
#[derive(Clone)]
pub struct Api {
    pub desk: Desk,
    pub nats: Nats,
    pub stripe: Client,
    /// Stripe's prices, once they have been seen.
    pub catalog: Arc<OnceLock<Catalog>>,
    /// What previews are rated by.
    pub rules: Rules,
}

impl FromRef<Api> for Desk {
    fn from_ref(api: &Api) -> Self {
        api.desk.clone()
    }
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
        .route("/billing/provision", post(provision::provision))
        .route("/billing/reports", get(reports::read))
        .route("/billing/statements", get(statements::read))
        .route("/billing/discrepancies", get(statements::discrepancies))
        .route("/billing/preview", get(statements::preview))
        .route("/billing/shadow", get(shadow::read))
        .route("/billing/drift", get(drift::read))
        .layer(DefaultBodyLimit::max(LARGEST_COMMAND))
        .with_state(api);
    Router::new().merge(webhooks).merge(operators).merge(health.router())
}

/// The routes where usage goes to a folder.
pub fn of_files(desk: Desk, health: &Health) -> Router {
    let operators = Router::new().route("/billing/reports", get(reports::read)).with_state(desk);
    Router::new().merge(operators).merge(health.router())
}

/// Lets the operator through.
///
/// # Errors
/// `Unauthorized` for anything but the right bearer token.
pub fn authorize(desk: &Desk, headers: &HeaderMap) -> Result<(), Problem> {
    is_operator(&desk.operator_token, headers)
}

fn is_operator(token: &Secret, headers: &HeaderMap) -> Result<(), Problem> {
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
            is_operator(&token, &headers).is_ok()
        };
        assert!(ask("Bearer tok-1") && ask("bearer tok-1"));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer tok", "Bearer tok-11", "Basic tok-1", "tok-1"]
        {
            assert!(!ask(wrong), "{wrong}");
        }
        assert!(is_operator(&token, &HeaderMap::new()).is_err());
    }
}
