//! What prices at the provider stand for.

use billing_core::plan::PlanRef;
use sqlx::PgPool;

use super::{StoreError, corrupt};

/// A price at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    pub price: String,
    /// Whether it bills what a meter counted.
    pub metered: bool,
    /// The charge of a plan of the book that it collects, if it says so.
    pub stands_for: Option<(PlanRef, String)>,
}

/// Remembers a price; one that is known stays as it is.
///
/// # Errors
/// Any database error.
pub async fn remember(pool: &PgPool, price: &Price) -> Result<(), StoreError> {
    let sql = "insert into price (price, metered, plan, version, charge) values ($1, $2, $3, $4, $5) on conflict do nothing";
    let (plan, charge) = price.stands_for.clone().unzip();
    sqlx::query(sql)
        .bind(&price.price)
        .bind(price.metered)
        .bind(plan.as_ref().map(|plan| &plan.plan))
        .bind(plan.as_ref().map(|plan| i64::from(plan.version)))
        .bind(charge)
        .execute(pool)
        .await?;
    Ok(())
}

/// A price, if it was seen before.
///
/// # Errors
/// Any database error.
pub async fn read(pool: &PgPool, price: &str) -> Result<Option<Price>, StoreError> {
    let sql = "select metered, plan, version, charge from price where price = $1";
    type Row = (bool, Option<String>, Option<i64>, Option<String>);
    let row: Option<Row> = sqlx::query_as(sql).bind(price).fetch_optional(pool).await?;
    let Some((metered, plan, version, charge)) = row else { return Ok(None) };
    let price = price.to_owned();
    Ok(Some(Price { price, metered, stands_for: stands_for(plan, version, charge)? }))
}

/// A plan's charge from its columns.
pub(super) fn stands_for(
    plan: Option<String>,
    version: Option<i64>,
    charge: Option<String>,
) -> Result<Option<(PlanRef, String)>, StoreError> {
    let (Some(plan), Some(version), Some(charge)) = (plan, version, charge) else {
        return Ok(None);
    };
    let version = u32::try_from(version).map_err(|error| corrupt("price", "version", error))?;
    Ok(Some((PlanRef { plan, version }, charge)))
}
