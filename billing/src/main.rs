//! `billing serve`, `setup`, `what-if`, `shadow` and `quarantine`.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use billing::{
    config::{self, Config, ProviderKind},
    fold::chain,
    plans,
    quarantine::{self, Question},
    serve::{self, Parts},
    shadow::Shadow,
    store,
    stripe::catalog,
    what_if,
};
use chrono::{NaiveDate, NaiveTime};
use clap::{Parser, Subcommand};

/// Tollbook's billing: tells Stripe every unit once, and lets keys follow the subscription.
#[derive(Parser)]
#[command(name = "billing", version)]
struct Arguments {
    /// A TOML file with settings; `BILLING_*` variables win over it.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves until SIGTERM or SIGINT.
    Serve,
    /// Rates the real use of closed periods under another plan, or again under their own: a table, as CSV.
    WhatIf {
        /// A plan of the book, as `team@2`; left out: each period's own plan, by today's rules.
        #[arg(long)]
        plan: Option<String>,
        /// Periods that begin on this day or later, as 2028-01-01 (UTC).
        #[arg(long)]
        from: NaiveDate,
        /// And before this day.
        #[arg(long)]
        to: NaiveDate,
    },
    /// Rates every bill that was not yet by the drafts of SHADOW_PLANS_DIR and this build's rules, as rows beside the bills.
    Shadow,
    /// What could not be worked on, and what becomes of it.
    Quarantine {
        #[command(subcommand)]
        question: Question,
    },
    /// Makes meter, product and metered price at Stripe where they are missing, and checks them.
    Setup,
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::telemetry::init("billing");
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(error.as_ref()), "Billing ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = config::load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Serve => serve::serve(config, runtime::shutdown::token()?).await?,
        Command::WhatIf { plan, from, to } => {
            let named = |text: String| plans::parse(&text).ok_or(format!("`{text}` is no plan"));
            let at = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc().into();
            let plan = plan.map(named).transpose()?;
            let asked = what_if::Asked { plan, from: at(from), to: at(to) };
            let pool = store::connect(config.postgres_url.expose()).await?;
            let book = plans::load(&config)?;
            let rows = what_if::table(&pool, &book, &asked, &mut std::io::stdout().lock()).await?;
            tracing::info!(rows, "Wrote the table");
        }
        Command::Shadow => {
            let pool = store::connect(config.postgres_url.expose()).await?;
            let shadow = Shadow { pool, book: Arc::new(plans::load_with_drafts(&config)?) };
            let (differ, bills) = shadow.once().await?;
            tracing::info!(rules = shadow.rules(), bills, differ, "Rated bills by other rules");
        }
        Command::Quarantine { question } => print!("{}", answer(&config, &question).await?),
        Command::Setup if config.provider == ProviderKind::File => {
            return Err("nothing is set up where usage goes to a folder".into());
        }
        Command::Setup => {
            let book = plans::load(&config)?;
            let catalog = catalog::set_up(&serve::client(&config), &config, &book).await?;
            tracing::info!(
                meter.id = catalog.meter.id,
                price.id = catalog.price.price,
                "Stripe is set up"
            );
        }
    }
    Ok(())
}

/// What `billing quarantine` prints.
async fn answer(
    config: &Config,
    question: &Question,
) -> Result<String, Box<dyn std::error::Error>> {
    let parts = serve::parts(config).await?;
    let (pool, nats) = match &parts {
        Parts::Stripe(selling) => (&selling.reporting.pool, &selling.reporting.nats),
        Parts::File(reporting) => (&reporting.pool, &reporting.nats),
    };
    Ok(match question {
        Question::List { all } => quarantine::list(pool, *all).await?,
        Question::Show { place } => quarantine::show(pool, nats, place).await?,
        Question::Discard { place, why } => {
            quarantine::discard(pool, place, why).await?;
            quarantine::show(pool, nats, place).await?
        }
        Question::Replay { place } => {
            let again = match &parts {
                Parts::Stripe(selling) => {
                    quarantine::replay(pool, nats, &selling.folds(config), place).await?
                }
                Parts::File(reporting) => {
                    quarantine::replay(pool, nats, &reporting.folds(config), place).await?
                }
            };
            if let Some(why) = again {
                return Err(format!("it was set aside again: {why}").into());
            }
            quarantine::show(pool, nats, place).await?
        }
    })
}
