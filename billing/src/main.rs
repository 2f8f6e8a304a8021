//! `billing serve`, `billing setup` and `billing what-if`.

use std::{path::PathBuf, process::ExitCode};

use billing::{config, fold::chain, plans, serve, store, stripe::catalog, what_if};
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
