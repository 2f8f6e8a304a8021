//! `POST /billing/checkout`: a page at Stripe where a tenant's owner subscribes.
//!
//! A tenant has one customer for ever: made at its first checkout, remembered, used again. Absent on purpose:
//! believing that a session means a subscription; that is read from Stripe when its events come.

use axum::{Json, extract::State, http::HeaderMap};
use schemas::{BillingMode, TenantId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    clock::now,
    control::current_tenant,
    plans,
    problem::Problem,
    router::{Api, authorize},
    store::customer as made,
    stripe::{
        checkout::{self, Wanted},
        customer,
    },
};

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    tenant_id: TenantId,
    /// Where the browser goes after a subscription was made.
    success_url: String,
    /// Where it goes when its owner turns back.
    #[serde(default)]
    cancel_url: Option<String>,
    /// A plan on sale, as `starter@1`; absent: the metered price of the settings.
    #[serde(default)]
    plan: Option<String>,
}

/// The page.
#[derive(Debug, Serialize)]
pub struct Opened {
    session_id: String,
    url: Option<String>,
}

/// Opens a session. One `Idempotency-Key` opens one for a day.
pub async fn open(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Json<Asked>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Opened>, Problem> {
    authorize(&api.desk, &headers)?;
    let Json(asked) = body.map_err(|rejection| Problem::BadRequest(rejection.body_text()))?;
    for url in [Some(&asked.success_url), asked.cancel_url.as_ref()].into_iter().flatten() {
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            return Err(Problem::BadRequest(
                "an address must begin with http:// or https://".to_owned(),
            ));
        }
    }
    let catalog = api.catalog.get().ok_or(Problem::NotReady)?;
    let prices = match &asked.plan {
        None => vec![catalog.price.clone()],
        Some(plan) => plans::parse(plan)
            .and_then(|plan| catalog.plans.get(&plan).cloned())
            .ok_or_else(|| Problem::BadRequest(format!("plan `{plan}` is not on sale")))?,
    };
    let customer = customer_of(&api, asked.tenant_id).await?;
    let wanted = Wanted {
        tenant: asked.tenant_id,
        customer: &customer,
        prices: &prices,
        success_url: &asked.success_url,
        cancel_url: asked.cancel_url.as_deref(),
    };
    let session = checkout::create(&api.stripe, &wanted, &session_key(asked.tenant_id, &headers))
        .await
        .map_err(Problem::from)?;
    tracing::info!(tenant.id = %asked.tenant_id, session.id = session.id, "Opened a checkout");
    Ok(Json(Opened { session_id: session.id, url: session.url }))
}

async fn customer_of(api: &Api, id: TenantId) -> Result<String, Problem> {
    let postgres = |error| Problem::dependency("PostgreSQL", error);
    let known = current_tenant(&api.desk.pool, &api.nats, id)
        .await
        .map_err(|error| Problem::dependency("the log", error))?
        .ok_or(Problem::NoTenant(id))?;
    if known.billing != BillingMode::Stripe {
        return Err(Problem::NotBilled(id));
    }
    if let Some(linked) = known.customer {
        return Ok(linked);
    }
    if let Some(made) = made::made_for(&api.desk.pool, id).await.map_err(postgres)? {
        return Ok(made);
    }
    let made = customer::create(&api.stripe, id, None).await.map_err(Problem::from)?;
    made::remember(&api.desk.pool, id, &made, now()).await.map_err(postgres)
}

/// The key of a session at Stripe: the caller's, made ours; or one that is used this once.
fn session_key(tenant: TenantId, headers: &HeaderMap) -> String {
    match headers.get("idempotency-key") {
        Some(key) => {
            let digest = Sha256::new()
                .chain_update(tenant.0.as_bytes())
                .chain_update(key.as_bytes())
                .finalize();
            format!("tb1:checkout:{}", hex::encode(digest))
        }
        None => format!("tb1:checkout:{}", uuid::Uuid::now_v7().simple()),
    }
}
