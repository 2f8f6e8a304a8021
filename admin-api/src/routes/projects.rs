//! Projects: make one, list a tenant's.

use axum::{Json, extract::State, http::StatusCode};
use schemas::{ControlFact, Decision, ProjectId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Listed, Malformed, TenantListQuery,
    extract::{Body, IdempotencyKey, Params, id},
    first_fact, now, rfc3339,
};
use crate::{
    control::Done,
    directory::{Project, command::Command, decide::Refusal, text},
    error::ApiError,
    mint::Mint,
    router::App,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    tenant_id: String,
    name: String,
}

#[derive(Serialize)]
pub struct ProjectView {
    id: ProjectId,
    tenant_id: TenantId,
    name: String,
    created_at: String,
}

/// `POST /admin/projects`.
///
/// # Errors
/// As a problem.
pub async fn create(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewProject>,
) -> Result<(StatusCode, Json<ProjectView>), ApiError> {
    let mint = Mint::new("create-project", key);
    let command = Command::CreateProject {
        tenant: id("tenant_id", &body.tenant_id)?,
        project: mint.project(),
        name: text::name(&body.name).map_err(|reason| ApiError::field("name", reason))?,
    };
    match app.control.execute(mint.decision(), &command, now()).await? {
        Done::Decided(decision) | Done::Before(decision) => {
            Ok((StatusCode::CREATED, Json(ProjectView::decided(&decision)?)))
        }
        Done::AlreadySo => Err(ApiError::bug(Malformed)),
    }
}

/// `GET /admin/projects?tenant_id=`.
///
/// # Errors
/// As a problem.
pub async fn list(
    State(app): State<App>,
    Params(query): Params<TenantListQuery>,
) -> Result<Json<Listed<ProjectView>>, ApiError> {
    let (tenant, want) = query.split()?;
    let directory = app.control.directory();
    directory.tenant(tenant).ok_or(Refusal::NoTenant(tenant))?;
    Ok(Json(Listed::of(directory.list_projects(tenant, want), ProjectView::of)))
}

impl ProjectView {
    fn of(project: &Project) -> Self {
        Self::new(project.id, project.tenant, &project.name, project.created_at)
    }

    fn decided(decision: &Decision) -> Result<Self, ApiError> {
        match first_fact(decision)? {
            ControlFact::ProjectCreated { tenant, project, name } => {
                Ok(Self::new(*project, *tenant, name, decision.at))
            }
            _ => Err(ApiError::bug(Malformed)),
        }
    }

    fn new(id: ProjectId, tenant_id: TenantId, name: &str, at: Timestamp) -> Self {
        Self { id, tenant_id, name: name.to_owned(), created_at: rfc3339(at) }
    }
}
