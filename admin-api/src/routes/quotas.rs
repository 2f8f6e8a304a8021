//! Quotas: set one; how one reads.

use axum::{Json, extract::State};
use schemas::{ControlFact, MeterName, PeriodRule, Quantity, QuotaKind, QuotaRule, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Malformed,
    extract::{Body, IdempotencyKey, id},
    first_fact, now,
};
use crate::{
    control::Done,
    directory::{command::Command, text},
    error::ApiError,
    mint::Mint,
    router::App,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewQuota {
    scope: NewScope,
    // The fields of `NewRule`: flattening it here would let unknown fields pass.
    limit: u64,
    meter: Option<String>,
    kind: Option<QuotaKind>,
    period: Option<PeriodRule>,
}

/// What a quota limits: one of the three.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NewScope {
    Key(String),
    Project(String),
    Tenant(String),
}

/// A quota without its scope, as a new key may bring one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    limit: u64,
    meter: Option<String>,
    kind: Option<QuotaKind>,
    period: Option<PeriodRule>,
}

/// A quota as the API shows it.
#[derive(Serialize)]
pub struct QuotaView {
    scope: Value,
    meter: MeterName,
    limit: Quantity,
    kind: QuotaKind,
    period: PeriodRule,
}

/// `POST /admin/quotas`.
///
/// # Errors
/// As a problem.
pub async fn set(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<NewQuota>,
) -> Result<Json<QuotaView>, ApiError> {
    let scope = match &body.scope {
        NewScope::Key(text) => Scope::Key(id("scope.key", text)?),
        NewScope::Project(text) => Scope::Project(id("scope.project", text)?),
        NewScope::Tenant(text) => Scope::Tenant(id("scope.tenant", text)?),
    };
    let rule =
        NewRule { limit: body.limit, meter: body.meter, kind: body.kind, period: body.period };
    let mint = Mint::new("set-quota", key);
    let command = Command::SetQuota(rule.for_scope(scope, "limit", "meter")?);
    match app.control.execute(mint.decision(), &command, now()).await? {
        Done::Decided(decision) | Done::Before(decision) => match first_fact(&decision)? {
            ControlFact::QuotaSet { quota } => Ok(Json(QuotaView::of(quota))),
            _ => Err(ApiError::bug(Malformed)),
        },
        Done::AlreadySo => Err(ApiError::bug(Malformed)),
    }
}

impl NewRule {
    /// The rule of it; the names are those of the fields in the body that it stands in.
    pub(super) fn for_scope(
        self,
        scope: Scope,
        limit_field: &'static str,
        meter_field: &'static str,
    ) -> Result<QuotaRule, ApiError> {
        let limit =
            text::limit(self.limit).map_err(|reason| ApiError::field(limit_field, reason))?;
        let meter = self.meter.map_or(Ok(MeterName::tool_calls()), |meter| meter.parse());
        let meter = meter.map_err(|_| {
            ApiError::field(
                meter_field,
                "must be 1 to 64 of a-z, 0-9, `-` and `_`, beginning with a letter or digit",
            )
        })?;
        let kind = self.kind.unwrap_or(QuotaKind::Hard);
        let period = self.period.unwrap_or(PeriodRule::Month);
        if matches!(period, PeriodRule::Anchored { months, .. } if !(1..=120).contains(&months)) {
            return Err(ApiError::field("period", "an anchored period is of 1 to 120 months"));
        }
        Ok(QuotaRule { scope, meter, limit: Quantity(limit), kind, period })
    }
}

impl QuotaView {
    pub(super) fn of(quota: &QuotaRule) -> Self {
        let scope = match quota.scope {
            Scope::Key(id) => json!({ "key": id }),
            Scope::Project(id) => json!({ "project": id }),
            Scope::Tenant(id) => json!({ "tenant": id }),
        };
        Self {
            scope,
            meter: quota.meter.clone(),
            limit: quota.limit,
            kind: quota.kind,
            period: quota.period,
        }
    }
}
