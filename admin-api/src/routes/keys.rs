//! API keys: make one (its secret is shown in that answer and never again), revoke one, read one, list a tenant's.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use schemas::{KeyDigest, KeyId, KeyStatus, ProjectId, Scope, TenantId, secret};
use serde::{Deserialize, Serialize};

use super::{
    Listed, Malformed, TenantListQuery,
    extract::{Body, IdempotencyKey, Params, id},
    now,
    quotas::{NewRule, QuotaView},
    rfc3339,
};
use crate::{
    control::Done,
    directory::{
        Directory, Key,
        command::{Command, CreateKey},
        decide::Refusal,
        text,
    },
    error::ApiError,
    mint::Mint,
    router::App,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    project_id: String,
    name: String,
    scopes: Option<Vec<String>>,
    tools: Option<Vec<String>>,
    expires_at: Option<String>,
    quota: Option<NewRule>,
}

#[derive(Serialize)]
pub struct KeyView {
    id: KeyId,
    tenant_id: TenantId,
    project_id: ProjectId,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    hint: String,
    status: KeyStatus,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    scopes: Vec<String>,
    tools: Option<Vec<String>>,
    expires_at: Option<String>,
    created_at: String,
    revoked_at: Option<String>,
    quotas: Vec<QuotaView>,
}

/// `POST /admin/api-keys`.
///
/// The same `Idempotency-Key` again is answered with 409 `secret-already-shown` and the key's id. A secret that
/// could be shown again would have to be kept, or made from one that is: whoever held that would hold every key.
///
/// # Errors
/// As a problem.
pub async fn create(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewKey>,
) -> Result<(StatusCode, Json<KeyView>), ApiError> {
    let mint = Mint::new("create-api-key", key);
    let (key, decision) = (mint.key(), mint.decision());
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(ApiError::bug)?;
    let secret = secret::write(random);
    let command = Command::CreateKey(body.command(key, &secret)?);
    match app.control.execute(decision, &command, now()).await? {
        Done::Decided(_) => {
            let mut view = app.key(key)?;
            view.secret = Some(secret);
            Ok((StatusCode::CREATED, Json(view)))
        }
        Done::Before(_) => Err(ApiError::SecretShown(key)),
        Done::AlreadySo => Err(ApiError::bug(Malformed)),
    }
}

/// `POST /admin/api-keys/{id}/revoke`. Revoking what is revoked is no error.
///
/// # Errors
/// As a problem.
pub async fn revoke(
    State(app): State<App>,
    IdempotencyKey(idempotency): IdempotencyKey,
    Path(text): Path<String>,
) -> Result<Json<KeyView>, ApiError> {
    let key = text.parse().map_err(|_| ApiError::NotFound)?;
    let mint = Mint::new("revoke-api-key", idempotency);
    app.control.execute(mint.decision(), &Command::RevokeKey { key }, now()).await?;
    Ok(Json(app.key(key)?))
}

/// `GET /admin/api-keys/{id}`.
///
/// # Errors
/// As a problem.
pub async fn read(
    State(app): State<App>,
    Path(text): Path<String>,
) -> Result<Json<KeyView>, ApiError> {
    let key = text.parse().map_err(|_| ApiError::NotFound)?;
    Ok(Json(app.key(key)?))
}

/// `GET /admin/api-keys?tenant_id=`.
///
/// # Errors
/// As a problem.
pub async fn list(
    State(app): State<App>,
    Params(query): Params<TenantListQuery>,
) -> Result<Json<Listed<KeyView>>, ApiError> {
    let (tenant, want) = query.split()?;
    let directory = app.control.directory();
    directory.tenant(tenant).ok_or(Refusal::NoTenant(tenant))?;
    Ok(Json(Listed::of(directory.list_keys(tenant, want), |key| KeyView::of(&directory, key))))
}

impl App {
    fn key(&self, id: KeyId) -> Result<KeyView, ApiError> {
        let directory = self.control.directory();
        let key = directory.key(id).ok_or(Refusal::NoKey(id))?;
        Ok(KeyView::of(&directory, key))
    }
}

impl NewKey {
    fn command(self, key: KeyId, secret: &str) -> Result<CreateKey, ApiError> {
        let wrong = |field| move |reason: text::Wrong| ApiError::field(field, reason);
        let quota =
            self.quota.map(|rule| rule.for_scope(Scope::Key(key), "quota.limit", "quota.meter"));
        Ok(CreateKey {
            key,
            project: id("project_id", &self.project_id)?,
            name: text::name(&self.name).map_err(wrong("name"))?,
            digest: KeyDigest::of(secret),
            hint: secret::hint(secret),
            scopes: text::scopes(self.scopes.unwrap_or_default()).map_err(wrong("scopes"))?,
            tools: self.tools.map(text::tools).transpose().map_err(wrong("tools"))?,
            expires_at: self
                .expires_at
                .as_deref()
                .map(text::expires_at)
                .transpose()
                .map_err(wrong("expires_at"))?,
            quota: quota.transpose()?,
        })
    }
}

impl KeyView {
    fn of(directory: &Directory, key: &Key) -> Self {
        let (status, reason) = directory.status(key);
        Self {
            id: key.id,
            tenant_id: key.tenant,
            project_id: key.project,
            name: key.name.clone(),
            secret: None,
            hint: key.hint.clone(),
            status,
            reason,
            scopes: key.scopes.clone(),
            tools: key.tools.clone(),
            expires_at: key.expires_at.map(rfc3339),
            created_at: rfc3339(key.created_at),
            revoked_at: key.revoked_at.map(rfc3339),
            quotas: directory.quotas(Scope::Key(key.id)).map(QuotaView::of).collect(),
        }
    }
}
