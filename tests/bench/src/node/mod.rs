//! What a gateway adds to a call: the server alone, mcp-node with all that it does (key, hard quota, lease, spool,
//! publisher, ledger behind it), and the gateways that install from the registries, with one client and one server.
//!
//! In each round every target has its turn at 1 and at 16 connections, so that what the machine does meanwhile meets
//! all of them; the median of the rounds counts. 256 connections, memory of idle sessions and memory over a million
//! calls are measured for the server alone and mcp-node.

mod load;
mod peers;
pub mod upstream;

use std::time::Duration;

use schemas::subject;
use serde::Serialize;
use stack::{Service, ServiceSettings, ports};

use self::load::{Measured, Until, run as load};
pub use self::load::{Session, Target};
use crate::{
    Outcome, machine,
    report::{finish, measure, median, short, whole},
    rig::{Rig, pid, wait_until},
    tenants::{secret, tenants},
};

const ROUNDS: usize = 3;
const TURN: Duration = Duration::from_secs(3);
const SHARDS: u16 = 16;
/// More than all calls that are made.
const QUOTA: u64 = 1_000_000_000;
const IDLE: usize = 1_000;
/// Calls over which memory must stay flat.
const MANY: u64 = 1_000_000;
const AT_ONCE: usize = 16;

#[derive(Serialize)]
struct Figures {
    direct_p50_ms: f64,
    node_p50_ms: f64,
    added_p50_ms: f64,
    added_p99_ms: f64,
    direct_rps_16: u64,
    node_rps_16: u64,
    best_peer: String,
    best_peer_rps_16: u64,
    direct_rps_256: u64,
    node_rps_256: u64,
    node_mib_per_1000_idle_sessions: f64,
    node_mib_after_100k_calls: u64,
    node_mib_after_1m_calls: u64,
}

/// One target's turns.
#[derive(Default)]
struct Turns {
    one: Vec<Measured>,
    sixteen: Vec<Measured>,
}

impl Turns {
    async fn turn(&mut self, target: &Target) -> Outcome<()> {
        self.one.push(load(target, 1, Until::After(TURN)).await?);
        self.sixteen.push(load(target, AT_ONCE, Until::After(TURN)).await?);
        Ok(())
    }

    fn p50_ms(&self) -> f64 {
        median(&self.one.iter().map(|measured| measured.p50_ms).collect::<Vec<_>>())
    }

    fn p99_ms(&self) -> f64 {
        median(&self.one.iter().map(|measured| measured.p99_ms).collect::<Vec<_>>())
    }

    fn rps_16(&self) -> f64 {
        median(&self.sixteen.iter().map(|measured| measured.rps).collect::<Vec<_>>())
    }
}

/// A running mcp-node with a key that it knows.
pub struct Gateway {
    pub target: Target,
    pub process: Service,
    _ledger: Service,
}

impl Gateway {
    /// Starts the ledger and the node of one tenant's key in front of `upstream`.
    pub async fn start(rig: &Rig, upstream: &str) -> Outcome<Self> {
        rig.make_log(SHARDS).await?;
        let database = rig.postgres.create_database("tollbook").await?;
        let ledger = rig.ledger("ledger", &database, &[]).await?;
        let tenant = tenants(1, 1, SHARDS, |_| Some(QUOTA)).remove(0);
        let decision = tenant.decision(mcp_node::clock::wall());
        let subject = subject::control(&decision.facts[0]);
        let payload = serde_json::to_vec(&decision)?;
        rig.connection.jetstream.publish(subject, payload.into()).await?.await?;
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let spool = rig.folder.path().join("mcp-node.spool").to_string_lossy().into_owned();
        let settings = ServiceSettings {
            binary: "mcp-node".into(),
            name: "mcp-node".into(),
            args: ["--listen", &listen, "--upstream", upstream].map(Into::into).to_vec(),
            env: vec![
                ("MCP_NATS_URL".into(), rig.nats.url()),
                ("MCP_SPOOL_DIR".into(), spool),
                ("RUST_LOG".into(), "warn".into()),
            ],
            health: format!("http://{listen}/ready"),
        };
        let process = Service::start(&rig.folder, settings).await?;
        let target = Target {
            name: "mcp-node",
            url: format!("http://{listen}/mcp").parse()?,
            key: Some(("x-api-key", secret(tenant.keys[0]))),
            tool: "echo".into(),
        };
        let known = || async { Ok(Session::begin(&target).await.is_ok()) };
        wait_until("the node knows the key", Duration::from_secs(60), known).await?;
        Ok(Self { target, process, _ledger: ledger })
    }
}

/// Runs the benchmark.
///
/// # Errors
/// A part or gateway does not come up, or a call fails.
pub async fn run() -> Outcome<()> {
    println!("{}", machine::describe());
    let rig = Rig::start().await?;
    let listen = format!("127.0.0.1:{}", ports::free()?);
    let settings = ServiceSettings {
        binary: "bench".into(),
        name: "server".into(),
        args: ["mcp-server", &listen].map(Into::into).to_vec(),
        env: Vec::new(),
        health: format!("http://{listen}/health"),
    };
    let _server = Service::start(&rig.folder, settings).await?;
    let upstream = format!("http://{listen}/mcp");
    let direct = Target { name: "direct", url: upstream.parse()?, key: None, tool: "echo".into() };
    let node = Gateway::start(&rig, &upstream).await?;
    let peers = peers::start(&rig.folder, &upstream).await?;

    let targets: Vec<&Target> =
        [&direct, &node.target].into_iter().chain(peers.iter().map(|peer| &peer.target)).collect();
    let mut turns: Vec<Turns> = targets.iter().map(|_| Turns::default()).collect();
    for round in 1..=ROUNDS {
        for (target, turns) in targets.iter().zip(&mut turns) {
            turns.turn(target).await?;
        }
        println!("round {round} of {ROUNDS} is done");
    }
    for (target, turns) in targets.iter().zip(&turns) {
        println!(
            "{:28} p50 {:8.3} ms  p99 {:8.3} ms  {:8.0} calls/s at {AT_ONCE}",
            target.name,
            turns.p50_ms(),
            turns.p99_ms(),
            turns.rps_16()
        );
    }
    let best = (2..turns.len()).max_by(|a, b| turns[*a].rps_16().total_cmp(&turns[*b].rps_16()));
    let best = best.ok_or("no peer was measured")?;
    let (best_peer, best_rps) = (targets[best].name.to_owned(), turns[best].rps_16());
    drop(peers);

    let mut wide = Vec::new();
    for target in [&direct, &node.target] {
        wide.push(load(target, 256, Until::After(TURN)).await?.rps);
    }
    let process = pid(&node.process)?;
    let per_1000 = idle_sessions(&node.target, process).await?;
    let (early, late) = many_calls(&node.target, process).await?;
    finish(
        "node",
        &Figures {
            direct_p50_ms: short(turns[0].p50_ms()),
            node_p50_ms: short(turns[1].p50_ms()),
            added_p50_ms: short(turns[1].p50_ms() - turns[0].p50_ms()),
            added_p99_ms: short(turns[1].p99_ms() - turns[0].p99_ms()),
            direct_rps_16: whole(turns[0].rps_16()),
            node_rps_16: whole(turns[1].rps_16()),
            best_peer,
            best_peer_rps_16: whole(best_rps),
            direct_rps_256: whole(wide[0]),
            node_rps_256: whole(wide[1]),
            node_mib_per_1000_idle_sessions: short(per_1000),
            node_mib_after_100k_calls: early,
            node_mib_after_1m_calls: late,
        },
    )
}

/// What a thousand sessions cost that do nothing, their connections included. Unit: MiB.
async fn idle_sessions(target: &Target, process: u32) -> Outcome<f64> {
    let before = machine::rss_mib(process)?;
    let mut sessions = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        sessions.push(Session::begin(target).await?);
    }
    let after = machine::rss_mib(process)?;
    println!("{} idle sessions: {before} MiB before, {after} MiB after", sessions.len());
    Ok(measure(after.saturating_sub(before)))
}

/// The node's memory after a tenth of many calls and after all of them. Unit: MiB.
async fn many_calls(target: &Target, process: u32) -> Outcome<(u64, u64)> {
    let each = MANY / AT_ONCE as u64;
    load(target, AT_ONCE, Until::Calls(each / 10)).await?;
    let early = machine::rss_mib(process)?;
    let rest = load(target, AT_ONCE, Until::Calls(each - each / 10)).await?;
    let late = machine::rss_mib(process)?;
    println!(
        "{MANY} calls: {early} MiB after a tenth, {late} MiB after all, {:.0} calls/s",
        rest.rps
    );
    Ok((early, late))
}
