//! `rebuild`: the state at 1,000,000 keys of 10,000 tenants: how fast it comes out of the log, what memory it takes,
//! and how long a lease takes then.
//!
//! - `events_per_s`: facts and records folded a second by the core on one thread, from nothing: every tenant, key and
//!   quota, 100,000 leases, and calls under them.
//! - `rss_mb`: memory of the ledger process with all shards at that size. Unit: MiB.
//! - `grant_p50_ms`, `grant_p99_ms`: from a question over NATS to its answer, by that process, 32 questions at once,
//!   each of another key; the grant is a fact on the log by then.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::Client;
use ledger_core::{Changes, ShardState};
use schemas::{
    Epoch, KeyId, LeaseAnswer, LeaseAsk, LeaseId, LeaseReply, LeaseRequest, NodeId, Quantity,
    Shard, subject,
};
use serde::Serialize;
use sqlx::PgPool;
use stack::Service;
use tokio::task::JoinSet;

use crate::{
    Outcome, machine, report,
    report::{measure, percentile, short, whole},
    rig::{self, Rig, checkpoints},
    tenants::{Kind, Tenant, id, mix, tenants},
    traffic::{Message, Traffic},
};

const SHARDS: u16 = 16;
const TENANTS: u64 = 10_000;
const KEYS_EACH: u64 = 100;
const KEYS: u64 = TENANTS * KEYS_EACH;
/// One key of so many is in use: has an open lease and calls.
const IN_USE: u64 = 10;
const BATCHES: usize = 20_000;
const BATCH: usize = 50;
const ASKS: usize = 20_000;
const ASKERS: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Serialize)]
struct Figures {
    events_per_s: u64,
    keys: u64,
    rss_mb: u64,
    grant_p50_ms: f64,
    grant_p99_ms: f64,
}

pub async fn run() -> Outcome<()> {
    println!("{}", machine::describe());
    let events_per_s = fold_from_nothing()?;
    let rig = Rig::start().await?;
    let (ledger, rss_mb) = grow(&rig).await?;
    let waits = ask(&rig).await?;
    let after = machine::rss_mib(rig::pid(&ledger)?)?;
    println!(
        "ledger process: {rss_mb} MiB when all is folded and told, {after} MiB after the grants"
    );
    drop(ledger);
    let figures = Figures {
        events_per_s: whole(events_per_s),
        keys: KEYS,
        rss_mb: after.max(rss_mb),
        grant_p50_ms: short(percentile(&waits, 50)),
        grant_p99_ms: short(percentile(&waits, 99)),
    };
    report::finish("rebuild", &figures)
}

/// Every fourth tenant limits its keys.
fn population() -> Vec<Tenant> {
    tenants(TENANTS, KEYS_EACH, SHARDS, |number| (number % 4 == 0).then_some(1_000_000))
}

/// Folds a log that is written as it is folded, so that memory holds the state and not the log.
fn fold_from_nothing() -> Outcome<f64> {
    let at = mcp_node::clock::wall().plus_ms(-120_000);
    let mut traffic = Traffic::new(population(), SHARDS, 1, IN_USE, at);
    let before = machine::rss_mib(std::process::id())?;
    let mut fold = Fold::default();
    let shards = traffic.shards();
    for shard in &shards {
        fold.apply(traffic.taken(*shard));
    }
    fold.said("tenants, keys and quotas");
    for shard in &shards {
        fold.apply(traffic.granted(*shard));
    }
    fold.said("leases");
    for turn in 0..BATCHES {
        fold.apply(vec![traffic.calls(0, shards[turn % shards.len()], BATCH)]);
    }
    fold.said("calls");
    let after = machine::rss_mib(std::process::id())?;
    let (facts, seconds) = fold.total;
    println!(
        "core: {facts} facts and records in {seconds:.2} s; memory {before} MiB before, {after} MiB with the state \
         ({} B a key)",
        after.saturating_sub(before) * (1 << 20) / KEYS
    );
    Ok(measure(facts) / seconds)
}

#[derive(Default)]
struct Fold {
    states: Vec<ShardState>,
    seq: u64,
    part: (u64, f64),
    total: (u64, f64),
}

impl Fold {
    fn apply(&mut self, messages: Vec<Message>) {
        if self.states.is_empty() {
            self.states = (0..SHARDS).map(|number| ShardState::new(Shard(number))).collect();
        }
        let stored_at = mcp_node::clock::wall();
        for message in messages {
            self.seq += 1;
            let (shard, facts) = (usize::from(message.shard().0), message.facts());
            let (entry, mut changes) = (message.into_entry(stored_at), Changes::default());
            let begun = Instant::now();
            self.states[shard].apply(self.seq, &entry, &mut changes);
            self.part.1 += begun.elapsed().as_secs_f64();
            self.part.0 += facts;
        }
    }

    /// Says how fast a part went, and begins the next.
    fn said(&mut self, what: &str) {
        let (facts, seconds) = std::mem::take(&mut self.part);
        println!("core: {facts} {what}, {:.0} a second", measure(facts) / seconds);
        self.total = (self.total.0 + facts, self.total.1 + seconds);
    }
}

/// Starts a ledger on a log with all keys, and waits until it has folded, stored and told them. Returns it and its
/// memory.
async fn grow(rig: &Rig) -> Outcome<(Service, u64)> {
    rig.make_log(SHARDS).await?;
    let traffic = Traffic::new(population(), SHARDS, 1, IN_USE, mcp_node::clock::wall());
    let begun = Instant::now();
    let (mut seq, mut last, mut bytes) = (0, Vec::new(), 0);
    for shard in traffic.shards() {
        let messages = traffic.taken(shard);
        seq += messages.len() as u64;
        last.push((shard, seq));
        bytes += rig.fill(&messages).await?;
    }
    println!(
        "log: {seq} messages, {} MB, filled in {:.1} s",
        bytes / 1_000_000,
        begun.elapsed().as_secs_f64()
    );
    let database = rig.postgres.create_database("tollbook").await?;
    let begun = Instant::now();
    let ledger = rig.ledger("ledger", &database, &[]).await?;
    let pool = PgPool::connect(&database).await?;
    let give_up = Instant::now() + TIMEOUT;
    let mut stored = None;
    loop {
        let at = checkpoints(&pool).await?;
        let over = last.iter().all(|(shard, seq)| at.get(shard).is_some_and(|at| at >= seq));
        if over && stored.is_none() {
            stored = Some(begun.elapsed().as_secs_f64());
            println!("ledger: folded and stored after {:.1} s", begun.elapsed().as_secs_f64());
        }
        if over && told(rig).await? >= KEYS {
            break;
        }
        if Instant::now() > give_up {
            let told = told(rig).await?;
            return Err(format!("{told} keys told of {KEYS} in time; {}", ledger.log_tail()).into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let cpu = machine::cpu_seconds(&[rig::pid(&ledger)?])?;
    println!(
        "ledger: told every node after {:.1} s, {cpu:.1} s of CPU",
        begun.elapsed().as_secs_f64()
    );
    let rss = machine::rss_mib(rig::pid(&ledger)?)?;
    pool.close().await;
    Ok((ledger, rss))
}

/// How many key states are in their bucket.
async fn told(rig: &Rig) -> Outcome<u64> {
    let bucket = format!("KV_{}", subject::KEYS);
    Ok(rig.connection.jetstream.get_stream(bucket).await?.cached_info().state.messages)
}

/// Asks for leases of keys at random, some at once. Returns how long each took, in milliseconds.
async fn ask(rig: &Rig) -> Outcome<Vec<f64>> {
    let rows = Arc::new(population());
    let next = Arc::new(AtomicUsize::new(0));
    let node: NodeId = "node-asks".parse()?;
    let mut askers = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..ASKERS {
        let (rows, next, node) = (rows.clone(), next.clone(), node.clone());
        let client = rig.connection.client.clone();
        askers.spawn(async move {
            let mut waits = Vec::new();
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed) as u64;
                if turn >= ASKS as u64 {
                    return Ok(waits);
                }
                let tenant = &rows[usize::try_from(mix(turn) % TENANTS).unwrap_or(0)];
                let key = tenant.keys[usize::try_from(mix(!turn) % KEYS_EACH).unwrap_or(0)];
                let lease = LeaseId(id(Kind::Lease, (1 << 40) + turn));
                waits.push(ask_once(&client, tenant.shard, &node, key, lease).await?);
            }
        });
    }
    let mut waits = Vec::new();
    for done in askers.join_all().await {
        let done: Outcome<Vec<f64>> = done;
        waits.extend(done?);
    }
    println!(
        "asks: {} granted, {:.0} a second",
        waits.len(),
        measure(ASKS as u64) / begun.elapsed().as_secs_f64()
    );
    Ok(waits)
}

/// One question until its answer. Unit: milliseconds.
async fn ask_once(
    client: &Client,
    shard: Shard,
    node: &NodeId,
    key: KeyId,
    lease: LeaseId,
) -> Outcome<f64> {
    let asks = vec![LeaseAsk { lease, key, want: Quantity(100), reserve: BTreeMap::new() }];
    let request = LeaseRequest { node: node.clone(), epoch: Epoch(1), asks };
    let payload = serde_json::to_vec(&request)?;
    let begun = Instant::now();
    let answer = client.request(subject::lease_ask(shard), payload.into()).await?;
    let waited = begun.elapsed().as_secs_f64() * 1_000.0;
    let reply: LeaseReply = serde_json::from_slice(&answer.payload)?;
    match reply.answers.first() {
        Some(LeaseAnswer::Granted(granted)) if granted.lease == lease => Ok(waited),
        other => Err(format!("no lease: {other:?}").into()),
    }
}
