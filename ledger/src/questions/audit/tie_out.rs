//! Ledger = ClickHouse: units by tenant, hour and meter, compared over the very same messages.
//!
//! The ledger's hours are read at one snapshot, with its checkpoint of each shard. ClickHouse is asked for the rows of
//! each shard up to that checkpoint. Where its own mark lies below, the messages between are read from the log, and
//! the tenants and hours that they count for are left out: lag is told as lag, never as a difference.

use std::collections::HashSet;

use clickhouse::{Client, query::RowCursor};
use futures::{StreamExt, TryStreamExt, stream};
use schemas::{Hour, Shard, TenantId};
use sqlx::{PgPool, Postgres, Transaction};

use crate::{
    questions::{QuestionError, merge::merge},
    store::unsigned,
};

/// A tenant, an hour and a meter of which the two say different things. Unit: units of the meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub tenant: String,
    pub hour: Hour,
    pub meter: String,
    pub ledger: u64,
    pub clickhouse: u64,
}

/// Both sides, held at one place.
pub(super) struct TieOut {
    snapshot: Transaction<'static, Postgres>,
    client: Client,
    /// The number of this log in ClickHouse; `None` = it has read nothing of it.
    src: Option<u16>,
    /// Everything at or below it is in ClickHouse.
    pub mark: u64,
    /// The ledger's checkpoints, by shard; 0 = none.
    checkpoints: Vec<u64>,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Tied {
    pub compared: u64,
    /// Left out, since ClickHouse has not read all that counts for them.
    pub left_out: u64,
    pub differences: Vec<Difference>,
}

impl TieOut {
    /// Takes the ledger's snapshot and then ClickHouse's mark.
    ///
    /// # Errors
    /// PostgreSQL or ClickHouse.
    pub async fn open(
        pool: &PgPool,
        url: &str,
        created_ms: i64,
        shards: u16,
    ) -> Result<Self, QuestionError> {
        let mut snapshot = pool.begin().await?;
        sqlx::query("set transaction isolation level repeatable read, read only")
            .execute(&mut *snapshot)
            .await?;
        let found: Vec<(i32, i64)> =
            sqlx::query_as("select shard, seq from checkpoint").fetch_all(&mut *snapshot).await?;
        let mut checkpoints = vec![0; usize::from(shards)];
        for (shard, seq) in found {
            if let Some(place) = usize::try_from(shard).ok().and_then(|at| checkpoints.get_mut(at))
            {
                *place = unsigned(seq);
            }
        }
        let client = runtime::clickhouse::client(url)?;
        let src = src_of(&client, created_ms).await?;
        let mark = match src {
            Some(src) => {
                const MARK: &str =
                    "SELECT max(stream_seq) FROM usage_events WHERE src = {src:UInt16}";
                client.query_raw(MARK).param("src", src).fetch_one().await?
            }
            None => 0,
        };
        Ok(Self { snapshot, client, src, mark, checkpoints })
    }

    /// The ledger's checkpoint of a shard at the snapshot.
    pub fn checkpoint(&self, shard: Shard) -> u64 {
        self.checkpoints.get(usize::from(shard.0)).copied().unwrap_or(0)
    }

    /// Compares all hours from `since` on, except those `touched` by messages that ClickHouse has not read.
    ///
    /// # Errors
    /// PostgreSQL or ClickHouse.
    pub async fn compare(
        mut self,
        since: Hour,
        touched: &HashSet<(TenantId, Hour)>,
    ) -> Result<Tied, QuestionError> {
        let theirs = self.clickhouse_hours(since)?;
        let ours = ledger_hours(&mut self.snapshot, since);
        let mut tied = Tied::default();
        merge(ours, theirs, |(tenant, hour, meter), ledger, clickhouse| {
            let known = tenant.parse().ok().map(|tenant: TenantId| (tenant, Hour(hour)));
            if known.is_some_and(|cell| touched.contains(&cell)) {
                tied.left_out += 1;
                return;
            }
            tied.compared += 1;
            if ledger != clickhouse {
                let (ledger, clickhouse) = (ledger.unwrap_or(0), clickhouse.unwrap_or(0));
                let hour = Hour(hour);
                tied.differences.push(Difference { tenant, hour, meter, ledger, clickhouse });
            }
        })
        .await?;
        Ok(tied)
    }

    fn clickhouse_hours(&self, since: Hour) -> Result<Cells<'static>, QuestionError> {
        // A shard's rows up to its checkpoint: arrays count from 1, and an index past the end gives 0. An event that
        // a person released has no position and no shard; the ones that the ledger had not folded are left out.
        const CELLS: &str = "SELECT tenant, hour, pair.1 AS meter, sum(pair.2) AS units FROM ( \
               SELECT concat('tnt_', replaceAll(toString(tenant_id), '-', '')) AS tenant, \
                 intDiv(toUnixTimestamp64Milli(at), 3600000) AS hour, \
                 arrayJoin(arrayConcat([('tool_calls', tool_calls)], \
                   arrayZip(arrayMap(name -> toString(name), mapKeys(quantities)), mapValues(quantities)))) AS pair \
               FROM usage_events WHERE src = {src:UInt16} AND at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC') \
                 AND (toString(record) = 'usage' AND stream_seq <= {upto:Array(UInt64)}[shard + 1] \
                   OR toString(record) = 'released' AND stream_seq <= {mark:UInt64})) \
             WHERE pair.2 > 0 GROUP BY tenant, hour, meter ORDER BY tenant, hour, meter";
        let Some(src) = self.src else { return Ok(stream::empty().boxed()) };
        let query = self.client.query_raw(CELLS);
        let query = query.param("src", src).param("since", since.start().0);
        let cursor: RowCursor<(String, i64, String, u64)> =
            query.param("upto", self.checkpoints.clone()).param("mark", self.mark).fetch()?;
        let rows = stream::try_unfold(cursor, |mut cursor| async move {
            let row = cursor.next().await?;
            Ok(row.map(|row| (row, cursor)))
        });
        Ok(rows.map_ok(|(tenant, hour, meter, units)| ((tenant, hour, meter), units)).boxed())
    }
}

type Cell = ((String, i64, String), u64);
type Cells<'a> = stream::BoxStream<'a, Result<Cell, QuestionError>>;

fn ledger_hours<'a>(snapshot: &'a mut Transaction<'static, Postgres>, since: Hour) -> Cells<'a> {
    const CELLS: &str = "select tenant_id, hour, meter, sum(quantity)::bigint from hour_total where hour >= $1
        group by tenant_id, hour, meter order by tenant_id collate \"C\", hour, meter collate \"C\"";
    sqlx::query_as::<_, (String, i64, String, i64)>(CELLS)
        .bind(since.0)
        .fetch(&mut **snapshot)
        .map_ok(|(tenant, hour, meter, units)| ((tenant, hour, meter), unsigned(units)))
        .map_err(QuestionError::from)
        .boxed()
}

/// Which life of `LOG` ClickHouse knows as this one.
async fn src_of(client: &Client, created_ms: i64) -> Result<Option<u16>, QuestionError> {
    const SRC: &str = "SELECT src FROM stream_incarnations WHERE stream = 'LOG' \
                       AND toUnixTimestamp64Milli(created_at) = {created:Int64} ORDER BY src DESC LIMIT 1";
    Ok(client.query_raw(SRC).param("created", created_ms).fetch_optional().await?)
}
