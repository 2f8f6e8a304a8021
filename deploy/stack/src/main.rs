//! `stack`: the supervisor by hand. `stack parts` starts the parts and shows where they are;
//! `stack fetch` fills the cache and starts nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use stack::{
    Cache, ClickHouse, Folder, McpServer, McpTools, Nats, Part, Postgres, Row, StackError,
    StripeSim, table,
};
use tokio::signal::unix::{SignalKind, signal};

/// Starts the parts that Tollbook stands on as child processes on free loopback ports.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Starts the parts, prints one table, and stops them at Ctrl-C.
    Parts {
        /// Keeps the data in this folder; without it, the data is dropped at the end.
        #[arg(long)]
        data: Option<PathBuf>,
        /// Starts only these.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<Kind>,
        /// Prints the table as one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetches everything into the cache and starts nothing.
    Fetch,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Nats,
    Postgres,
    Clickhouse,
    StripeSim,
    McpServer,
}

/// The parts that run; dropping it ends them.
#[derive(Default)]
struct Parts {
    nats: Option<Nats>,
    postgres: Option<Postgres>,
    clickhouse: Option<ClickHouse>,
    stripe_sim: Option<StripeSim>,
    mcp_server: Option<McpServer>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Action::Parts { data, only, json } => {
            let only = if only.is_empty() { Kind::value_variants().to_vec() } else { only };
            parts(data, &only, json).await
        }
        Action::Fetch => fetch().await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn parts(data: Option<PathBuf>, only: &[Kind], json: bool) -> Result<(), StackError> {
    let asked_to_end = asked_to_end()?;
    let folder = match data {
        Some(path) => Folder::named(&path)?,
        None => Folder::temporary()?,
    };
    let mut asked_to_end = std::pin::pin!(asked_to_end);
    let mut parts = tokio::select! {
        parts = Parts::start(&folder, only) => parts?,
        () = &mut asked_to_end => return Ok(()), // What has started ends with the dropped future.
    };
    let rows = parts.rows(&folder);
    if json {
        println!(
            "{}",
            serde_json::to_string(&rows).map_err(|error| {
                StackError::new("stack", "the table cannot be written as JSON").caused_by(error)
            })?
        );
    } else {
        print!("{}", table(&rows));
        println!("Ctrl-C stops them.");
    }
    asked_to_end.await;
    parts.stop().await
}

/// Ends when a person or a supervisor asks this process to end.
fn asked_to_end() -> Result<impl Future<Output = ()>, StackError> {
    let failed = |error| StackError::new("stack", "cannot listen to signals").caused_by(error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
    })
}

impl Parts {
    async fn start(folder: &Folder, only: &[Kind]) -> Result<Self, StackError> {
        let mut parts = Self::default();
        for kind in only {
            match kind {
                Kind::Nats => parts.nats = Some(Nats::start(folder).await?),
                Kind::Postgres => parts.postgres = Some(Postgres::start(folder).await?),
                Kind::Clickhouse => parts.clickhouse = Some(ClickHouse::start(folder).await?),
                Kind::StripeSim => parts.stripe_sim = Some(StripeSim::start(folder).await?),
                Kind::McpServer => parts.mcp_server = Some(McpServer::start(folder).await?),
            }
        }
        Ok(parts)
    }

    fn rows(&self, folder: &Folder) -> Vec<Row> {
        let Self { nats, postgres, clickhouse, stripe_sim, mcp_server } = self;
        let rows = [
            nats.as_ref().map(|part| Row::of(part, folder)),
            postgres.as_ref().map(|part| Row::of(part, folder)),
            clickhouse.as_ref().map(|part| Row::of(part, folder)),
            stripe_sim.as_ref().map(|part| Row::of(part, folder)),
            mcp_server.as_ref().map(|part| Row::of(part, folder)),
        ];
        rows.into_iter().flatten().collect()
    }

    /// Stops all, the last one first; the first failure is told after all have been tried.
    async fn stop(&mut self) -> Result<(), StackError> {
        let mut outcome = Ok(());
        outcome = outcome.and(stop(&mut self.mcp_server).await);
        outcome = outcome.and(stop(&mut self.stripe_sim).await);
        outcome = outcome.and(stop(&mut self.clickhouse).await);
        outcome = outcome.and(stop(&mut self.postgres).await);
        outcome.and(stop(&mut self.nats).await)
    }
}

async fn stop<P: Part + Send>(part: &mut Option<P>) -> Result<(), StackError> {
    match part {
        Some(part) => part.stop().await,
        None => Ok(()),
    }
}

async fn fetch() -> Result<(), StackError> {
    println!("nats         {}", Nats::fetch().await?.display());
    println!("postgres     {}", Postgres::find()?.display());
    println!("clickhouse   {}", ClickHouse::fetch().await?);
    println!("mcp-server   {}", McpTools::fetch().await?.folder().display());
    println!("cache        {}", Cache::from_env()?.path().display());
    Ok(())
}
