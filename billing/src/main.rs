//! `billing serve` and `billing setup`.

use std::{path::PathBuf, process::ExitCode};

use billing::{config, fold::chain, serve, stripe::catalog};
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
        Command::Setup => {
            let catalog = catalog::set_up(&serve::client(&config), &config).await?;
            tracing::info!(
                meter.id = catalog.meter.id,
                price.id = catalog.price,
                "Stripe is set up"
            );
        }
    }
    Ok(())
}
