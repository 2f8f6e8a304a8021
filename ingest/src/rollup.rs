//! The hourly rollup, pulled from the raw rows behind its own marks.
//!
//! One INSERT rolls one month: it reads that month's mark inside the statement, sums the raw rows past it, and
//! writes the new mark in the same part. So a killed server, a lost answer or a second roller leave every cell
//! either rolled once or not yet. A part holds one month because the table is partitioned by it.

use std::time::Duration;

use clickhouse::{Client, error::Error};
use runtime::health::Health;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::append::code_of;

/// Rolls `usage_hour` for one life of the stream.
pub struct Roller {
    client: Client,
    src: u16,
    /// Everything up to here is rolled, in every month.
    rolled: u64,
}

/// How many messages one INSERT sums at most: it bounds the memory of a first roll over a long log.
const STEP: u64 = 100_000;
const ROLL_TIMEOUT: Duration = Duration::from_secs(300);
const NIL: &str = "toUUID('00000000-0000-0000-0000-000000000000')";

impl Roller {
    /// A roller that knows nothing yet: its first pass looks at every month.
    pub fn new(client: &Client, src: u16) -> Self {
        let query_id = format!("ingest:{}.usage_hour:{src}", client.database().unwrap_or_default());
        let client = client
            .clone()
            .with_setting("query_id", query_id)
            .with_setting("async_insert", "0")
            .with_setting("max_insert_threads", "1")
            .with_setting("min_insert_block_size_rows", "100000000")
            .with_setting("min_insert_block_size_bytes", "0");
        Self { client, src, rolled: 0 }
    }

    /// Rolls whenever more is stored, at most every `pause`, until told to stop.
    pub async fn run(
        mut self,
        mut stored: watch::Receiver<u64>,
        pause: Duration,
        health: Health,
        stop: CancellationToken,
    ) {
        let mut failing = false;
        loop {
            let target = *stored.borrow_and_update();
            let began = Instant::now();
            if target > self.rolled {
                tokio::select! {
                    () = stop.cancelled() => return,
                    result = self.roll(target) => failing = report(result, failing, &health),
                }
            }
            let wait = async {
                tokio::time::sleep_until(began + pause).await;
                if self.rolled >= target { stored.changed().await.is_ok() } else { true }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                more = wait => if !more { return },
            }
        }
    }

    /// Rolls everything up to the message `target`, which must be stored.
    ///
    /// # Errors
    /// When ClickHouse does not answer as it should; what was rolled stays, the next call goes on.
    pub async fn roll(&mut self, target: u64) -> Result<(), Error> {
        for (month, first, last) in self.months(target).await? {
            let mut top = first.saturating_add(STEP).min(target);
            loop {
                self.roll_month(month, top).await?;
                if top >= last {
                    break;
                }
                top = top.saturating_add(STEP).min(target);
            }
        }
        self.note_progress(target).await?;
        self.rolled = target;
        Ok(())
    }

    /// The months with rows that may not be rolled yet, with their first and last message.
    async fn months(&self, target: u64) -> Result<Vec<(u32, u64, u64)>, Error> {
        let Self { src, rolled, .. } = self;
        let query = format!(
            "SELECT toYYYYMM(at) AS month, min(stream_seq), max(stream_seq) FROM usage_events \
             WHERE src = {src} AND stream_seq > {rolled} AND stream_seq <= {target} \
             AND record IN ('usage', 'refused', 'released') GROUP BY month ORDER BY month"
        );
        // A plain read: it must not carry the name that keeps INSERTs apart.
        self.client.clone().with_setting("query_id", "").query_raw(&query).fetch_all().await
    }

    async fn roll_month(&self, month: u32, top: u64) -> Result<(), Error> {
        let Self { src, .. } = self;
        let first_day = format!("{:04}-{:02}-01 00:00:00", month / 100, month % 100);
        let statement = format!(
            "INSERT INTO usage_hour (tenant_id, project_id, key_id, tool, hour, src, calls, free, refused, \
               bytes_in, bytes_out, seq_hi, duration) \
             WITH (SELECT max(seq_hi) FROM usage_hour WHERE tenant_id = {NIL} AND src = {src} \
                   AND toYYYYMM(hour) = {month}) AS low \
             SELECT tenant_id, project_id, key_id, tool, toStartOfHour(at) AS cell, src, \
               sum(tool_calls), countIf(record = 'usage' AND tool_calls = 0), sumIf(calls, record = 'refused'), \
               sum(bytes_in), sum(bytes_out), max(stream_seq), \
               quantilesTimingStateIf(0.5, 0.95, 0.99)(\
                 toUInt32(least(intDiv(duration_us, 1000), 4294967295)), record = 'usage') \
             FROM usage_events \
             WHERE src = {src} AND toYYYYMM(at) = {month} AND stream_seq > low AND stream_seq <= {top} \
               AND record IN ('usage', 'refused', 'released') \
             GROUP BY tenant_id, project_id, key_id, tool, cell, src \
             UNION ALL \
             SELECT {NIL}, {NIL}, {NIL}, '', toDateTime('{first_day}', 'UTC'), toUInt16({src}), \
               toUInt64(0), toUInt64(0), toUInt64(0), toUInt64(0), toUInt64(0), toUInt64({top}), \
               quantilesTimingStateIf(0.5, 0.95, 0.99)(toUInt32(0), 0) FROM system.one"
        );
        self.insert(&statement).await
    }

    async fn note_progress(&self, target: u64) -> Result<(), Error> {
        let Self { src, .. } = self;
        let statement = format!(
            "INSERT INTO rollup_progress (rollup, src, stream_seq, received_at) \
             SELECT 'usage_hour', toUInt16({src}), toUInt64({target}), max(received_at) \
             FROM usage_events WHERE src = {src} AND stream_seq = {target}"
        );
        self.insert(&statement).await
    }

    /// Runs an INSERT, waiting for another of the same name (an earlier attempt, another process) to end.
    async fn insert(&self, statement: &str) -> Result<(), Error> {
        const SAME_QUERY_ID: u32 = 216;
        let deadline = Instant::now() + ROLL_TIMEOUT;
        loop {
            let run = self.client.query_raw(statement).execute();
            match tokio::time::timeout(ROLL_TIMEOUT, run).await.map_err(|_| Error::TimedOut)? {
                Err(error)
                    if code_of(&error) == Some(SAME_QUERY_ID) && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => return other,
            }
        }
    }
}

/// Says how a roll went, a failure once in a row of them; `true` = it failed.
fn report(result: Result<(), Error>, failing: bool, health: &Health) -> bool {
    let Err(error) = result else {
        health.ready("rollup");
        return false;
    };
    metrics::counter!("ingest_roll_failures_total").increment(1);
    if !failing {
        tracing::warn!(error = &error as &dyn std::error::Error, "The rollup failed: trying again");
        health.wait_for("rollup", "ClickHouse does not answer as it should");
    }
    true
}
