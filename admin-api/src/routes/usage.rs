//! `GET /admin/usage`: what a tenant used, by hour, project, key and tool; with the ledger's count beside it.

use axum::{Json, extract::State};
use schemas::{Hour, KeyId, ProjectId, TenantId};
use serde::{Deserialize, Serialize};

use super::{
    extract::{Params, id},
    now, rfc3339,
};
use crate::{
    directory::{decide::Refusal, text},
    error::ApiError,
    read::{
        span::Span,
        usage::{Cell, Place},
    },
    router::App,
};

/// The most cells of one page.
const MAX: u32 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    tenant_id: String,
    since: String,
    until: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

#[derive(Serialize)]
pub struct UsageView {
    tenant_id: TenantId,
    /// The beginning of the first hour.
    since: String,
    /// The end of the last hour.
    until: String,
    as_of: AsOfView,
    totals: TotalsView,
    rows: Vec<RowView>,
    next: Option<String>,
    /// `null`: the ledger's read model cannot be read now.
    ledger: Option<LedgerView>,
}

#[derive(Serialize)]
struct AsOfView {
    stream_seq: u64,
    event_time: Option<String>,
    /// `null`: the log cannot be asked now.
    lag_messages: Option<u64>,
}

#[derive(Serialize)]
struct TotalsView {
    calls: u64,
    free: u64,
    refused: u64,
}

#[derive(Serialize)]
struct RowView {
    hour: String,
    project_id: ProjectId,
    key_id: KeyId,
    tool: String,
    calls: u64,
    free: u64,
    refused: u64,
}

#[derive(Serialize)]
struct LedgerView {
    calls: u64,
    as_of_seq: u64,
}

/// `GET /admin/usage?tenant_id=&since=[&until=]`.
///
/// # Errors
/// As a problem.
pub async fn read(
    State(app): State<App>,
    Params(query): Params<UsageQuery>,
) -> Result<Json<UsageView>, ApiError> {
    let tenant = id("tenant_id", &query.tenant_id)?;
    app.control.directory().tenant(tenant).ok_or(Refusal::NoTenant(tenant))?;
    let span = query.span()?;
    let after = query.after.as_deref().map(cursor).transpose()?;
    let limit = query
        .limit
        .as_deref()
        .map_or(Ok(MAX), str::parse)
        .ok()
        .filter(|limit| (1..=MAX).contains(limit));
    let limit = limit.ok_or_else(|| {
        ApiError::field("limit", format!("must be a whole number from 1 to {MAX}"))
    })?;

    // As of first: what is read after it holds at least that.
    let as_of = app.usage.as_of().await.map_err(ApiError::usage)?;
    let (totals, cells, ledger, lag) = tokio::join!(
        app.usage.totals(tenant, span),
        app.usage.cells(tenant, span, after.as_ref(), limit + 1),
        app.ledger_count(tenant, span),
        app.lag(as_of),
    );
    let (totals, mut cells) = (totals.map_err(ApiError::usage)?, cells.map_err(ApiError::usage)?);
    let limit = usize::try_from(limit).map_err(ApiError::bug)?;
    let more = cells.len() > limit;
    cells.truncate(limit);
    Ok(Json(UsageView {
        tenant_id: tenant,
        since: rfc3339(span.from.start()),
        until: rfc3339(span.to.start()),
        as_of: AsOfView {
            stream_seq: as_of.map_or(0, |as_of| as_of.stream_seq),
            event_time: as_of.map(|as_of| rfc3339(as_of.event_time)),
            lag_messages: lag,
        },
        totals: TotalsView { calls: totals.calls, free: totals.free, refused: totals.refused },
        next: cells.last().filter(|_| more).map(|cell| cursor_of(&cell.place)),
        rows: cells.into_iter().map(RowView::of).collect(),
        ledger: ledger.map(|count| LedgerView { calls: count.calls, as_of_seq: count.as_of_seq }),
    }))
}

impl UsageQuery {
    fn span(&self) -> Result<Span, ApiError> {
        let moment = |field, text: &str| {
            text::moment(text).ok_or_else(|| {
                ApiError::field(field, "must be a time in RFC 3339, as `2026-11-20T00:00:00Z`")
            })
        };
        let since = moment("since", &self.since)?;
        let until =
            self.until.as_deref().map_or_else(|| Ok(now()), |until| moment("until", until))?;
        Span::touching(since, until).map_err(|reason| ApiError::field("since", reason))
    }
}

impl RowView {
    fn of(cell: Cell) -> Self {
        let Cell { place: Place { hour, project, key, tool }, counts } = cell;
        Self {
            hour: rfc3339(hour.start()),
            project_id: project,
            key_id: key,
            tool,
            calls: counts.calls,
            free: counts.free,
            refused: counts.refused,
        }
    }
}

/// A cursor is the last cell's place: hour, project, key and, last since it may hold anything, the tool.
fn cursor_of(place: &Place) -> String {
    format!("{}.{}.{}.{}", place.hour.0, place.project, place.key, place.tool)
}

fn cursor(text: &str) -> Result<Place, ApiError> {
    let wrong = || ApiError::field("after", "must be the `next` of an earlier page");
    let mut parts = text.splitn(4, '.');
    let mut part = || parts.next().ok_or_else(wrong);
    let hour = part()?
        .parse()
        .map(Hour)
        .ok()
        .filter(|hour| (0..2_000_000).contains(&hour.0))
        .ok_or_else(wrong)?;
    let project = part()?.parse().map_err(|_| wrong())?;
    let key = part()?.parse().map_err(|_| wrong())?;
    Ok(Place { hour, project, key, tool: part()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_cursor_reads_back_whatever_the_tool_is_called() {
        for tool in ["search", "", "a.b.c", "zürich %26 \t"] {
            let (project, key) = (ProjectId(Uuid::from_u128(1)), KeyId(Uuid::from_u128(2)));
            let place = Place { hour: Hour(498_668), project, key, tool: tool.into() };
            assert_eq!(cursor(&cursor_of(&place)).unwrap(), place);
        }
        for bad in ["", "1", "x.y.z.w", "1.prj_0.key_0.t"] {
            assert!(cursor(bad).is_err(), "{bad}");
        }
    }
}
