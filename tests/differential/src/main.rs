//! `differential --differential N` and `differential --fairness SECONDS`; `deploy/test` builds and runs it.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use differential::{
    Failure, Found,
    answers::Answers,
    fairness,
    requests::{self, Requests},
    rig::Rig,
};

/// Looks for differences between what is delivered and what is counted.
#[derive(Parser)]
struct Flags {
    /// Runs this many generated cases, half of them answers and half of them requests.
    #[arg(long, value_name = "N", conflicts_with = "fairness")]
    differential: Option<u64>,
    /// Measures a client that calls steadily, alone and beside others that do bad things, for this long in all.
    #[arg(long, value_name = "SECONDS")]
    fairness: Option<u64>,
    /// The seed of the cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first case; alone it is the only one.
    #[arg(long)]
    case: Option<u64>,
    /// Only one of the two tests.
    #[arg(long, value_parser = ["answers", "requests"])]
    only: Option<String>,
    /// Is the child of the requests' test, and tells at this address what it ran.
    #[arg(long, hide = true)]
    lenient_stdio: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Flags::parse()).await {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("differential: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    if let Some(told_at) = &flags.lenient_stdio {
        requests::over_stdio(told_at)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(seconds) = flags.fairness {
        let rig = Rig::start().await?;
        let figures = fairness::run(&rig, Duration::from_secs(seconds)).await?;
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(ExitCode::SUCCESS);
    }
    let (cases, first) = match (flags.differential, flags.case) {
        (Some(cases), first) => (cases, first.unwrap_or(0)),
        (None, first) => (2, first.unwrap_or(0)),
    };
    let only = flags.only.as_deref();
    let cases_of = |test: &str, half: u64| match only {
        Some(only) if only == test => cases,
        Some(_) => 0,
        None => half,
    };
    let (of_answers, of_requests) =
        (cases_of("answers", cases / 2), cases_of("requests", cases - cases / 2));
    let rig = Rig::start().await?;
    let (mut answers, mut requests) = (Found::default(), Found::default());
    if of_requests > 0 {
        let own_binary = std::env::current_exe()?;
        requests =
            Requests::start(&rig, &own_binary).await?.run(flags.seed, first, of_requests).await?;
    }
    if of_answers > 0 {
        answers = Answers::start(&rig).await?.run(flags.seed, first, of_answers).await?;
    }
    let differences = answers.differences + requests.differences;
    println!(
        r#"{{"answers":{},"requests":{},"differences":{differences}}}"#,
        answers.cases, requests.cases
    );
    Ok(if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
