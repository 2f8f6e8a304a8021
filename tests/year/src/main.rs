//! A scripted year of 50 tenants: at its end ledger, Stripe's sums, invoices and corrections agree, to unit and cent.
//!
//! Real NATS, real PostgreSQL, the simulated Stripe and the real billing worker in this process, whose time stands
//! where the simulated Stripe's does. Usage goes through the ledger's own fold and seals. Everything happens in an order
//! that follows from the seed. The last line of the output is the result; the exit code is 0 only without a difference.

mod books;
mod ledger;
mod random;
mod rig;
mod run;
mod script;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Plays a year of billing and lays all books together.
#[derive(Parser)]
#[command(name = "year")]
struct Arguments {
    /// The same seed plays the same year.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 50)]
    tenants: usize,
    /// How many months, from January 2028 on.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=24))]
    months: u32,
    /// Where the table of all tenants and months goes.
    #[arg(long, default_value = "target/year.csv")]
    csv: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::telemetry::init("year");
    let arguments = Arguments::parse();
    match run::year(arguments.seed, arguments.tenants, arguments.months, &arguments.csv).await {
        Ok(result) => {
            for difference in &result.differences {
                eprintln!("{difference}");
            }
            println!("{}", result.line());
            if result.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the year broke off: {error}");
            ExitCode::FAILURE
        }
    }
}
