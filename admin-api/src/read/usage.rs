//! Usage from ClickHouse's hourly rollup. Every query names its tenant, and none can write.

use clickhouse::{Client, Row, error::Error};
use schemas::{Hour, KeyId, ProjectId, TenantId, Timestamp};
use serde::Deserialize;
use uuid::Uuid;

use super::span::Span;

/// The rollup, for reading.
#[derive(Clone)]
pub struct Usage {
    client: Client,
}

/// Up to where the rollup holds everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// A sequence of `LOG`.
    pub stream_seq: u64,
    /// When the log stored that message.
    pub event_time: Timestamp,
}

/// Calls in three kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Billable.
    pub calls: u64,
    /// Answered, not billable.
    pub free: u64,
    pub refused: u64,
}

/// One cell of the rollup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    pub place: Place,
    pub counts: Counts,
}

/// Which cell; in this order cells are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub hour: Hour,
    pub project: ProjectId,
    pub key: KeyId,
    pub tool: String,
}

/// One tool in one stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Counts from 0 at the span's beginning.
    pub index: usize,
    pub tool: String,
    pub counts: Counts,
}

/// One tool over a whole span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolUse {
    pub tool: String,
    pub counts: Counts,
    /// Half of the answers took no longer. Unit: milliseconds.
    pub p50_ms: u32,
    /// 95 of 100 answers took no longer. Unit: milliseconds.
    pub p95_ms: u32,
}

const WHERE: &str = "FROM usage_hour WHERE tenant_id = {tenant:UUID} \
                     AND hour >= toDateTime({from:UInt32}, 'UTC') AND hour < toDateTime({to:UInt32}, 'UTC')";
const SUMS: &str = "sum(calls), sum(free), sum(refused)";

impl Usage {
    /// Nothing is sent yet.
    pub fn new(client: &Client) -> Self {
        let client = client
            .clone()
            .with_setting("readonly", "2")
            .with_setting("max_execution_time", "10")
            .with_setting("max_memory_usage", "1000000000");
        Self { client }
    }

    /// How far the rollup has come; `None` = nothing was ever rolled. What is read after it holds at least that.
    ///
    /// # Errors
    /// ClickHouse does not answer, or ingest has not made its tables.
    pub async fn as_of(&self) -> Result<Option<AsOf>, Error> {
        const QUERY: &str = "SELECT max(stream_seq), toUnixTimestamp64Milli(max(received_at)) FROM rollup_progress \
                             WHERE rollup = 'usage_hour' GROUP BY src ORDER BY src DESC LIMIT 1";
        let found: Option<(u64, i64)> = self.client.query_raw(QUERY).fetch_optional().await?;
        Ok(found.map(|(stream_seq, ms)| AsOf { stream_seq, event_time: Timestamp(ms) }))
    }

    /// The sums over a span.
    ///
    /// # Errors
    /// As [`Self::as_of`].
    pub async fn totals(&self, tenant: TenantId, span: Span) -> Result<Counts, Error> {
        let (calls, free, refused) =
            self.ask(&format!("SELECT {SUMS} {WHERE}"), tenant, span).fetch_one().await?;
        Ok(Counts { calls, free, refused })
    }

    /// At most `limit` cells behind `after`, in order.
    ///
    /// # Errors
    /// As [`Self::as_of`].
    pub async fn cells(
        &self,
        tenant: TenantId,
        span: Span,
        after: Option<&Place>,
        limit: u32,
    ) -> Result<Vec<Cell>, Error> {
        let behind = after.map_or("", |_| {
            "AND (hour, project_id, key_id, tool) > (toDateTime({after_hour:UInt32}, 'UTC'), \
             {after_project:UUID}, {after_key:UUID}, {after_tool:String})"
        });
        let query = format!(
            "SELECT toUnixTimestamp(hour) AS at, project_id, key_id, toString(tool) AS name, {SUMS} {WHERE} {behind} \
             GROUP BY hour, project_id, key_id, tool ORDER BY hour, project_id, key_id, tool LIMIT {limit}"
        );
        let mut query = self.ask(&query, tenant, span);
        if let Some(Place { hour, project, key, tool }) = after {
            let (second, _) = Span { from: *hour, to: *hour }.seconds();
            query = query.param("after_hour", second).param("after_project", project.0.to_string());
            query = query.param("after_key", key.0.to_string()).param("after_tool", tool);
        }
        let found: Vec<CellRow> = query.fetch_all().await?;
        Ok(found.into_iter().map(CellRow::cell).collect())
    }

    /// Each tool in each stretch of `hours` hours; stretches without usage are left out.
    ///
    /// # Errors
    /// As [`Self::as_of`].
    pub async fn stretches(
        &self,
        tenant: TenantId,
        span: Span,
        hours: u32,
    ) -> Result<Vec<Stretch>, Error> {
        let query = format!(
            "SELECT toUInt32(intDiv(toUnixTimestamp(hour) - {{from:UInt32}}, {seconds})) AS stretch, \
             toString(tool) AS name, {SUMS} {WHERE} GROUP BY stretch, tool ORDER BY stretch, tool",
            seconds = hours.saturating_mul(3600)
        );
        let found: Vec<(u32, String, u64, u64, u64)> =
            self.ask(&query, tenant, span).fetch_all().await?;
        let stretch = |(index, tool, calls, free, refused): (u32, String, u64, u64, u64)| Stretch {
            index: usize::try_from(index).unwrap_or(usize::MAX),
            tool,
            counts: Counts { calls, free, refused },
        };
        Ok(found.into_iter().map(stretch).collect())
    }

    /// Each tool over the span, the most used first, at most `limit`.
    ///
    /// # Errors
    /// As [`Self::as_of`].
    pub async fn tools(
        &self,
        tenant: TenantId,
        span: Span,
        limit: u32,
    ) -> Result<Vec<ToolUse>, Error> {
        let query = format!(
            "SELECT toString(tool) AS name, sum(calls) AS billable, sum(free), sum(refused) AS turned_away, \
             toUInt32(ifNotFinite(quantilesTimingMerge(0.5, 0.95, 0.99)(duration)[1], 0)), \
             toUInt32(ifNotFinite(quantilesTimingMerge(0.5, 0.95, 0.99)(duration)[2], 0)) \
             {WHERE} GROUP BY tool ORDER BY billable DESC, turned_away DESC, name LIMIT {limit}"
        );
        let found: Vec<(String, u64, u64, u64, u32, u32)> =
            self.ask(&query, tenant, span).fetch_all().await?;
        let tool =
            |(tool, calls, free, refused, p50_ms, p95_ms): (String, u64, u64, u64, u32, u32)| {
                ToolUse { tool, counts: Counts { calls, free, refused }, p50_ms, p95_ms }
            };
        Ok(found.into_iter().map(tool).collect())
    }

    fn ask(&self, query: &str, tenant: TenantId, span: Span) -> clickhouse::query::Query {
        let (from, to) = span.seconds();
        self.client
            .query_raw(query)
            .param("tenant", tenant.0.to_string())
            .param("from", from)
            .param("to", to)
    }
}

#[derive(Row, Deserialize)]
struct CellRow {
    at: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    project_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    key_id: Uuid,
    name: String,
    #[serde(rename = "sum(calls)")]
    calls: u64,
    #[serde(rename = "sum(free)")]
    free: u64,
    #[serde(rename = "sum(refused)")]
    refused: u64,
}

impl CellRow {
    fn cell(self) -> Cell {
        let hour = Timestamp(i64::from(self.at) * 1000).hour();
        let (project, key) = (ProjectId(self.project_id), KeyId(self.key_id));
        let counts = Counts { calls: self.calls, free: self.free, refused: self.refused };
        Cell { place: Place { hour, project, key, tool: self.name }, counts }
    }
}
