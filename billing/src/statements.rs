//! `GET /billing/statements`, `/billing/discrepancies`, `/billing/preview`: what is owed, what differs, what will be.
//!
//! Absent on purpose: changing anything. A statement is closed by its period's end, never by a request.

use std::fmt::Write as _;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use billing_core::{
    forecast,
    invoice::{Bill, UsageLine, rate_bill},
};
use chrono::{Months, NaiveDate, NaiveTime};
use schemas::{Quantity, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    clock::now,
    problem::Problem,
    router::{Api, authorize},
    statement::rate::{self, Terms, Unrated},
    store::{
        StoreError,
        checkpoint::{self, Projection},
        statement::{
            Key, bill,
            look::{self, Shown},
            usage::{self, Used},
        },
        subscribed::{self, Subscribed},
    },
};

/// Whose statements, of which month.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    tenant_id: TenantId,
    /// `YYYY-MM`: periods that begin in this month of UTC; absent = all.
    #[serde(default)]
    period: Option<String>,
    /// `json` or `csv`.
    #[serde(default)]
    format: Option<String>,
}

/// One statement with its bills.
#[derive(Serialize)]
struct Statement {
    #[serde(flatten)]
    shown: Shown,
    bills: Vec<BillShown>,
}

/// One revision of a bill, exactly as it was frozen.
#[derive(Serialize)]
struct BillShown {
    revision: u32,
    digest: String,
    total_minor: i64,
    difference_minor: i64,
    units: Quantity,
    made_at_ms: i64,
    collection: &'static str,
    provider_id: Option<String>,
    bill: Option<Box<RawValue>>,
}

/// The statements of a tenant, as JSON with their bills or as CSV.
pub async fn read(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Problem> {
    authorize(&api.desk, &headers)?;
    let Query(asked) = query.map_err(|rejection| Problem::BadRequest(rejection.body_text()))?;
    let (from, to) = match &asked.period {
        Some(month) => span(month)
            .ok_or_else(|| Problem::BadRequest(format!("`{month}` is not a month as 2028-02")))?,
        None => (i64::MIN, i64::MAX),
    };
    let postgres = |error: StoreError| Problem::dependency("PostgreSQL", error);
    let shown =
        look::of_tenant(&api.desk.pool, asked.tenant_id, from, to).await.map_err(postgres)?;
    match asked.format.as_deref() {
        Some("csv") => {
            Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], csv(&shown)).into_response())
        }
        None | Some("json") => {
            let mut statements = Vec::with_capacity(shown.len());
            for one in shown {
                statements.push(with_bills(&api, asked.tenant_id, one).await.map_err(postgres)?);
            }
            Ok(Json(serde_json::json!({ "tenant_id": asked.tenant_id, "statements": statements }))
                .into_response())
        }
        Some(other) => Err(Problem::BadRequest(format!("`{other}` is neither json nor csv"))),
    }
}

async fn with_bills(api: &Api, tenant: TenantId, shown: Shown) -> Result<Statement, StoreError> {
    let (subscription, from) = (shown.subscription.clone(), Timestamp(shown.from_ms));
    let bills = bill::all(&api.desk.pool, &Key { tenant, subscription, from }).await?;
    let bills = bills.into_iter().map(|stored| BillShown {
        revision: stored.revision,
        digest: stored.digest,
        total_minor: stored.total.units(),
        difference_minor: stored.difference.units(),
        units: stored.units,
        made_at_ms: stored.made_at.0,
        collection: stored.collection.word(),
        provider_id: stored.provider_id,
        bill: RawValue::from_string(stored.text).ok(),
    });
    Ok(Statement { bills: bills.collect(), shown })
}

/// The month of UTC as a half-open span in milliseconds.
fn span(month: &str) -> Option<(i64, i64)> {
    let first = NaiveDate::parse_from_str(&format!("{month}-01"), "%Y-%m-%d").ok()?;
    let next = first.checked_add_months(Months::new(1))?;
    let at = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
    (month.len() == 7).then(|| (at(first), at(next)))
}

/// Statements as CSV (RFC 4180): one row each, times in UTC, amounts in minor units.
#[must_use]
pub fn csv(rows: &[Shown]) -> String {
    let mut text = "tenant_id,subscription,from,to,currency,state,revision,invoice,ledger_units,summary_units,\
        invoiced_units,carried_units,expected_minor,invoiced_minor,corrected_minor,verdict,owner\r\n"
        .to_owned();
    for row in rows {
        let time = |ms: i64| Timestamp(ms).to_string();
        // No field can hold a comma or a quotation mark: ids, words and numbers.
        let _ = write!(
            text,
            "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\r\n",
            row.tenant_id,
            row.subscription,
            time(row.from_ms),
            time(row.to_ms),
            row.currency,
            row.state,
            row.revision,
            row.invoice.as_deref().unwrap_or_default(),
            row.ledger_units,
            row.summary_units,
            row.invoiced_units,
            row.carried_units,
            row.expected_minor,
            row.invoiced_minor,
            row.corrected_minor,
            row.verdict,
            row.owner,
        );
    }
    text
}

/// Whose discrepancies.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apart {
    /// `operator`, `engineering`, `finance`; absent = all.
    #[serde(default)]
    owner: Option<String>,
}

/// The statements on which somebody has to act.
pub async fn discrepancies(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Result<Query<Apart>, QueryRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    authorize(&api.desk, &headers)?;
    let Query(asked) = query.map_err(|rejection| Problem::BadRequest(rejection.body_text()))?;
    let rows = look::apart(&api.desk.pool, asked.owner.as_deref())
        .await
        .map_err(|error| Problem::dependency("PostgreSQL", error))?;
    Ok(Json(serde_json::json!({ "discrepancies": rows })))
}

/// Whose running period.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    tenant_id: TenantId,
}

/// A running period: what it has come to, and what it will if use goes on as it has.
#[derive(Serialize)]
pub struct Preview {
    subscription: String,
    from_ms: i64,
    to_ms: i64,
    as_of_ms: i64,
    /// The sequence of `LOG` that the use is true of.
    stream_seq: u64,
    units: Quantity,
    /// Minimums are left out: the period is not over.
    so_far: Option<Bill>,
    forecast_units: Quantity,
    forecast: Option<Bill>,
    /// How the forecast is made.
    rule: &'static str,
    /// Why there is no bill.
    unrated: Option<String>,
}

const RULE: &str = "units so far x length of the period / time passed, rounded down; what is still to come at the period's last plan";

/// Previews of all running periods of a tenant.
pub async fn preview(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Result<Query<Whose>, QueryRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    authorize(&api.desk, &headers)?;
    let Query(Whose { tenant_id }) =
        query.map_err(|rejection| Problem::BadRequest(rejection.body_text()))?;
    let postgres = |error: StoreError| Problem::dependency("PostgreSQL", error);
    let all = subscribed::of_tenant(&api.desk.pool, tenant_id).await.map_err(postgres)?;
    let mut previews = Vec::new();
    for one in all.iter().filter(|one| one.ended_at.is_none() && !one.never_began()) {
        previews.push(of_one(&api, one, now()).await.map_err(postgres)?);
    }
    Ok(Json(serde_json::json!({ "tenant_id": tenant_id, "previews": previews })))
}

async fn of_one(api: &Api, of: &Subscribed, at: Timestamp) -> Result<Preview, StoreError> {
    let stream_seq = checkpoint::read(&api.desk.pool, Projection::Log).await?.0;
    let period = of.period_at(at).unwrap_or(schemas::Period { from: at, to: at });
    let used = usage::of_period(&api.desk.pool, of.tenant, period).await?;
    let units = Quantity(used.iter().map(|line| line.quantity.0).fold(0, u64::saturating_add));
    let terms = subscribed::terms_of(&api.desk.pool, of).await?;
    let by = Terms { book: &api.rules.book, subscribed: of, terms: &terms };
    let mut preview = Preview {
        subscription: of.subscription.clone(),
        from_ms: period.from.0,
        to_ms: period.to.0,
        as_of_ms: at.0,
        stream_seq,
        units,
        so_far: None,
        forecast_units: units,
        forecast: None,
        rule: RULE,
        unrated: None,
    };
    match bills(&by, of, period, &used, at, stream_seq) {
        Ok((so_far, forecast, to_come)) => {
            preview.forecast_units = Quantity(units.0.saturating_add(to_come.0));
            (preview.so_far, preview.forecast) = (Some(so_far), Some(forecast));
        }
        Err(why) => preview.unrated = Some(why.to_string()),
    }
    Ok(preview)
}

fn bills(
    by: &Terms<'_>,
    of: &Subscribed,
    period: schemas::Period,
    used: &[Used],
    at: Timestamp,
    folded: u64,
) -> Result<(Bill, Bill, Quantity), Unrated> {
    let frame = rate::running(of, period);
    let lines: Vec<&Used> = used.iter().collect();
    let log = rate::log_range(&lines, folded);
    let mut usage: Vec<UsageLine> = lines.iter().map(|line| line.line()).collect();
    let so_far =
        rate_bill(by.book, &rate::statement(by, &frame, usage.clone(), log.clone(), false)?)?;
    let mut meters: Vec<_> = usage.iter().map(|line| line.meter.clone()).collect();
    meters.sort();
    meters.dedup();
    let mut to_come = Quantity::ZERO;
    for meter in meters {
        let of_meter = used.iter().filter(|line| line.meter == meter).map(|line| line.quantity.0);
        let sum = Quantity(of_meter.fold(0, u64::saturating_add));
        let quantity =
            forecast::to_come(sum, period, at).map_err(billing_core::invoice::BillError::from)?;
        usage.push(UsageLine { meter, at: period.to.plus_ms(-1), quantity });
        to_come = Quantity(to_come.0.saturating_add(quantity.0));
    }
    let forecast = rate_bill(by.book, &rate::statement(by, &frame, usage, log, true)?)?;
    Ok((so_far, forecast, to_come))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_a_half_open_span() {
        assert_eq!(span("1970-01"), Some((0, 31 * 86_400_000)));
        let (from, to) = span("2028-02").unwrap();
        assert_eq!((to - from) / 86_400_000, 29);
        for wrong in ["2028-13", "2028-2", "2028", "28-02", "2028-02-01", ""] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }
}
