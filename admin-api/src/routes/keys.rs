//! API keys: make one (its secret is shown in that answer and never again), revoke one, read one, list a tenant's.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use schemas::{KeyDigest, KeyId, KeyStatus, ProjectId, RateLimits, Scope, TenantId, secret};
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
        command::{Command, CreateKey, RotateKey},
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
    rate: Option<RateLimits>,
    created_at: String,
    /// When it last got a new secret, and from when on the one before is refused.
    rotated_at: Option<String>,
    former_secret_until: Option<String>,
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
    let secret = new_secret()?;
    let command = Command::CreateKey(body.command(key, &secret)?);
    let done = app.control.execute(decision, &command, now()).await?;
    Ok((StatusCode::CREATED, Json(app.key_with_secret(key, &done, secret)?)))
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

/// The longest overlap of two secrets: 30 days. Unit: seconds.
const LONGEST_OVERLAP_S: u32 = 30 * 86_400;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    overlap_s: Option<u32>,
}

/// `POST /admin/api-keys/{id}/rotate`: a new secret, shown in this answer and never again. The one before serves for
/// `overlap_s` more; its units, rates and quotas are the key's, whichever secret calls.
///
/// # Errors
/// As a problem.
pub async fn rotate(
    State(app): State<App>,
    IdempotencyKey(idempotency): IdempotencyKey,
    Path(text): Path<String>,
    Body(body): Body<Rotation>,
) -> Result<Json<KeyView>, ApiError> {
    let key = text.parse().map_err(|_| ApiError::NotFound)?;
    let overlap_s = body.overlap_s.unwrap_or(86_400);
    if overlap_s > LONGEST_OVERLAP_S {
        return Err(ApiError::field("overlap_s", "must be 0 to 2592000 (30 days)"));
    }
    let (mint, now, secret) = (Mint::new("rotate-api-key", idempotency), now(), new_secret()?);
    let command = Command::RotateKey(RotateKey {
        key,
        digest: KeyDigest::of(&secret),
        hint: secret::hint(&secret),
        former_until: now.plus_ms(i64::from(overlap_s) * 1_000),
    });
    let done = app.control.execute(mint.decision(), &command, now).await?;
    Ok(Json(app.key_with_secret(key, &done, secret)?))
}

/// How fast a key may be used, over all nodes together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRate {
    per_minute: u32,
    burst: Option<u32>,
    concurrent: Option<u32>,
}

/// `PUT /admin/api-keys/{id}/rate`.
///
/// # Errors
/// As a problem.
pub async fn set_rate(
    State(app): State<App>,
    IdempotencyKey(idempotency): IdempotencyKey,
    Path(text): Path<String>,
    Body(body): Body<NewRate>,
) -> Result<Json<KeyView>, ApiError> {
    let burst = body.burst.unwrap_or(body.per_minute);
    let fields = [
        ("per_minute", Some(body.per_minute)),
        ("burst", Some(burst)),
        ("concurrent", body.concurrent),
    ];
    if let Some((field, _)) = fields.into_iter().find(|(_, value)| *value == Some(0)) {
        return Err(ApiError::field(field, "must be at least 1"));
    }
    let rate = RateLimits { per_minute: body.per_minute, burst, concurrent: body.concurrent };
    change_rate(&app, idempotency, &text, Some(rate)).await
}

/// `DELETE /admin/api-keys/{id}/rate`: as fast as it can.
///
/// # Errors
/// As a problem.
pub async fn remove_rate(
    State(app): State<App>,
    IdempotencyKey(idempotency): IdempotencyKey,
    Path(text): Path<String>,
) -> Result<Json<KeyView>, ApiError> {
    change_rate(&app, idempotency, &text, None).await
}

async fn change_rate(
    app: &App,
    idempotency: Option<String>,
    text: &str,
    rate: Option<RateLimits>,
) -> Result<Json<KeyView>, ApiError> {
    let key = text.parse().map_err(|_| ApiError::NotFound)?;
    let mint = Mint::new("set-api-key-rate", idempotency);
    app.control.execute(mint.decision(), &Command::SetRate { key, rate }, now()).await?;
    Ok(Json(app.key(key)?))
}

fn new_secret() -> Result<String, ApiError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(ApiError::bug)?;
    Ok(secret::write(random))
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
    /// A key with the secret that was just made for it: shown by the decision that stored it, and never again.
    fn key_with_secret(&self, id: KeyId, done: &Done, secret: String) -> Result<KeyView, ApiError> {
        match done {
            Done::Decided(_) => Ok(KeyView { secret: Some(secret), ..self.key(id)? }),
            Done::Before(_) => Err(ApiError::SecretShown(id)),
            Done::AlreadySo => Err(ApiError::bug(Malformed)),
        }
    }

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
            rate: key.rate,
            created_at: rfc3339(key.created_at),
            rotated_at: key.rotated.map(|rotated| rfc3339(rotated.at)),
            former_secret_until: key.rotated.map(|rotated| rfc3339(rotated.former_until)),
            revoked_at: key.revoked_at.map(rfc3339),
            quotas: directory.quotas(Scope::Key(key.id)).map(QuotaView::of).collect(),
        }
    }
}
