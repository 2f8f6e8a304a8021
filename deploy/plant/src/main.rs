//! `tollbook-up`: the whole of Tollbook on this machine, with a demo tenant and real calls. `deploy/up` builds and runs it.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use plant::{
    Calls, Demo, Plant, PlantError, PlantSettings, Ties, live, make_calls, provision, wait_for_ties,
};
use stack::Folder;
use tokio::signal::unix::{SignalKind, signal};

/// Starts everything, lets a demo tenant subscribe, makes real calls and shows where they went.
#[derive(Parser)]
struct Args {
    /// Does it all once, prints one line of JSON, and ends: 0 only if every number agrees.
    #[arg(long)]
    once: bool,
    /// Keeps the data in this folder; without it, the data is dropped at the end.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How many calls are made. The demo key's quota is three fifths of it.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(5..=100_000))]
    calls: u64,
    /// Puts the node in front of the MCP server over stdio instead of HTTP.
    #[arg(long)]
    stdio: bool,
}

/// How long the numbers may take to agree, with room for a slow machine.
const TIMEOUT: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match asked_to_end() {
        Ok(ended) => ended,
        Err(error) => return fail(&format!("cannot listen to signals: {error}")),
    };
    let mut ended = std::pin::pin!(ended);
    let begun = Instant::now();
    let risen = tokio::select! {
        risen = rise(&args, begun) => risen,
        // Dropping the rise ends every process that it started.
        () = &mut ended => return ExitCode::from(130),
    };
    let outcome = match risen {
        Ok(risen) if args.once => risen.report(begun).await,
        Ok(risen) => risen.stay(ended).await,
        Err(error) => Err(error),
    };
    outcome.map_or_else(|error| fail(&error.report()), |()| ExitCode::SUCCESS)
}

fn fail(text: &str) -> ExitCode {
    eprintln!("\n{text}");
    ExitCode::FAILURE
}

fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
    })
}

/// Everything runs, calls were made, and all numbers agree.
struct Risen {
    plant: Plant,
    demo: Demo,
    calls: Calls,
    ties: Ties,
}

async fn rise(args: &Args, begun: Instant) -> Result<Risen, PlantError> {
    let step = |text: &str| eprintln!("{:>6.1} s  {text}", begun.elapsed().as_secs_f32());
    let folder = match &args.data {
        Some(path) => Folder::named(path)?,
        None => Folder::temporary()?,
    };
    let settings = PlantSettings { stdio: args.stdio, ..PlantSettings::default() };
    let plant = Plant::start(&folder, settings, |text| step(&format!("starting {text}"))).await?;
    let quota = args.calls * 3 / 5;
    step("a tenant subscribes at a simulated checkout; its keys become active by webhook");
    let demo = provision(&plant, "Demo", quota).await?;
    step(&format!("{} calls with the official MCP client, on a quota of {quota}", args.calls));
    let calls =
        make_calls(&plant, 0, &demo.limited.secret, args.calls, |line| step(&format!("  {line}")))
            .await?;
    let wanted = (quota, args.calls - quota);
    if (calls.succeeded, calls.refused, calls.failed) != (wanted.0, wanted.1, 0) {
        return Err(PlantError::Unexpected(format!(
            "the quota of {quota} was not met exactly: {calls:?}"
        )));
    }
    step("the client's count, the ledger, ClickHouse and Stripe must agree");
    let ties = wait_for_ties(&plant, &demo.tenant, wanted, TIMEOUT).await?;
    step(&format!(
        "{} calls answered, counted and billed; {} refused",
        calls.succeeded, calls.refused
    ));
    Ok(Risen { plant, demo, calls, ties })
}

impl Risen {
    async fn report(self, begun: Instant) -> Result<(), PlantError> {
        let Self { plant, calls, ties, .. } = self;
        plant.stop().await?;
        println!(
            "{}",
            serde_json::json!({ "calls": calls.succeeded, "ledger": ties.ledger, "clickhouse": ties.clickhouse,
                "stripe": ties.stripe, "refused": calls.refused, "seconds": begun.elapsed().as_secs() })
        );
        Ok(())
    }

    async fn stay(self, ended: impl Future<Output = ()>) -> Result<(), PlantError> {
        live(&self.plant, &self.demo, ended).await?;
        self.plant.stop().await
    }
}
