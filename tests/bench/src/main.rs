//! `bench NAME`: measures one thing, prints what it saw, and last one line of JSON, which it also writes to
//! `target/bench/NAME.json`. `deploy/bench` builds and runs it; the READMEs of `ledger` and `mcp-node` have the figures.
//!
//! Every load is bounded and ends by itself; every process that is started ends with this one. What is compared is
//! measured in one run, in turns, and the median of the rounds counts, since machines are noisy.

#![expect(clippy::float_arithmetic, reason = "a measure is a float; no count and no money is here")]

mod baseline;
mod billing;
mod conformance;
mod decision;
mod fold;
mod machine;
mod node;
mod quota;
mod rebuild;
mod report;
mod revocation;
mod rig;
mod tenants;
mod traffic;

use std::process::ExitCode;

/// Why a measurement could not be made, or what it showed to be broken.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["fold"] => fold::run().await,
        ["baseline"] => baseline::run().await,
        ["decision"] => decision::run(),
        ["quota"] => quota::run().await,
        ["rebuild"] => rebuild::run().await,
        ["billing"] => billing::run().await,
        ["node"] => node::run().await,
        ["conformance"] => conformance::run().await,
        ["revocation"] => revocation::run().await,
        ["mcp-server", listen] => node::upstream::over_http(listen).await,
        ["mcp-server-stdio"] => node::upstream::over_stdio(),
        ["quota-node", settings @ ..] => quota::node::run(settings).await,
        _ => {
            eprintln!(
                "bench: fold, baseline, decision, quota, rebuild, node, conformance, revocation or billing"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {}", report::causes(failure.as_ref()));
            ExitCode::FAILURE
        }
    }
}
