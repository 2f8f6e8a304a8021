//! Puts the parts together: tables, stream, reader, writer, roller, and the three routes of health.

use std::time::Duration;

use clickhouse::Client;
use runtime::{
    health::Health,
    nats::{Nats, Reader},
};
use schemas::subject;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, IngestError, batch::Builder, incarnation, migrate, positions::Positions, pump::Pump,
    rollup::Roller, write::Writer,
};

/// How long the batch on its way may take after the word to stop.
const LAST_BATCH: Duration = Duration::from_secs(5);

/// How long the stream may take to be made, and ClickHouse to answer, at the start.
const LOG_TIMEOUT: Duration = Duration::from_secs(120);
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs ingest until `stop` is cancelled.
///
/// # Errors
/// See [`IngestError`]: what a person must look at. Trouble that may pass is waited out.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), IngestError> {
    let health = Health::default();
    health.wait_for("start", "the tables and the log are being opened");
    let listener = runtime::serve::bind(&config.listen).await?;
    let http = tokio::spawn(runtime::serve::serve(listener, health.router(), stop.clone()));
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_BATCH).await;
    };
    let result = tokio::select! {
        result = ingest(&config, &health, &stop) => result,
        () = too_long => Ok(()), // What is on its way is stored or not: the next start reads which.
    };
    stop.cancel();
    http.await??;
    result
}

async fn ingest(
    config: &Config,
    health: &Health,
    stop: &CancellationToken,
) -> Result<(), IngestError> {
    let nats = runtime::nats::connect(&config.nats_url, "ingest").await?;
    runtime::nats::wait_for_stream(&nats.jetstream, subject::LOG, LOG_TIMEOUT).await?;
    let Opened { client, src, created_ms, writer, positions, reader } =
        open_patiently(config, &nats, health, stop).await?;
    tracing::info!(src, stored = writer.stored(), "Reading the log");
    health.ready("start");

    let (batches, inbox) = mpsc::channel(1);
    let (told, stored) = watch::channel(writer.stored());
    let builder = Builder::new(src, config.batch_rows, positions);
    let flush = Duration::from_millis(config.flush_ms);
    let pump =
        Pump { nats, reader, builder, batches, flush, src, created_ms, health: health.clone() };
    let roller = Roller::new(&client, src);
    let rolled = async {
        roller
            .run(stored, Duration::from_millis(config.roll_ms), health.clone(), stop.clone())
            .await;
        Ok(())
    };
    let written = async { writer.run(inbox, told).await.map_err(IngestError::from) };
    tokio::try_join!(pump.run(stop.clone()), written, rolled).map(|_| ())
}

/// All that must be there before the first message is read.
struct Opened {
    client: Client,
    src: u16,
    created_ms: i64,
    writer: Writer,
    positions: Positions,
    reader: Reader,
}

/// Opens tables and log, again and again while someone does not answer, for [`START_TIMEOUT`].
async fn open_patiently(
    config: &Config,
    nats: &Nats,
    health: &Health,
    stop: &CancellationToken,
) -> Result<Opened, IngestError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match open(config, nats, health, stop).await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "Not open yet: trying again"
                );
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            other => return other,
        }
    }
}

async fn open(
    config: &Config,
    nats: &Nats,
    health: &Health,
    stop: &CancellationToken,
) -> Result<Opened, IngestError> {
    let client = migrate::migrate(config.clickhouse_url.expose()).await?;
    let created_ms = created_ms(nats).await?;
    let src =
        incarnation::src_of(&client, subject::LOG, created_ms, config.accept_new_stream).await?;
    // The marks before the positions: a row that another process stores in between is then known, not new.
    let writer = Writer::open(&client, src, health.clone(), stop.clone()).await?;
    let positions = Positions::load(&client).await?;
    let reader = Reader::open(nats, subject::LOG, &[], writer.stored()).await?;
    Ok(Opened { client, src, created_ms, writer, positions, reader })
}

async fn created_ms(nats: &Nats) -> Result<i64, IngestError> {
    let stream = nats
        .jetstream
        .get_stream(subject::LOG)
        .await
        .map_err(|e| IngestError::Stream(Box::new(e)))?;
    let nanos = stream.cached_info().created.unix_timestamp_nanos();
    Ok(i64::try_from(nanos / 1_000_000).unwrap_or(0)) // As the reader says it.
}
