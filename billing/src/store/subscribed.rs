//! Subscriptions as the provider's copy was last read, which plans they were seen on, and the periods that follow.

use std::collections::HashMap;

use billing_core::{
    plan::PlanRef,
    proration::Term,
    term::{Sighting, terms},
};
use schemas::{Period, PeriodRule, TenantId, Timestamp};
use sqlx::{FromRow, PgPool};

use super::{StoreError, corrupt};

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    pub subscription: String,
    pub tenant: TenantId,
    pub customer: String,
    pub status: String,
    pub began_at: Timestamp,
    pub anchor: Timestamp,
    /// Months of a period. Range: 1 to 120.
    pub months: u8,
    pub currency: String,
    pub trial_until: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// When the period began that the provider has it in.
    pub current_from: Timestamp,
    /// Everything before this has a statement.
    pub stated_to: Timestamp,
}

#[derive(FromRow)]
struct SubscribedRow {
    subscription: String,
    tenant_id: String,
    customer: String,
    status: String,
    began_at_ms: i64,
    anchor_ms: i64,
    months: i32,
    currency: String,
    trial_until_ms: Option<i64>,
    ended_at_ms: Option<i64>,
    current_from_ms: i64,
    stated_to_ms: i64,
}

impl TryFrom<SubscribedRow> for Subscribed {
    type Error = StoreError;

    fn try_from(row: SubscribedRow) -> Result<Self, StoreError> {
        Ok(Self {
            tenant: row.tenant_id.parse().map_err(|e| corrupt("subscribed", "tenant_id", e))?,
            subscription: row.subscription,
            customer: row.customer,
            status: row.status,
            began_at: Timestamp(row.began_at_ms),
            anchor: Timestamp(row.anchor_ms),
            months: u8::try_from(row.months).map_err(|e| corrupt("subscribed", "months", e))?,
            currency: row.currency,
            trial_until: row.trial_until_ms.map(Timestamp),
            ended_at: row.ended_at_ms.map(Timestamp),
            current_from: Timestamp(row.current_from_ms),
            stated_to: Timestamp(row.stated_to_ms),
        })
    }
}

impl Subscribed {
    /// The whole cycle that holds a moment, from anchor to anchor; `None` beyond the calendar.
    #[must_use]
    pub fn cycle_at(&self, at: Timestamp) -> Option<Period> {
        let rule = PeriodRule::Anchored { from: self.anchor, months: self.months };
        rule.period_at(at, "UTC").ok()
    }

    /// The part of the cycle that holds a moment and that the subscription covers.
    #[must_use]
    pub fn period_at(&self, at: Timestamp) -> Option<Period> {
        let cycle = self.cycle_at(at)?;
        let to = self.ended_at.map_or(cycle.to, |end| end.min(cycle.to));
        Some(Period { from: cycle.from.max(self.began_at), to })
    }

    /// What invoices may be for in the period that begins at a moment: up to the cycle's end, though the subscription ends
    /// before, since what is given back then is for the rest of the cycle.
    #[must_use]
    pub fn asked_in(&self, period: Period) -> Period {
        let cycle = self.cycle_at(period.from);
        Period { from: period.from, to: cycle.map_or(period.to, |cycle| cycle.to.max(period.to)) }
    }

    /// Whether it never came to be: its first payment was not made.
    #[must_use]
    pub fn never_began(&self) -> bool {
        matches!(self.status.as_str(), "incomplete" | "incomplete_expired")
    }
}

/// Remembers what was read, and when the first period without a statement ends.
///
/// # Errors
/// Any database error.
pub async fn remember(
    pool: &PgPool,
    found: &Subscribed,
    read_at: Timestamp,
) -> Result<(), StoreError> {
    let sql = "insert into subscribed (subscription, tenant_id, customer, status, began_at_ms, anchor_ms, months,
                   currency, trial_until_ms, ended_at_ms, stated_to_ms, next_end_ms, read_at_ms, current_from_ms)
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $5, $11, $12, $13)
               on conflict (subscription) do update set status = $4, anchor_ms = $6, months = $7, trial_until_ms = $9,
                   ended_at_ms = $10, read_at_ms = $12, current_from_ms = $13 where subscribed.read_at_ms <= $12";
    sqlx::query(sql)
        .bind(&found.subscription)
        .bind(found.tenant.to_string())
        .bind(&found.customer)
        .bind(&found.status)
        .bind(found.began_at.0)
        .bind(found.anchor.0)
        .bind(i32::from(found.months))
        .bind(&found.currency)
        .bind(found.trial_until.map(|at| at.0))
        .bind(found.ended_at.map(|at| at.0))
        .bind(next_end(found, found.began_at))
        .bind(read_at.0)
        .bind(found.current_from.0)
        .execute(pool)
        .await?;
    // Its end, or another anchor, may have changed when the open period ends.
    if let Some(stored) = read(pool, &found.subscription).await? {
        let sql =
            "update subscribed set next_end_ms = $2 where subscription = $1 and stated_to_ms = $3";
        sqlx::query(sql)
            .bind(&found.subscription)
            .bind(next_end(&stored, stored.stated_to))
            .bind(stored.stated_to.0)
            .execute(pool)
            .await?;
    }
    Ok(())
}

/// When the period that begins at `from` ends; never, once the subscription is over or never was.
pub(super) fn next_end(found: &Subscribed, from: Timestamp) -> i64 {
    let over = found.ended_at.is_some_and(|end| from >= end) || found.never_began();
    let period = if over { None } else { found.period_at(from) };
    period.map_or(i64::MAX, |period| period.to.0)
}

/// One subscription.
///
/// # Errors
/// Any database error.
pub async fn read(pool: &PgPool, subscription: &str) -> Result<Option<Subscribed>, StoreError> {
    let sql = "select * from subscribed where subscription = $1";
    let row: Option<SubscribedRow> =
        sqlx::query_as(sql).bind(subscription).fetch_optional(pool).await?;
    row.map(Subscribed::try_from).transpose()
}

/// All subscriptions of a tenant, the oldest first.
///
/// # Errors
/// Any database error.
pub async fn of_tenant(pool: &PgPool, tenant: TenantId) -> Result<Vec<Subscribed>, StoreError> {
    let sql = "select * from subscribed where tenant_id = $1 order by began_at_ms, subscription";
    let rows: Vec<SubscribedRow> =
        sqlx::query_as(sql).bind(tenant.to_string()).fetch_all(pool).await?;
    rows.into_iter().map(Subscribed::try_from).collect()
}

/// Subscriptions of which a period has ended that has no statement yet, at most `max`.
///
/// Ended by our clock and by the provider's word: its copy is over, or in a later period.
///
/// # Errors
/// Any database error.
pub async fn ended(pool: &PgPool, now: Timestamp, max: i64) -> Result<Vec<Subscribed>, StoreError> {
    let sql = "select * from subscribed
               where next_end_ms <= $1 and (current_from_ms >= next_end_ms or ended_at_ms <= next_end_ms)
               order by next_end_ms limit $2";
    let rows: Vec<SubscribedRow> =
        sqlx::query_as(sql).bind(now.0).bind(max).fetch_all(pool).await?;
    rows.into_iter().map(Subscribed::try_from).collect()
}

/// Customers with a subscription that is not over and was last read before a moment, or of which only a decision is
/// known; at most `max`, the oldest first.
///
/// # Errors
/// Any database error.
pub async fn unread_since(
    pool: &PgPool,
    since: Timestamp,
    max: i64,
) -> Result<Vec<String>, StoreError> {
    let sql = "select customer from (
                   select customer, max(read_at_ms) as read_at_ms from subscribed
                   where ended_at_ms is null and status <> 'incomplete_expired' group by customer
                   union all
                   select customer, 0 from tenant
                   where customer is not null and subscription is not null
                     and not exists (select from subscribed where subscribed.customer = tenant.customer)) living
               where read_at_ms < $1 order by read_at_ms limit $2";
    Ok(sqlx::query_scalar(sql).bind(since.0).bind(max).fetch_all(pool).await?)
}

/// Living subscriptions whose periods are counted from inside an hour, as (customer, subscription).
///
/// # Errors
/// Any database error.
pub async fn anchored_inside_an_hour(pool: &PgPool) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "select customer, subscription from subscribed
               where ended_at_ms is null and status <> 'incomplete_expired' and anchor_ms % 3600000 <> 0
               order by subscription";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}

/// Remembers that a subscription was on a plan at a moment. The same again changes nothing.
///
/// # Errors
/// Any database error.
pub async fn saw(pool: &PgPool, subscription: &str, seen: &Sighting) -> Result<(), StoreError> {
    let sql = "insert into plan_seen (subscription, at_ms, plan, version) values ($1, $2, $3, $4) on conflict do nothing";
    sqlx::query(sql)
        .bind(subscription)
        .bind(seen.at.0)
        .bind(&seen.plan.plan)
        .bind(i64::from(seen.plan.version))
        .execute(pool)
        .await?;
    Ok(())
}

/// The terms that all sightings of a subscription amount to.
///
/// # Errors
/// Any database error.
pub async fn terms_of(pool: &PgPool, found: &Subscribed) -> Result<Vec<Term>, StoreError> {
    let of = [found.subscription.as_str()];
    let seen = sightings(pool, &of).await?.remove(&found.subscription);
    Ok(terms(found.began_at, seen.unwrap_or_default()))
}

/// Subscriptions with the terms of each, in two round trips; those that are not known are left out.
///
/// # Errors
/// Any database error.
pub async fn with_terms(
    pool: &PgPool,
    subscriptions: &[&str],
) -> Result<HashMap<String, (Subscribed, Vec<Term>)>, StoreError> {
    let names: Vec<String> = subscriptions.iter().map(ToString::to_string).collect();
    let sql = "select * from subscribed where subscription = any($1)";
    let rows: Vec<SubscribedRow> = sqlx::query_as(sql).bind(names).fetch_all(pool).await?;
    let mut seen = sightings(pool, subscriptions).await?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        let one = Subscribed::try_from(row)?;
        let terms = terms(one.began_at, seen.remove(&one.subscription).unwrap_or_default());
        found.insert(one.subscription.clone(), (one, terms));
    }
    Ok(found)
}

async fn sightings(
    pool: &PgPool,
    subscriptions: &[&str],
) -> Result<HashMap<String, Vec<Sighting>>, StoreError> {
    let names: Vec<String> = subscriptions.iter().map(ToString::to_string).collect();
    let sql =
        "select subscription, at_ms, plan, version from plan_seen where subscription = any($1)";
    let rows: Vec<(String, i64, String, i64)> =
        sqlx::query_as(sql).bind(names).fetch_all(pool).await?;
    let mut seen: HashMap<String, Vec<Sighting>> = HashMap::new();
    for (subscription, at, plan, version) in rows {
        let version = u32::try_from(version).map_err(|e| corrupt("plan_seen", "version", e))?;
        let sighting = Sighting { at: Timestamp(at), plan: PlanRef { plan, version } };
        seen.entry(subscription).or_default().push(sighting);
    }
    Ok(seen)
}
