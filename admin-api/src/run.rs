//! Puts the parts together and serves until told to stop.

use std::{sync::Arc, time::Duration};

use runtime::{
    health::Health,
    nats::{Nats, ReadError},
};
use schemas::subject;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    auth::{Fingerprint, session::Sessions},
    control::{Control, Follower},
    pages::live::Live,
    read::{ledger::Ledger, usage::Usage},
    router::{App, router},
};

/// Why admin-api stopped or did not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("the ClickHouse URL")]
    Url(#[from] runtime::clickhouse::UrlError),
    #[error("the ledger's database")]
    Postgres(#[from] runtime::postgres::PostgresError),
    #[error(transparent)]
    Nats(#[from] runtime::nats::NatsError),
    #[error(transparent)]
    Setup(#[from] runtime::nats::SetupError),
    #[error("the stream LOG does not say how many shards it has")]
    Shards,
    #[error("reading CONTROL: {0}")]
    Control(#[from] ReadError),
    #[error("listening")]
    Listen(#[from] std::io::Error),
}

/// How long the streams may take to be made by the ledger, and NATS to answer at the start.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs until `stop` is cancelled.
///
/// # Errors
/// See [`AdminError`].
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AdminError> {
    let health = Health::default();
    let clickhouse = runtime::clickhouse::client(config.clickhouse_url.expose())?;
    let pool = runtime::postgres::connect_read_only(config.postgres_url.expose(), "ledger").await?;
    let nats = runtime::nats::connect(&config.nats_url, "admin-api").await?;
    for stream in [subject::CONTROL, subject::LOG] {
        runtime::nats::wait_for_stream(&nats.jetstream, stream, TIMEOUT).await?;
    }
    let shards = shards(&nats).await?;
    let (control, follower) = open_control(&nats, &health).await?;

    let listener = runtime::serve::bind(&config.listen).await?;
    let public_url = if config.public_url.is_empty() {
        format!("http://{}", listener.local_addr()?)
    } else {
        config.public_url.clone()
    };
    let usage = Usage::new(&clickhouse);
    let app = App {
        control,
        live: Live::start(usage.clone(), stop.clone()),
        usage,
        ledger: Ledger::new(pool, shards),
        nats,
        sessions: Sessions::new(public_url.starts_with("https://")),
        public_url: Arc::from(public_url),
        stop: stop.clone(),
    };
    let router = router(app, Fingerprint::of(config.operator_token.expose().trim()), &health);
    let served = async {
        runtime::serve::serve(listener, router, stop.clone()).await.map_err(AdminError::from)
    };
    let followed = async { follower.run(stop.clone()).await.map_err(AdminError::from) };
    tokio::try_join!(served, followed).map(|_| ())
}

async fn shards(nats: &Nats) -> Result<u16, AdminError> {
    let found =
        runtime::nats::stream_metadata(&nats.jetstream, subject::LOG, subject::SHARDS_METADATA)
            .await?;
    found.and_then(|text| text.parse().ok()).filter(|shards| *shards > 0).ok_or(AdminError::Shards)
}

/// Builds the directory, again while NATS does not answer.
async fn open_control(nats: &Nats, health: &Health) -> Result<(Control, Follower), AdminError> {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        match Control::open(nats.clone(), health.clone()).await {
            Err(error) if error.is_transient() && tokio::time::Instant::now() < deadline => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "CONTROL cannot be read yet: trying again"
                );
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            other => return Ok(other?),
        }
    }
}
