//! From the decision that revokes a key to the moment when the last node refuses it: 1,000 keys, one after another in a
//! steady stream, while all nodes serve calls. The decision goes the way that `admin-api` sends it: `CONTROL`, the
//! ledger, its bucket of keys, the push to every node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mcp_node::{Call, Node, NodeSettings, Origin, labels::Labels, spool::SpoolLimits};
use schemas::{ControlFact, Decision, DecisionId, KeyId, Outcome as Ended, fact::VERSION, subject};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Outcome, machine,
    report::{finish, measure, percentile, short},
    rig::{Rig, wait_until},
    tenants::{Tenant, secret, tenants},
};

const NODES: usize = 20;
const REVOKED: usize = 1_000;
/// Keys that serve on, and make the load.
const SERVING: usize = 40;
const SHARDS: u16 = 16;
/// Keys of each tenant: enough for both.
const KEYS_EACH: u64 = 65;
const QUOTA: u64 = 1_000_000_000;
/// A revocation begins this long after the one before.
const PACE: Duration = Duration::from_millis(20);
/// A call of a node comes this long after the one before: 200 a second each.
const CALL_PACE: Duration = Duration::from_millis(5);
/// How finely a refusal is seen.
const LOOK: Duration = Duration::from_micros(500);
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct Figures {
    keys: usize,
    nodes: usize,
    p50_ms: f64,
    p99_ms: f64,
    calls_meanwhile: u64,
}

/// Runs the benchmark.
///
/// # Errors
/// A part does not come up, or a node goes on to serve a revoked key.
pub async fn run() -> Outcome<()> {
    println!("{}", machine::describe());
    let rig = Rig::start().await?;
    rig.make_log(SHARDS).await?;
    let database = rig.postgres.create_database("tollbook").await?;
    let _ledger = rig.ledger("ledger", &database, &[]).await?;
    let tenants = tenants(u64::from(SHARDS), KEYS_EACH, SHARDS, |_| Some(QUOTA));
    for tenant in &tenants {
        publish(&rig, &tenant.decision(mcp_node::clock::wall())).await?;
    }
    let keys: Vec<(&Tenant, KeyId)> = tenants
        .iter()
        .flat_map(|tenant| tenant.keys.iter().map(move |key| (tenant, *key)))
        .collect();
    let (serving, revoked) = keys.split_at(SERVING);
    let revoked = &revoked[..REVOKED];

    let mut nodes = Vec::with_capacity(NODES);
    for number in 0..NODES {
        let name = format!("node-{number}");
        let settings = NodeSettings {
            spool_dir: rig.folder.path().join(&name),
            limits: SpoolLimits::default(),
            node_id: Some(name.parse()?),
            labels: Labels::default(),
        };
        let nats = runtime::nats::connect(&rig.nats.url(), &name).await?;
        nodes.push(Node::start(&settings, &nats).await?);
    }
    let nodes = Arc::new(nodes);
    let all_known = || async {
        let knows = |node: &Node| keys.iter().all(|(_, key)| serves(node, *key));
        Ok(nodes.iter().all(knows))
    };
    wait_until("every node knows every key", TIMEOUT, all_known).await?;

    let (stop, calls) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let mut load = JoinSet::new();
    for number in 0..NODES {
        let keys: Vec<KeyId> = serving.iter().map(|(_, key)| *key).collect();
        let (nodes, calls, stop) = (nodes.clone(), calls.clone(), stop.clone());
        load.spawn(async move { call(&nodes[number], &keys, &calls, &stop).await });
    }
    let before = calls.load(Ordering::Relaxed);
    let (mut pace, mut watching) = (tokio::time::interval(PACE), JoinSet::new());
    for (tenant, key) in revoked {
        pace.tick().await;
        let decision = Decision {
            v: VERSION,
            decision: DecisionId(Uuid::now_v7()),
            at: mcp_node::clock::wall(),
            by: "bench".into(),
            tenant: tenant.tenant,
            shard: None,
            facts: vec![ControlFact::KeyRevoked { key: *key }],
        };
        let (nodes, key, began) = (nodes.clone(), *key, Instant::now());
        publish(&rig, &decision).await?;
        watching.spawn(async move {
            let mut left: Vec<usize> = (0..nodes.len()).collect();
            while !left.is_empty() && began.elapsed() < TIMEOUT {
                left.retain(|number| serves(&nodes[*number], key));
                tokio::time::sleep(LOOK).await;
            }
            if left.is_empty() { Ok(measure_ms(began)) } else { Err(format!("{key} still serves")) }
        });
    }
    let mut took = Vec::with_capacity(REVOKED);
    for one in watching.join_all().await {
        took.push(one?);
    }
    let meanwhile = calls.load(Ordering::Relaxed) - before;
    stop.cancel();
    for done in load.join_all().await {
        done?;
    }
    let figures = Figures {
        keys: took.len(),
        nodes: NODES,
        p50_ms: short(percentile(&took, 50)),
        p99_ms: short(percentile(&took, 99)),
        calls_meanwhile: meanwhile,
    };
    println!("{:.0} calls a second meanwhile", measure(meanwhile) / (PACE * 1_000).as_secs_f64());
    finish("revocation", &figures)
}

fn measure_ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// Whether the node would serve the key.
fn serves(node: &Node, key: KeyId) -> bool {
    node.meter().authenticate(&secret(key)).is_ok()
}

async fn publish(rig: &Rig, decision: &Decision) -> Outcome<()> {
    let subject = subject::control(&decision.facts[0]);
    let payload = serde_json::to_vec(decision)?;
    rig.connection.jetstream.publish(subject, payload.into()).await?.await?;
    Ok(())
}

/// Calls by one key after another until `stop`.
async fn call(
    node: &Node,
    keys: &[KeyId],
    calls: &AtomicU64,
    stop: &CancellationToken,
) -> Outcome<()> {
    let call = Call {
        method: "tools/call",
        tool: "search_documents",
        bytes_in: 640,
        origin: Origin::default(),
    };
    let mut pace = tokio::time::interval(CALL_PACE);
    for key in keys.iter().cycle() {
        if stop.run_until_cancelled(pace.tick()).await.is_none() {
            return Ok(());
        }
        let known = node.meter().authenticate(&secret(*key)).map_err(|why| format!("{why:?}"))?;
        let permit = node.meter().admit(&known, call).await.map_err(|why| format!("{why:?}"))?;
        permit.settle(Ended::Success, 9_800).map_err(|error| error.to_string())?;
        calls.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
