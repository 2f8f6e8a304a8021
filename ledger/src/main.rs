//! `ledger serve`, and the questions that people ask: see the crate's README.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use ledger::questions::{self, Question};

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
    #[command(flatten)]
    Ask(Question),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { command } = Args::parse();
    runtime::telemetry::init("ledger");
    match command {
        Command::Serve { config } => serve(config).await,
        Command::Ask(question) => ask(question).await,
    }
}

async fn serve(config: Option<PathBuf>) -> ExitCode {
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

/// 0 = all is as it should be, 1 = bad news, 2 = no answer.
async fn ask(question: Question) -> ExitCode {
    let no_answer = ExitCode::from(2);
    match questions::answer(question).await {
        Ok(answer) => match std::io::stdout().lock().write_all(answer.text.as_bytes()) {
            Ok(()) if answer.good => ExitCode::SUCCESS,
            Ok(()) => ExitCode::FAILURE,
            Err(_) => no_answer, // Nobody reads any more.
        },
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "No answer: {error}");
            no_answer
        }
    }
}

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    tracing::error!(error, "The ledger stops");
    ExitCode::FAILURE
}
