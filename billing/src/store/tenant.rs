//! Tenants as the control log has them.

use std::collections::HashMap;

use billing_core::access::Standing;
use schemas::{Access, BillingMode, TenantId, Timestamp};
use sqlx::{FromRow, PgPool, PgTransaction};

use super::{StoreError, big, corrupt};

/// A tenant as of the control fold's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub billing: BillingMode,
    pub customer: Option<String>,
    /// What billing has decided of its access; `None` = nothing yet.
    pub standing: Option<Standing>,
    /// When the subscription that decided began.
    pub billed_from: Option<Timestamp>,
    /// The last message on the tenant's subscription subject that is folded in; 0 = none.
    pub decided_seq: u64,
}

#[derive(FromRow)]
struct TenantRow {
    tenant_id: String,
    billing: String,
    customer: Option<String>,
    access: Option<String>,
    reason: String,
    subscription: Option<String>,
    plan: Option<String>,
    began_at_ms: Option<i64>,
    decided_seq: i64,
}

impl TryFrom<TenantRow> for Tenant {
    type Error = StoreError;

    fn try_from(row: TenantRow) -> Result<Self, StoreError> {
        let access = match row.access.as_deref() {
            None => None,
            Some("active") => Some(Access::Active),
            Some("suspended") => Some(Access::Suspended),
            Some(other) => return Err(corrupt("tenant", "access", other)),
        };
        Ok(Self {
            id: row.tenant_id.parse().map_err(|error| corrupt("tenant", "tenant_id", error))?,
            billing: match row.billing.as_str() {
                "stripe" => BillingMode::Stripe,
                "none" => BillingMode::None,
                other => return Err(corrupt("tenant", "billing", other)),
            },
            customer: row.customer,
            standing: access.map(|access| Standing {
                access,
                reason: row.reason,
                subscription: row.subscription,
                plan: row.plan,
            }),
            billed_from: row.began_at_ms.map(Timestamp),
            decided_seq: u64::try_from(row.decided_seq)
                .map_err(|_| corrupt("tenant", "decided_seq", row.decided_seq))?,
        })
    }
}

/// One tenant.
///
/// # Errors
/// Any database error.
pub async fn read(pool: &PgPool, tenant: TenantId) -> Result<Option<Tenant>, StoreError> {
    let sql =
        "select * from tenant left join subscription using (subscription) where tenant_id = $1";
    let row: Option<TenantRow> =
        sqlx::query_as(sql).bind(tenant.to_string()).fetch_optional(pool).await?;
    row.map(Tenant::try_from).transpose()
}

/// The tenant that a customer is linked to.
///
/// # Errors
/// Any database error.
pub async fn of_customer(pool: &PgPool, customer: &str) -> Result<Option<Tenant>, StoreError> {
    let sql =
        "select * from tenant left join subscription using (subscription) where customer = $1";
    let row: Option<TenantRow> = sqlx::query_as(sql).bind(customer).fetch_optional(pool).await?;
    row.map(Tenant::try_from).transpose()
}

/// Those of the named tenants that are known, within a transaction that holds the control fold still.
///
/// # Errors
/// Any database error.
pub async fn read_many(
    tx: &mut PgTransaction<'_>,
    tenants: &[TenantId],
) -> Result<HashMap<TenantId, Tenant>, StoreError> {
    let ids: Vec<String> = tenants.iter().map(ToString::to_string).collect();
    let sql = "select * from tenant left join subscription using (subscription) where tenant_id = any($1)";
    let rows: Vec<TenantRow> = sqlx::query_as(sql).bind(ids).fetch_all(&mut **tx).await?;
    let tenants =
        rows.into_iter().map(|row| Tenant::try_from(row).map(|tenant| (tenant.id, tenant)));
    tenants.collect()
}

/// Takes in a new tenant; one that is known stays as it is.
///
/// # Errors
/// Any database error.
pub async fn create(
    tx: &mut PgTransaction<'_>,
    tenant: TenantId,
    billing: BillingMode,
) -> Result<(), StoreError> {
    let mode = match billing {
        BillingMode::Stripe => "stripe",
        BillingMode::None => "none",
    };
    let sql = "insert into tenant (tenant_id, billing) values ($1, $2) on conflict do nothing";
    sqlx::query(sql).bind(tenant.to_string()).bind(mode).execute(&mut **tx).await?;
    Ok(())
}

/// Links a tenant to its customer; `false` = nothing was done, the customer is another tenant's.
///
/// # Errors
/// Any database error.
pub async fn link(
    tx: &mut PgTransaction<'_>,
    tenant: TenantId,
    customer: &str,
) -> Result<bool, StoreError> {
    let sql = "update tenant set customer = $2 where tenant_id = $1
               and not exists (select from tenant where customer = $2 and tenant_id <> $1)";
    let done = sqlx::query(sql).bind(tenant.to_string()).bind(customer).execute(&mut **tx).await?;
    Ok(done.rows_affected() > 0)
}

/// Takes in what was decided of a tenant's access, unless something later has been: a replay brings old decisions.
///
/// # Errors
/// Any database error.
pub async fn set_standing(
    tx: &mut PgTransaction<'_>,
    tenant: TenantId,
    standing: &Standing,
    seq: u64,
) -> Result<(), StoreError> {
    let access = match standing.access {
        Access::Active => "active",
        Access::Suspended => "suspended",
    };
    let sql = "update tenant set access = $2, reason = $3, subscription = $4, plan = $5
               where tenant_id = $1 and decided_seq < $6";
    sqlx::query(sql)
        .bind(tenant.to_string())
        .bind(access)
        .bind(&standing.reason)
        .bind(&standing.subscription)
        .bind(&standing.plan)
        .bind(big(seq)?)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Remembers the last message on a tenant's subscription subject.
///
/// # Errors
/// Any database error.
pub async fn set_decided(
    tx: &mut PgTransaction<'_>,
    tenant: TenantId,
    seq: u64,
) -> Result<(), StoreError> {
    let sql = "update tenant set decided_seq = greatest(decided_seq, $2) where tenant_id = $1";
    sqlx::query(sql).bind(tenant.to_string()).bind(big(seq)?).execute(&mut **tx).await?;
    Ok(())
}

/// Remembers when a subscription began; what is known stays.
///
/// # Errors
/// Any database error.
pub async fn remember_beginning(
    pool: &PgPool,
    subscription: &str,
    began_at: Timestamp,
) -> Result<(), StoreError> {
    let sql = "insert into subscription (subscription, began_at_ms) values ($1, $2) on conflict do nothing";
    sqlx::query(sql).bind(subscription).bind(began_at.0).execute(pool).await?;
    Ok(())
}
