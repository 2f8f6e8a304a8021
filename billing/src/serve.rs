//! The process: what is started in which order, and what stops it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use billing_core::{backoff::Backoff, dunning::Ladder, plan::Book};
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
    access::Access,
    collect::Collect,
    config::{Config, ConfigError},
    control::Control,
    fold::{self, chain},
    lead::lead,
    outbox::Outbox,
    pace::Pace,
    plans::{self, PlansError},
    provider::stripe::StripeMeters,
    router::{self, Api},
    statement::Statements,
    store,
    stripe::{
        Client,
        catalog::{self, Catalog, CatalogError},
    },
    sweep::Sweep,
    webhook::Door,
    work::Work,
};

/// How long to wait for streams that the ledger makes.
const PATIENCE: Duration = Duration::from_secs(120);
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
    Client::new(&config.stripe_url, config.stripe_api_key.clone(), timeout)
}

/// Serves until stopped. The webhook door opens at once; the workers start when Stripe's catalog has been seen.
///
/// # Errors
/// What could not be had at start, or a catalog that is not what the settings say.
pub async fn serve(config: Config, stop: CancellationToken) -> Result<(), ServeError> {
    let health = Health::default();
    health.wait_for("stripe", "its meter and price have not been seen yet");
    let rules = Rules { book: Arc::new(plans::load(&config)?), ladder: Arc::new(config.ladder()?) };
    let pool = store::connect(config.postgres_url.expose()).await?;
    let nats = runtime::nats::connect(&config.nats_url, "billing").await?;
    for stream in [subject::CONTROL, subject::STRIPE, subject::LOG] {
        wait_for_stream(&nats.jetstream, stream, PATIENCE).await?;
    }
    let stripe = client(&config);
    let catalog = Arc::new(OnceLock::new());
    let door = Door { nats: nats.clone(), secrets: config.webhook_secrets() };
    let api = Api {
        pool: pool.clone(),
        nats: nats.clone(),
        stripe: stripe.clone(),
        operator_token: config.operator_token.clone(),
        catalog: Arc::clone(&catalog),
        book: Arc::clone(&rules.book),
    };
    let listener = runtime::serve::bind(&config.listen).await?;
    let http = tokio::spawn(runtime::serve::serve(
        listener,
        router::router(door, api, &health),
        stop.clone(),
    ));
    let worked = work(&config, &pool, &nats, &stripe, &catalog, &health, &rules, &stop).await;
    stop.cancel(); // Either we were told to, or the account cannot be billed on.
    http.await.map_err(std::io::Error::other)??;
    worked
}

/// What is decided by: read once, at the start.
struct Rules {
    book: Arc<Book>,
    ladder: Arc<Ladder>,
}

#[expect(clippy::too_many_arguments, reason = "what is made at the start is handed on")]
async fn work(
    config: &Config,
    pool: &PgPool,
    nats: &Nats,
    stripe: &Client,
    seen: &OnceLock<Catalog>,
    health: &Health,
    rules: &Rules,
    stop: &CancellationToken,
) -> Result<(), ServeError> {
    let Some(catalog) = see_catalog(config, stripe, &rules.book, stop).await? else {
        return Ok(());
    };
    seen.get_or_init(|| catalog.clone());
    health.ready("stripe");
    let wake = Arc::new(Notify::new());
    let provider = Arc::new(StripeMeters::new(stripe, catalog.meter));
    lead(pool, stop, |term| run(config, pool, nats, stripe, health, &provider, &wake, rules, term))
        .await;
    Ok(())
}

/// Looks until Stripe answers; `None` = stopped before it did.
async fn see_catalog(
    config: &Config,
    stripe: &Client,
    book: &Book,
    stop: &CancellationToken,
) -> Result<Option<Catalog>, ServeError> {
    let mut failures = 0;
    loop {
        let look = async {
            if config.setup {
                catalog::set_up(stripe, config, book).await
            } else {
                catalog::check(stripe, config, book).await
            }
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

/// All that only the leading process does.
#[expect(clippy::too_many_arguments, reason = "the one place where everything meets")]
async fn run(
    config: &Config,
    pool: &PgPool,
    nats: &Nats,
    stripe: &Client,
    health: &Health,
    provider: &Arc<StripeMeters>,
    wake: &Arc<Notify>,
    rules: &Rules,
    term: CancellationToken,
) {
    let account = config.account();
    let control =
        Control { pool: pool.clone(), account: account.clone(), outbox: Arc::clone(wake) };
    let collect = Collect {
        pool: pool.clone(),
        account: account.clone(),
        provider: Arc::clone(provider),
        outbox: Arc::clone(wake),
    };
    let (pool_, nats_, stripe_) = (pool.clone(), nats.clone(), stripe.clone());
    let access = Access {
        pool: pool_,
        nats: nats_,
        stripe: stripe_,
        ladder: Arc::clone(&rules.ladder),
        heals: false,
    };
    let wake_statements = Arc::new(Notify::new());
    let events = Work {
        pool: pool.clone(),
        access: access.clone(),
        stripe: stripe.clone(),
        statements: Arc::clone(&wake_statements),
        live: account.live,
    };
    let statements = Statements {
        pool: pool.clone(),
        nats: nats.clone(),
        stripe: stripe.clone(),
        provider: Arc::clone(provider),
        book: Arc::clone(&rules.book),
        access: access.clone(),
        every_ms: config.statements_every_ms,
        quiet_ms: config.correct_after_ms,
        wake: wake_statements,
    };
    let outbox = Arc::new(Outbox {
        pool: pool.clone(),
        provider: Arc::clone(provider),
        pace: Pace::new(config.reports_per_s),
        in_flight: usize::from(config.reports_in_flight),
        wake: Arc::clone(wake),
    });
    let sweep = Sweep {
        pool: pool.clone(),
        nats: nats.clone(),
        stripe: stripe.clone(),
        access: Access { heals: true, ..access.clone() },
        schedule: config.sweep_cron.clone(),
        stuck_after_ms: config.stuck_after_ms,
    };
    tokio::join!(
        fold::run(&control, nats, pool, health, term.clone()),
        fold::run(&collect, nats, pool, health, term.clone()),
        fold::run(&events, nats, pool, health, term.clone()),
        outbox.run(term.clone()),
        statements.run(term.clone()),
        sweep.run(term.clone()),
    );
}
