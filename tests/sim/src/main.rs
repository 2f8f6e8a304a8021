//! `sim --seeds N`: runs N seeds and prints, last, `{"seeds":N,"steps":S,"violations":V}`; exit 0 only if V is 0.

use std::process::ExitCode;

use clap::Parser;
use sim::{Bug, run};

/// Runs the simulation.
#[derive(Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs with a deliberate mistake, to see that it is caught.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    /// Ends at the first violation.
    #[arg(long)]
    first: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (mut steps, mut violations) = (0, 0u64);
    for seed in args.from..args.from.saturating_add(args.seeds) {
        match run(seed, args.bug) {
            Ok(taken) => steps += taken,
            Err(violation) => {
                violations += 1;
                eprintln!("seed {seed}: {}", violation.0);
                if args.first {
                    break;
                }
            }
        }
    }
    println!(
        "{}",
        serde_json::json!({ "seeds": args.seeds, "steps": steps, "violations": violations })
    );
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
