//! `POST /billing/provision`: one command makes a tenant with its project, customer, subscription and API keys.
//!
//! It stands here and not in `admin-api` because half of its steps are Stripe's, which only billing speaks to; what it
//! decides are the same facts on the same subjects as `admin-api` publishes, which that service, the ledger and our own
//! fold read from CONTROL as ever.
//! Every step can be done again: ids follow from the idempotency key, each decision stands on a subject where nothing
//! may stand before it, a customer and a session are known by keys of their own, and a subscription is looked for
//! before it is made. So a repeat finishes what a kill cut off and makes nothing twice. The keys come last: their
//! secrets are in the answer that makes them and nowhere else, so a repeat cannot show them.
//! Absent on purpose: quotas, scopes and rates of keys, which are `admin-api`'s, and taking anything back.

mod ids;
mod steps;

use std::collections::BTreeSet;

use axum::{Json, extract::State, http::HeaderMap};
use schemas::{KeyId, PeriodRule, ProjectId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::{ids::Ids, steps::Steps};
use crate::{
    clock::now,
    plans,
    problem::Problem,
    router::{Api, authorize},
    store::provision,
    stripe::sale::Sold,
};

/// The most keys of one command.
const MAX_KEYS: usize = 20;
/// The longest name that people see. Unit: characters.
const LONGEST_NAME: usize = 100;

/// What is asked for.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    name: String,
    /// IANA name; absent: `UTC`.
    #[serde(default)]
    time_zone: Option<String>,
    /// The project's name; absent: `main`.
    #[serde(default)]
    project: Option<String>,
    /// The keys' names, each another; absent: one named `default`.
    #[serde(default)]
    keys: Option<Vec<String>>,
    /// A plan on sale, as `starter@1`; absent: the metered price of the settings.
    #[serde(default)]
    plan: Option<String>,
    subscribe: Subscribe,
}

/// How the tenant comes to its subscription.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Subscribe {
    /// At once: Stripe sends the invoices to this address, and they are due in so many days.
    Invoiced { email: String, due_days: u32 },
    /// By its owner, at a page of Stripe's; keys wait for it.
    Checkout { success_url: String, cancel_url: Option<String> },
}

/// What there is now.
#[derive(Debug, Serialize)]
pub struct Provisioned {
    tenant_id: TenantId,
    project_id: ProjectId,
    customer: String,
    /// The subscription, when it was made at once.
    subscription: Option<String>,
    /// The page to subscribe at, when it was not.
    checkout_url: Option<String>,
    keys: Vec<Key>,
}

/// A key of the tenant.
#[derive(Debug, Serialize)]
pub struct Key {
    id: KeyId,
    name: String,
    /// Shown once, in the answer of the request that made the key. Without it, and if nobody has it: rotate the key.
    secret: Option<String>,
    hint: String,
}

/// Makes what is missing of it, and answers with all of it.
pub async fn provision(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Json<Asked>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Provisioned>, Problem> {
    authorize(&api.desk, &headers)?;
    let Json(asked) = body.map_err(|rejection| Problem::BadRequest(rejection.body_text()))?;
    let wanted = Wanted::of(&api, asked)?;
    let ids = Ids::of(idempotency_key(&headers)?);
    let begun = provision::Begun {
        key_digest: ids.digest(),
        asked_digest: wanted.digest.clone(),
        tenant: ids.tenant(),
    };
    let postgres = |error| Problem::dependency("PostgreSQL", error);
    if !provision::begin(&api.desk.pool, &begun, now()).await.map_err(postgres)? {
        return Err(Problem::KeyReused);
    }
    let provisioned = Steps { api: &api, ids: &ids, wanted: &wanted }.all().await?;
    provision::finish(&api.desk.pool, &begun.key_digest, now()).await.map_err(postgres)?;
    tracing::info!(tenant.id = %provisioned.tenant_id, keys = provisioned.keys.len(), "Provisioned a tenant");
    Ok(Json(provisioned))
}

/// A request that can be obeyed.
struct Wanted {
    name: String,
    time_zone: String,
    project: String,
    keys: Vec<String>,
    prices: Vec<Sold>,
    subscribe: Subscribe,
    digest: String,
}

impl Wanted {
    fn of(api: &Api, asked: Asked) -> Result<Self, Problem> {
        let digest =
            Sha256::digest(serde_json::to_vec(&asked).map_err(|error| bad(error.to_string()))?);
        let catalog = api.catalog.get().ok_or(Problem::NotReady)?;
        let prices = match &asked.plan {
            None => vec![catalog.price.clone()],
            Some(plan) => plans::parse(plan)
                .and_then(|plan| catalog.plans.get(&plan).cloned())
                .ok_or_else(|| bad(format!("plan `{plan}` is not on sale")))?,
        };
        let time_zone = asked.time_zone.unwrap_or_else(|| "UTC".to_owned());
        if PeriodRule::Month.period_at(Timestamp(0), &time_zone).is_err() {
            return Err(bad("`time_zone` must be of the IANA database, as `Europe/Berlin`"));
        }
        check_subscribe(&asked.subscribe)?;
        Ok(Self {
            name: name("name", &asked.name)?,
            time_zone,
            project: name("project", asked.project.as_deref().unwrap_or("main"))?,
            keys: key_names(asked.keys)?,
            prices,
            subscribe: asked.subscribe,
            digest: hex::encode(digest),
        })
    }
}

fn bad(what: impl Into<String>) -> Problem {
    Problem::BadRequest(what.into())
}

fn name(field: &str, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    let fits = (1..=LONGEST_NAME).contains(&text.chars().count());
    if fits && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(bad(format!(
        "`{field}` must be 1 to {LONGEST_NAME} characters, none of them a control character"
    )))
}

fn key_names(asked: Option<Vec<String>>) -> Result<Vec<String>, Problem> {
    let asked = asked.unwrap_or_else(|| vec!["default".to_owned()]);
    let names = asked.iter().map(|text| name("keys", text)).collect::<Result<Vec<_>, _>>()?;
    let different: BTreeSet<&String> = names.iter().collect();
    if (1..=MAX_KEYS).contains(&names.len()) && different.len() == names.len() {
        return Ok(names);
    }
    Err(bad(format!("`keys` must be 1 to {MAX_KEYS} names, each another")))
}

fn check_subscribe(subscribe: &Subscribe) -> Result<(), Problem> {
    match subscribe {
        Subscribe::Invoiced { email, due_days } => {
            if !email.contains('@') || email.len() > 250 || email.chars().any(char::is_whitespace) {
                return Err(bad("`email` must be an address to which invoices can be sent"));
            }
            if !(1..=365).contains(due_days) {
                return Err(bad("`due_days` must be 1 to 365"));
            }
        }
        Subscribe::Checkout { success_url, cancel_url } => {
            for url in std::iter::once(success_url).chain(cancel_url) {
                if !(url.starts_with("https://") || url.starts_with("http://")) {
                    return Err(bad("an address must begin with http:// or https://"));
                }
            }
        }
    }
    Ok(())
}

/// The caller's key, if there is one.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if (1..=255).contains(&text.len()) {
        return Ok(Some(text));
    }
    Err(bad("Idempotency-Key must be 1 to 255 visible ASCII characters"))
}
