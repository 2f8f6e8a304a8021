//! The process `mcp-node`: one node with one door and the servers behind it.
//!
//! `mcp-node --upstream URL` or `mcp-node -- command args`; everything else has a default or comes from the
//! environment. It stops in order at SIGTERM and SIGINT, and when it learns that another process is this node.

mod config;
mod reload;
mod servers;

use std::{error::Error, ffi::OsString, process::ExitCode, sync::Arc, time::Duration};

use axum::http::HeaderName;
use clap::{Parser, error::ErrorKind};
use mcp_node::{
    Node,
    access::Access,
    http::{AddressLimits, GatewayState, SharedGateway, Tls, listen_over, router},
    meter::Meter,
    spool::Folder,
    traces::Traces,
    upstream::{Signer, SignerError, SignerSettings},
    wire::lanes::WorkerThreads,
};
use runtime::{
    health::Health,
    nats,
    serve::{bind, serve},
    shutdown, telemetry, traces,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{
    config::{Config, Settings},
    reload::Reload,
    servers::Servers,
};

/// How long answers may take to leave once nothing more is said.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A call is many small pieces of memory, taken and given back on several threads.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Help, the version, and what is no flag at all; a value that cannot be used is told as one of the file is.
    if let Err(error) = Settings::try_parse_from(&args)
        && !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation)
    {
        error.exit();
    }
    let config = match Config::read(&args) {
        Ok(config) => config,
        Err(error) => {
            telemetry::init("mcp-node");
            tracing::error!(error = &error as &dyn Error, "Cannot start");
            return ExitCode::FAILURE;
        }
    };
    telemetry::init_at("mcp-node", config.log_level, config.log_format.as_deref());
    if !config.unknown_variables.is_empty() {
        tracing::warn!(variables = ?config.unknown_variables, "These variables are no settings of this program");
    }
    match run(args, config).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = &*error, "Cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Vec<OsString>, config: Config) -> Result<ExitCode, Box<dyn Error>> {
    let stop = shutdown::token()?;
    let health = Health::default();
    health.wait_for("node", "starting");

    // Before any address is bound: of two processes on one folder, the second must not be taken for one that serves.
    let folder = config.node.open_folder()?;
    let traces = config.traces.as_ref().map(|to| traces::Traces::start("mcp-node", to));
    let traces = traces.transpose()?;
    let door = SharedGateway::default();
    let closing = CancellationToken::new();
    let mut routes = router(door.clone());
    match &config.ops_listen {
        None => routes = routes.merge(health.router()),
        Some(ops) => {
            // They are served to the very end, so that a stop can be watched.
            let listener = bind(ops).await?;
            tokio::spawn(serve(listener, health.router(), CancellationToken::new()));
        }
    }
    let listener = bind(&config.listen).await?;
    let tls = config.tls.clone().map(Tls::try_new).transpose()?.map(Arc::new);
    let hangups = signal(SignalKind::hangup())?;
    // Held to the very end: connections that had to be cut end with it.
    let lanes = Arc::new(WorkerThreads::start()?);
    let (listening, stopped) = (config.listening, closing.clone());
    let limits = Arc::new(AddressLimits::new(config.door.addresses.clone()));
    let (over, on) = (tls.clone(), lanes.clone());
    let taking = listen_over(listener, routes, listening, over, on, limits.clone(), stopped);
    let mut serving = tokio::spawn(taking);

    let start = start(folder, &config, &closing);
    let started = tokio::select! {
        started = start => started?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let (node, servers) = started;
    let opened = GatewayState {
        meter: node.meter().clone(),
        front: servers.front(),
        named: servers.named(),
        access: Arc::new(Access::start(config.access.clone(), &closing)),
        signer: servers.signer(),
        traces: traces.as_ref().map(|to| Traces::by(to.tracer())).unwrap_or_default(),
        limits,
        settings: config.door.clone(),
    };
    door.set(opened);
    let doorway = door.clone();
    let changing = Reload { args, door, servers, tls, closing: closing.clone() };
    let changing = tokio::spawn(changing.run(hangups, closing.clone().cancelled_owned()));
    health.ready("node");
    let watching = tokio::spawn(watch_health(node.meter().clone(), health.clone()));
    tracing::info!("Serving");

    let fenced = node.fenced().clone();
    let code = tokio::select! {
        () = stop.cancelled() => ExitCode::SUCCESS,
        () = fenced.cancelled() => ExitCode::FAILURE,
        ended = &mut serving => return Err(format!("the door has closed: {ended:?}").into()),
    };
    watching.abort();
    health.wait_for("node", "stopping");
    closing.cancel();
    let servers = changing.await?;
    servers.end_streams();
    doorway.end_channels();
    node.meter().drain();
    node.meter().idle(config.drain).await;
    servers.stop().await;
    if tokio::time::timeout(LAST_ANSWERS, serving).await.is_err() {
        tracing::warn!("Connections were cut that had not ended");
    }
    node.stop(LAST_ANSWERS, config.flush).await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    tracing::info!("Stopped");
    Ok(code)
}

/// The node, and the servers behind it.
type Started = (Node, Servers);

async fn start(
    folder: Folder,
    config: &Config,
    closing: &CancellationToken,
) -> Result<Started, Box<dyn Error>> {
    let nats = nats::connect(config.nats_url.expose(), "mcp-node").await?;
    let node = Node::start_in(folder, &config.node, config.metering.clone(), &nats).await?;
    // The folder is held: nobody else makes its keys.
    let told = &config.told;
    let start = |(name, settings): &(_, SignerSettings)| {
        Ok::<_, SignerError>((
            HeaderName::clone(name),
            Signer::start(settings.clone(), closing.clone())?,
        ))
    };
    let signer = told.token.as_ref().map(start).transpose()?;
    Ok((node, Servers::start(config, signer)))
}

/// Shows on `/ready` what keeps the node from serving, and what it does without.
async fn watch_health(meter: Meter, health: Health) {
    const PARTS: [&str; 3] = ["spool", "nats", "ledger"];
    loop {
        let missing = meter.missing();
        for part in PARTS {
            match missing.iter().find(|missing| missing.part == part) {
                Some(missing) if missing.is_served => health.degraded(part, &*missing.reason),
                Some(missing) => health.wait_for(part, &*missing.reason),
                None => health.ready(part),
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
