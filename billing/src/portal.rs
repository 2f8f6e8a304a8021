//! `POST /billing/portal`: a page at Stripe where a tenant's owner looks after its subscription.

use axum::{Json, extract::State, http::HeaderMap};
use schemas::TenantId;
use serde::{Deserialize, Serialize};

use crate::{
    control::current_tenant,
    problem::Problem,
    router::{Api, authorize},
    stripe::portal,
};

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    tenant_id: TenantId,
    /// Where the browser goes afterwards.
    return_url: String,
}

/// The page.
#[derive(Debug, Serialize)]
pub struct Opened {
    url: String,
}

/// Opens a session of the portal.
pub async fn open(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Json<Asked>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Opened>, Problem> {
    authorize(&api.desk, &headers)?;
    let Json(asked) = body.map_err(|rejection| Problem::BadRequest(rejection.body_text()))?;
    let tenant = current_tenant(&api.desk.pool, &api.nats, asked.tenant_id)
        .await
        .map_err(|error| Problem::dependency("the log", error))?
        .ok_or(Problem::NoTenant(asked.tenant_id))?;
    let customer = tenant.customer.ok_or(Problem::NotBilled(asked.tenant_id))?;
    let url = portal::open(&api.stripe, &customer, &asked.return_url).await?;
    Ok(Json(Opened { url }))
}
