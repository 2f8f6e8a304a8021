//! The admin-api process: `admin-api serve [--config FILE]`. Settings are `ADMIN_*` variables, see `admin_api::config`.

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Commands and reads for operators, and the usage page")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT.
    Serve {
        /// A TOML file of settings; variables of the environment go before it.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Serve { config } = Arguments::parse().command;
    runtime::telemetry::init("admin-api");
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = error.as_ref(), "Stopped: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(file: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let config = admin_api::config::load(file.as_deref())?;
    let stop = runtime::shutdown::token()?;
    Ok(admin_api::run(config, stop).await?)
}
