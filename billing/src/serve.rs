//! The process: what is started in which order, and what stops it.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use billing_core::backoff::Backoff;
use runtime::{
    health::Health,
    nats::{Nats, NatsError, SetupError, wait_for_stream},
    postgres::PostgresError,
};
use schemas::subject;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, ConfigError, ProviderKind},
    fold::chain,
    lead::lead,
    plans::{self, PlansError},
    provider::{file::FileDrop, stripe::StripeMeters},
    router::{self, Api, Desk},
    store,
    stripe::{
        Client, anchor,
        catalog::{self, Catalog, CatalogError, Meter},
    },
    webhook::Door,
    workers::{Reporting, Rules, Selling},
};

/// How long to wait for streams that the ledger makes.
const TIMEOUT: Duration = Duration::from_secs(120);
const BACKOFF: Backoff = Backoff { first_ms: 500, longest_ms: 30_000 };

/// Why the process ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("NATS")]
    Nats(#[from] NatsError),
    #[error("streams")]
    Streams(#[from] SetupError),
    #[error("PostgreSQL")]
    Postgres(#[from] PostgresError),
    #[error("HTTP")]
    Http(#[from] std::io::Error),
    #[error("plans")]
    Plans(#[from] PlansError),
    #[error("settings")]
    Config(#[from] ConfigError),
    #[error("this account cannot be billed on")]
    Catalog(#[from] CatalogError),
}

/// The client that the settings describe.
#[must_use]
pub fn client(config: &Config) -> Client {
    let timeout = Duration::from_millis(u64::from(config.stripe_timeout_ms));
    Client::new(&config.stripe_url, config.stripe_api_key(), timeout)
}

/// Serves until stopped.
///
/// # Errors
/// What could not be had at start, or a catalog that is not what the settings say.
pub async fn serve(config: Config, stop: CancellationToken) -> Result<(), ServeError> {
    match config.provider {
        ProviderKind::Stripe => by_stripe(&config, stop).await,
        ProviderKind::File => by_files(&config, stop).await,
    }
}

/// What a replay of quarantine needs, whichever the provider is.
pub enum Parts {
    Stripe(Box<Selling<StripeMeters>>),
    File(Box<Reporting<FileDrop>>),
}

/// The parts that the settings describe; Stripe is not asked for anything.
///
/// # Errors
/// What could not be had.
pub async fn parts(config: &Config) -> Result<Parts, ServeError> {
    let (pool, nats) = connect(config).await?;
    if config.provider == ProviderKind::File {
        return Ok(Parts::File(Box::new(reporting_to_files(config, pool, nats)?)));
    }
    // Nothing is sent by a replay, so the meter need not be known.
    let meter = Meter { id: String::new(), event_name: config.meter_event_name.clone() };
    let selling = selling(pool, nats, client(config), meter, rules(config)?);
    Ok(Parts::Stripe(Box::new(selling)))
}

async fn connect(config: &Config) -> Result<(PgPool, Nats), ServeError> {
    let pool = store::connect(config.postgres_url.expose()).await?;
    let nats = runtime::nats::connect(&config.nats_url, "billing").await?;
    for stream in [subject::CONTROL, subject::STRIPE, subject::LOG] {
        wait_for_stream(&nats.jetstream, stream, TIMEOUT).await?;
    }
    Ok((pool, nats))
}

fn rules(config: &Config) -> Result<Rules, ServeError> {
    let shadow = config.shadow_plans_dir.as_ref().map(|_| plans::load_with_drafts(config));
    Ok(Rules {
        book: Arc::new(plans::load(config)?),
        ladder: Arc::new(config.ladder()?),
        shadow: shadow.transpose()?.map(Arc::new),
    })
}

fn selling(
    pool: PgPool,
    nats: Nats,
    stripe: Client,
    meter: Meter,
    rules: Rules,
) -> Selling<StripeMeters> {
    let provider = Arc::new(StripeMeters::new(&stripe, meter));
    let reporting = Reporting { pool, nats, provider, wake: Arc::new(Notify::new()) };
    Selling { reporting, stripe, rules, wake: Arc::new(Notify::new()) }
}

fn reporting_to_files(
    config: &Config,
    pool: PgPool,
    nats: Nats,
) -> Result<Reporting<FileDrop>, ServeError> {
    let folder = Path::new(config.reports_dir.as_deref().unwrap_or_default());
    let provider = Arc::new(FileDrop::try_new(folder, config.meters_of_files()?)?);
    Ok(Reporting { pool, nats, provider, wake: Arc::new(Notify::new()) })
}

/// Usage is reported to Stripe. The webhook door opens at once; the workers start when Stripe's catalog has been seen.
async fn by_stripe(config: &Config, stop: CancellationToken) -> Result<(), ServeError> {
    let health = Health::default();
    health.wait_for("stripe", "its meter and price have not been seen yet");
    let rules = rules(config)?;
    let (pool, nats) = connect(config).await?;
    let stripe = client(config);
    let seen = Arc::new(OnceLock::new());
    let door = Door { nats: nats.clone(), secrets: config.webhook_secrets() };
    let api = Api {
        desk: Desk { pool: pool.clone(), operator_token: config.operator_token.clone() },
        nats: nats.clone(),
        stripe: stripe.clone(),
        catalog: Arc::clone(&seen),
        rules: rules.clone(),
    };
    let listener = runtime::serve::bind(&config.listen).await?;
    let http = tokio::spawn(runtime::serve::serve(
        listener,
        router::router(door, api, &health),
        stop.clone(),
    ));
    let work = async {
        let Some(catalog) = see_catalog(config, &stripe, &rules, &pool, &stop).await? else {
            return Ok(());
        };
        seen.get_or_init(|| catalog.clone());
        health.ready("stripe");
        let selling = selling(pool.clone(), nats, stripe.clone(), catalog.meter, rules.clone());
        lead(&pool, &stop, |term| selling.run(config, &health, term)).await;
        Ok(())
    };
    let worked = work.await;
    stop.cancel(); // Either we were told to, or the account cannot be billed on.
    http.await.map_err(std::io::Error::other)??;
    worked
}

/// Usage is reported to a folder. There is no checkout, no webhook and no statement: whoever takes the files in bills.
async fn by_files(config: &Config, stop: CancellationToken) -> Result<(), ServeError> {
    let health = Health::default();
    let (pool, nats) = connect(config).await?;
    let reporting = reporting_to_files(config, pool.clone(), nats)?;
    let desk = Desk { pool: pool.clone(), operator_token: config.operator_token.clone() };
    let listener = runtime::serve::bind(&config.listen).await?;
    let http = tokio::spawn(runtime::serve::serve(
        listener,
        router::of_files(desk, &health),
        stop.clone(),
    ));
    lead(&pool, &stop, |term| reporting.run(config, &health, term)).await;
    http.await.map_err(std::io::Error::other)??;
    Ok(())
}

/// Looks until Stripe answers; `None` = stopped before it did.
async fn see_catalog(
    config: &Config,
    stripe: &Client,
    rules: &Rules,
    pool: &PgPool,
    stop: &CancellationToken,
) -> Result<Option<Catalog>, ServeError> {
    let mut failures = 0;
    loop {
        let look = async {
            let catalog = if config.setup {
                catalog::set_up(stripe, config, &rules.book).await?
            } else {
                catalog::check(stripe, config, &rules.book).await?
            };
            anchor::check(stripe, pool).await?;
            Ok::<Catalog, CatalogError>(catalog)
        };
        let seen = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            seen = look => seen,
        };
        match seen {
            Ok(catalog) => return Ok(Some(catalog)),
            Err(error) if error.is_transient() => {
                failures += 1;
                let pause = BACKOFF.pause_ms(failures, crate::random());
                tracing::warn!(error = %chain(&error), pause_ms = pause, "Waiting for Stripe");
                tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    () = tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())) => {}
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
