//! `GET /billing/reports?tenant_id=`: what the provider was told of a tenant, in units.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
};
use schemas::TenantId;
use serde::{Deserialize, Serialize};

use crate::{
    problem::Problem,
    router::{Desk, authorize},
    store::report::totals::{self, Totals},
};

/// Whose reports.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    tenant_id: TenantId,
}

/// The sums, and the sequence of `LOG` that they are true of.
#[derive(Debug, Serialize)]
pub struct Reports {
    tenant_id: TenantId,
    totals: Totals,
    as_of: AsOf,
}

/// As of when a number is true.
#[derive(Debug, Serialize)]
struct AsOf {
    stream_seq: u64,
}

/// Sums a tenant's reports.
pub async fn read(
    State(desk): State<Desk>,
    headers: HeaderMap,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Reports>, Problem> {
    authorize(&desk, &headers)?;
    let Query(Asked { tenant_id }) =
        query.map_err(|rejection| Problem::BadRequest(rejection.body_text()))?;
    let (totals, stream_seq) = totals::of_tenant(&desk.pool, tenant_id)
        .await
        .map_err(|error| Problem::dependency("PostgreSQL", error))?;
    Ok(Json(Reports { tenant_id, totals, as_of: AsOf { stream_seq } }))
}
