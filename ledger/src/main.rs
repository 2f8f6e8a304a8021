//! `ledger serve`: see the crate's README.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Counts every call once and grants leases that no quota is overshot by.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Owns shards and serves them until SIGTERM.
    Serve {
        /// A TOML file of settings; `LEDGER_*` variables win over it.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { command: Command::Serve { config } } = Args::parse();
    runtime::telemetry::init("ledger");
    let config = match ledger::config::Config::load(config.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    let stop = match runtime::shutdown::token() {
        Ok(stop) => stop,
        Err(error) => return fail(&error),
    };
    match ledger::run(config, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    tracing::error!(error, "The ledger stops");
    ExitCode::FAILURE
}
