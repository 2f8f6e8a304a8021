//! Sends batches, in order, until each is certainly stored. A batch that got no certain answer is sent again as
//! it is: what it had stored drops out by itself.

use std::time::Duration;

use bytes::Bytes;
use clickhouse::{Client, error::Error};
use runtime::health::Health;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    append::{AppendError, Appender, Gap},
    batch::Batch,
    quarantine, row,
};

/// The one writer of a process.
pub struct Writer {
    events: Appender,
    quarantine: Appender,
    health: Health,
    stop: CancellationToken,
}

impl Writer {
    /// Reads where the tables stand.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn open(
        client: &Client,
        src: u16,
        health: Health,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let events = Appender::open(client, "usage_events", row::COLUMNS, src).await?;
        let quarantine = Appender::open(client, "quarantine", quarantine::COLUMNS, src).await?;
        Ok(Self { events, quarantine, health, stop })
    }

    /// The last message of the log that is stored.
    pub fn stored(&self) -> u64 {
        self.events.stored()
    }

    /// Stores batches until there are no more, or until told to stop while ClickHouse does not answer.
    ///
    /// # Errors
    /// The tables lost rows that were stored.
    pub async fn run(
        mut self,
        mut batches: mpsc::Receiver<Batch>,
        stored: watch::Sender<u64>,
    ) -> Result<(), Gap> {
        while let Some(batch) = batches.recv().await {
            let (last, rows) = (batch.last.stream_seq, batch.rows.count());
            // What cannot be read goes first: the mark must never pass it.
            if let Some((last, rows)) = batch.quarantined.into_rows()
                && !persist(&mut self.quarantine, last, &rows, &self.health, &self.stop).await?
            {
                return Ok(());
            }
            let began = Instant::now();
            if !persist(&mut self.events, last, &batch.rows.into_bytes(), &self.health, &self.stop)
                .await?
            {
                return Ok(());
            }
            metrics::histogram!("ingest_insert_seconds").record(began.elapsed().as_secs_f64());
            metrics::counter!("ingest_rows_total").increment(rows as u64);
            metrics::gauge!("ingest_stored_received_ms").set(batch.last.received_ms as f64);
            stored.send_replace(last);
        }
        Ok(())
    }
}

/// Sends rows until they are stored; `false` = told to stop first.
async fn persist(
    appender: &mut Appender,
    last: u64,
    rows: &Bytes,
    health: &Health,
    stop: &CancellationToken,
) -> Result<bool, Gap> {
    let mut trouble = Trouble::default();
    loop {
        let pause = match appender.try_append(last, rows).await {
            Ok(()) => {
                health.ready("clickhouse");
                return Ok(true);
            }
            Err(AppendError::Gap(gap)) => return Err(gap),
            Err(AppendError::Busy) => Duration::from_millis(50),
            Err(AppendError::Unknown(error)) => {
                metrics::counter!("ingest_insert_failures_total").increment(1);
                health.wait_for("clickhouse", "it does not answer as it should");
                trouble.next(&error)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Failures in a row: how long to wait, and when to say so again.
#[derive(Default)]
struct Trouble {
    failures: u32,
    told: Option<Instant>,
}

impl Trouble {
    fn next(&mut self, error: &Error) -> Duration {
        if self.told.is_none_or(|told| told.elapsed() > Duration::from_secs(30)) {
            self.told = Some(Instant::now());
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "ClickHouse did not take a batch: sending it again"
            );
        }
        self.failures += 1;
        Duration::from_millis(50u64.saturating_mul(1 << self.failures.min(6)).min(2_000))
    }
}
