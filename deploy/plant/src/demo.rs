//! A tenant that subscribes at a checkout, with keys that then serve.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{Plant, PlantError, api::text};

/// A key and its secret.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub secret: String,
}

/// What was provisioned.
#[derive(Clone, Debug)]
pub struct Demo {
    pub tenant: String,
    pub project: String,
    /// The key whose quota ends.
    pub limited: Key,
    /// A key with room to play.
    pub roomy: Key,
}

/// How many calls a month the second key may make.
const ROOM: u64 = 10_000;
/// How long a webhook may take to make a key active, with room for a slow machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Makes a tenant, a project and two keys, and lets the tenant subscribe: the keys are pending before and active after.
///
/// # Errors
/// A service refuses, or the keys do not become active.
pub async fn provision(plant: &Plant, name: &str, quota: u64) -> Result<Demo, PlantError> {
    let admin = plant.admin_api();
    let tenant =
        admin.post("/admin/tenants", &json!({ "name": name, "billing": "stripe" })).await?;
    let tenant = text(&tenant, "/id")?;
    let project =
        admin.post("/admin/projects", &json!({ "tenant_id": tenant, "name": "Demo" })).await?;
    let project = text(&project, "/id")?;
    let limited = key(plant, &project, "limited", quota).await?;
    let roomy = key(plant, &project, "roomy", ROOM).await?;
    let status = status(plant, &limited.id).await?;
    if status != "pending" {
        return Err(PlantError::Unexpected(format!(
            "before the checkout the key is {status}, not pending"
        )));
    }
    check_out(plant, &tenant).await?;
    for key in [&limited, &roomy] {
        wait_for_status(plant, &key.id, "active").await?;
        wait_for_nodes(plant, &key.secret).await?;
    }
    Ok(Demo { tenant, project, limited, roomy })
}

async fn key(plant: &Plant, project: &str, name: &str, quota: u64) -> Result<Key, PlantError> {
    let body = json!({ "project_id": project, "name": name, "quota": { "limit": quota } });
    let made = plant.admin_api().post("/admin/api-keys", &body).await?;
    Ok(Key { id: text(&made, "/id")?, secret: text(&made, "/secret")? })
}

/// A customer's checkout: billing opens it, Stripe completes it, and tells billing so by webhook.
async fn check_out(plant: &Plant, tenant: &str) -> Result<(), PlantError> {
    let back = format!("{}/", plant.addresses.admin);
    let body = json!({ "tenant_id": tenant, "success_url": back, "cancel_url": back });
    let session = plant.billing_api().post("/billing/checkout", &body).await?;
    let session = text(&session, "/session_id")?;
    let completed = format!("/_sim/checkout/sessions/{session}/complete");
    plant.stripe_control().post(&completed, &json!({})).await?;
    Ok(())
}

async fn status(plant: &Plant, key: &str) -> Result<String, PlantError> {
    Ok(text(&plant.admin_api().get(&format!("/admin/api-keys/{key}")).await?, "/status")?)
}

async fn wait_for_status(plant: &Plant, key: &str, wanted: &str) -> Result<(), PlantError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = status(plant, key).await?;
        if found == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            let text = format!("after {TIMEOUT:?} the key is {found}, not {wanted}");
            return Err(PlantError::Unexpected(text));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The nodes hear of a key a moment after the ledger has decided: waits until each lets it in.
async fn wait_for_nodes(plant: &Plant, secret: &str) -> Result<(), PlantError> {
    let deadline = Instant::now() + TIMEOUT;
    for node in &plant.addresses.nodes {
        loop {
            let status = crate::api::ping(node, secret).await?;
            if !matches!(status, 401 | 402) {
                break;
            }
            if Instant::now() > deadline {
                return Err(PlantError::Unexpected(format!(
                    "after {TIMEOUT:?} {node} still answers {status}"
                )));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}
