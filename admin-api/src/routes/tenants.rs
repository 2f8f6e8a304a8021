//! Tenants: make one, read one, list them.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use schemas::{BillingMode, ControlFact, Decision, Scope, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    ListQuery, Listed, Malformed,
    extract::{Body, IdempotencyKey, Params},
    first_fact, now, page_of,
    quotas::QuotaView,
    rfc3339,
};
use crate::{
    control::Done,
    directory::{Tenant, command::Command, text},
    error::ApiError,
    mint::Mint,
    router::App,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    name: String,
    time_zone: Option<String>,
    billing: Option<BillingMode>,
}

#[derive(Serialize)]
pub struct TenantView {
    id: TenantId,
    name: String,
    time_zone: String,
    billing: BillingMode,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    quotas: Option<Vec<QuotaView>>,
}

/// `POST /admin/tenants`.
///
/// # Errors
/// As a problem.
pub async fn create(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewTenant>,
) -> Result<(StatusCode, Json<TenantView>), ApiError> {
    let mint = Mint::new("create-tenant", key);
    let time_zone = body.time_zone.as_deref().unwrap_or("UTC");
    let command = Command::CreateTenant {
        tenant: mint.tenant(),
        name: text::name(&body.name).map_err(|reason| ApiError::field("name", reason))?,
        time_zone: text::time_zone(time_zone)
            .map_err(|reason| ApiError::field("time_zone", reason))?,
        billing: body.billing.unwrap_or(BillingMode::None),
    };
    match app.control.execute(mint.decision(), &command, now()).await? {
        Done::Decided(decision) | Done::Before(decision) => {
            Ok((StatusCode::CREATED, Json(TenantView::decided(&decision)?)))
        }
        Done::AlreadySo => Err(ApiError::bug(Malformed)),
    }
}

/// `GET /admin/tenants/{id}`.
///
/// # Errors
/// As a problem.
pub async fn read(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<TenantView>, ApiError> {
    let id = id.parse().map_err(|_| ApiError::NotFound)?;
    let directory = app.control.directory();
    let tenant = directory.tenant(id).ok_or(ApiError::NotFound)?;
    let quotas = directory.quotas(Scope::Tenant(id)).map(QuotaView::of).collect();
    Ok(Json(TenantView { quotas: Some(quotas), ..TenantView::of(tenant) }))
}

/// `GET /admin/tenants`.
///
/// # Errors
/// As a problem.
pub async fn list(
    State(app): State<App>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Listed<TenantView>>, ApiError> {
    let want = page_of(query.after.as_deref(), query.limit.as_deref())?;
    let directory = app.control.directory();
    Ok(Json(Listed::of(directory.list_tenants(want), TenantView::of)))
}

impl TenantView {
    fn of(tenant: &Tenant) -> Self {
        Self::new(tenant.id, &tenant.name, &tenant.time_zone, tenant.billing, tenant.created_at)
    }

    fn decided(decision: &Decision) -> Result<Self, ApiError> {
        match first_fact(decision)? {
            ControlFact::TenantCreated { tenant, name, time_zone, billing } => {
                Ok(Self::new(*tenant, name, time_zone, *billing, decision.at))
            }
            _ => Err(ApiError::bug(Malformed)),
        }
    }

    fn new(id: TenantId, name: &str, time_zone: &str, billing: BillingMode, at: Timestamp) -> Self {
        let (name, time_zone) = (name.to_owned(), time_zone.to_owned());
        Self { id, name, time_zone, billing, created_at: rfc3339(at), quotas: None }
    }
}
