//! The process `mcp-node`: one node with one door and one server behind it.
//!
//! `mcp-node --upstream URL` or `mcp-node -- command args`; everything else has a default or comes from the
//! environment. It stops in order at SIGTERM and SIGINT, and when it learns that another process is this node.

mod config;

use std::{
    error::Error,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::http::HeaderName;
use clap::Parser;
use mcp_node::{
    Node,
    access::Access,
    http::{Door, Doorway, Tls, listen_over, router},
    meter::Meter,
    upstream::{
        HttpUpstream, Server, Signer, SignerError, SignerSettings, Stamp, StdioUpstream, Upstream,
    },
};
use runtime::{
    health::Health,
    nats,
    serve::{bind, serve},
    shutdown, telemetry,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::config::{Behind, Config, Flags};

/// How long answers may take to leave once nothing more is said.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A call is many small pieces of memory, taken and given back on several threads.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let config = match Config::read(Flags::parse()) {
        Ok(config) => config,
        Err(error) => {
            telemetry::init("mcp-node");
            tracing::error!(error = &error as &dyn Error, "Cannot start");
            return ExitCode::FAILURE;
        }
    };
    telemetry::init_at("mcp-node", config.log_level, config.log_format.as_deref());
    match run(config).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = &*error, "Cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> Result<ExitCode, Box<dyn Error>> {
    let stop = shutdown::token()?;
    let health = Health::default();
    health.wait_for("node", "starting");

    let door = Doorway::new(OnceLock::new());
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
    if let Some(tls) = tls.clone() {
        tokio::spawn(reload(tls, signal(SignalKind::hangup())?));
    }
    let taking = listen_over(listener, routes, config.listening, tls, closing.clone());
    let mut serving = tokio::spawn(taking);

    let start = start(&config, &closing);
    let started = tokio::select! {
        started = start => started?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let (node, upstream, signer) = started;
    let opened = Door {
        meter: node.meter().clone(),
        upstream: upstream.clone(),
        access: Arc::new(Access::start(config.access.clone(), &closing)),
        signer,
        settings: config.door.clone(),
    };
    drop(door.set(opened)); // Set once, here.
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
    upstream.end_streams();
    node.meter().drain();
    node.meter().idle(config.drain).await;
    upstream.stop().await;
    if tokio::time::timeout(LAST_ANSWERS, serving).await.is_err() {
        tracing::warn!("Connections were cut that had not ended");
    }
    node.stop(LAST_ANSWERS, config.flush).await;
    tracing::info!("Stopped");
    Ok(code)
}

/// The node, the server behind it, and who signs the tokens that the server gets.
type Started = (Node, Arc<Upstream>, Option<Arc<Signer>>);

async fn start(config: &Config, closing: &CancellationToken) -> Result<Started, Box<dyn Error>> {
    let nats = nats::connect(config.nats_url.expose(), "mcp-node").await?;
    let node = Node::start_with(&config.node, config.metering.clone(), &nats).await?;
    // The folder is held now: nobody else makes its keys.
    let told = &config.told;
    let start = |(name, settings): &(_, SignerSettings)| {
        Ok::<_, SignerError>((
            HeaderName::clone(name),
            Signer::start(settings.clone(), closing.clone())?,
        ))
    };
    let signer = told.token.as_ref().map(start).transpose()?;
    let stamp = Stamp {
        fixed: told.headers.clone(),
        identity: told.identity,
        organization: told.organization.clone(),
        signer: signer.clone(),
    };
    let server = match &config.behind {
        Behind::Url(url) => {
            let (url, patience) = (url.clone(), config.connect_patience);
            Server::Http(HttpUpstream::stamped(url, patience, config.upstream, stamp))
        }
        Behind::Command(command) => {
            Server::Stdio(StdioUpstream::new(command.clone(), config.upstream))
        }
    };
    let signer = signer.map(|(_, signer)| signer);
    Ok((node, Arc::new(Upstream::new(server, config.upstream)), signer))
}

/// Reads the certificates again at SIGHUP.
async fn reload(tls: Arc<Tls>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => tracing::info!("The certificates were read again"),
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::error!(error, "The certificates stay as they were");
            }
        }
    }
}

/// Shows on `/ready` what keeps the node from serving.
async fn watch_health(meter: Meter, health: Health) {
    loop {
        match meter.trouble() {
            Some(why) => health.wait_for("spool", why),
            None => health.ready("spool"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
