//! All addresses of the process, and what their handlers share.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post, put},
};
use runtime::{health::Health, nats::Nats};
use schemas::{TenantId, subject};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{Fingerprint, bearer, session::Sessions},
    control::{Control, last_sequence},
    error::ApiError,
    pages::{self, live::Live},
    read::{
        ledger::{Ledger, LedgerCount},
        span::Span,
        usage::{AsOf, Usage},
    },
    routes::{keys, login, projects, quotas, tenants, usage},
};

/// The largest body that is taken. Unit: bytes. A key with 500 tools of 128 characters fits.
const LARGEST_BODY: usize = 512 * 1024;

/// What handlers work with.
#[derive(Clone)]
pub struct App {
    pub control: Control,
    pub usage: Usage,
    pub ledger: Ledger,
    pub nats: Nats,
    pub sessions: Sessions,
    pub live: Live,
    /// How browsers reach us, without a slash at its end.
    pub public_url: Arc<str>,
    pub stop: CancellationToken,
}

impl App {
    /// The ledger's count; `None` = it cannot be read, which is logged here and shown as such.
    pub async fn ledger_count(&self, tenant: TenantId, span: Span) -> Option<LedgerCount> {
        let count = self.ledger.count(tenant, span).await;
        count
            .inspect_err(|error| {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "The ledger's count cannot be read"
                );
            })
            .ok()
    }

    /// How many messages of the log lie behind `as_of`; `None` = the log cannot be asked.
    pub async fn lag(&self, as_of: Option<AsOf>) -> Option<u64> {
        let last = last_sequence(&self.nats, subject::LOG).await;
        let last = last.inspect_err(|error| {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "The log's end cannot be asked"
            );
        });
        Some(last.ok()?.saturating_sub(as_of.map_or(0, |as_of| as_of.stream_seq)))
    }
}

/// The whole router.
pub fn router(app: App, operator: Fingerprint, health: &Health) -> Router {
    let admin = Router::new()
        .route("/tenants", post(tenants::create).get(tenants::list))
        .route("/tenants/{id}", get(tenants::read))
        .route("/projects", post(projects::create).get(projects::list))
        .route("/api-keys", post(keys::create).get(keys::list))
        .route("/api-keys/{id}", get(keys::read))
        .route("/api-keys/{id}/revoke", post(keys::revoke))
        .route("/api-keys/{id}/rotate", post(keys::rotate))
        .route("/api-keys/{id}/rate", put(keys::set_rate).delete(keys::remove_rate))
        .route("/quotas", post(quotas::set))
        .route("/usage", get(usage::read))
        .route("/login-links", post(login::create))
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::Method })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        // Around the fallbacks too: who bears no token learns nothing about what there is.
        .layer(middleware::from_fn_with_state(operator, bearer::require));
    let pages = Router::new()
        .route("/", get(pages::usage::page))
        .route("/live", get(pages::usage::live))
        .route("/login", get(pages::login::enter))
        .route("/logout", post(pages::login::leave))
        .route("/assets/{name}", get(pages::assets::serve))
        .fallback(|| async { ApiError::NotFound });
    Router::new()
        .nest("/admin", admin)
        .merge(pages)
        .with_state(app)
        .merge(health.router())
        .layer(middleware::from_fn(pages::guard))
}
