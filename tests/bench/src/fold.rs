//! `fold`: how many calls a second are folded: by the core alone, by the whole ledger from JetStream to committed
//! PostgreSQL, and beside it how many a second come in when the same stream is read and nothing is done.
//!
//! A rate is of one core: a process that used more than one has its rate divided by the cores it used. The ledger's
//! rate begins at its first commit, so that its start is not in it; NATS and PostgreSQL are on the same machine.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ledger_core::{Changes, Entry, ShardState};
use runtime::nats::Reader;
use schemas::{Shard, UsageBatch, subject};
use serde::Serialize;
use sqlx::PgPool;
use stack::Part;

use crate::{
    Outcome, machine, report,
    report::{measure, median, short, whole},
    rig::{self, Rig, checkpoints},
    tenants::tenants,
    traffic::{Message, Traffic},
};

const SHARDS: u16 = 16;
const TENANTS: u64 = 200;
const KEYS_EACH: u64 = 10;
const NODES: u16 = 8;
const CALLS: usize = 1_000_000;
/// Records of one message: what a node that makes some thousand calls a second sends at once.
const BATCH: usize = 50;
const ROUNDS: usize = 3;
/// After so many messages the core's changes are taken from it, as a commit does.
const COMMIT_EVERY: usize = 400;
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Serialize)]
struct Figures {
    core_events_per_s: u64,
    ledger_events_per_s: u64,
    raw_events_per_s: u64,
    ratio: f64,
}

pub async fn run() -> Outcome<()> {
    println!("{}", machine::describe());
    let log = write_log();
    let rig = Rig::start().await?;
    rig.make_log(SHARDS).await?;
    let begun = Instant::now();
    let bytes = rig.fill(&log).await?;
    println!(
        "log: {} messages, {CALLS} calls in batches of {BATCH}, {} bytes a call, {TENANTS} tenants, {} keys, \
         {NODES} nodes, {SHARDS} shards; filled in {:.1} s",
        log.len(),
        bytes / CALLS as u64,
        TENANTS * KEYS_EACH,
        begun.elapsed().as_secs_f64()
    );
    let progress = Progress::of(&log);
    say_parsing(&log)?;
    let core = fold_in_memory(log);
    let (mut raw, mut whole_ledger, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let plain = read_raw(&rig, &progress).await?;
        let folded = run_ledger(&rig, &progress, round).await?;
        ratios.push(folded / plain);
        raw.push(plain);
        whole_ledger.push(folded);
    }
    report::finish(
        "fold",
        &Figures {
            core_events_per_s: whole(core),
            ledger_events_per_s: whole(median(&whole_ledger)),
            raw_events_per_s: whole(median(&raw)),
            ratio: short(median(&ratios)),
        },
    )
}

fn write_log() -> Vec<Message> {
    let at = mcp_node::clock::wall().plus_ms(-120_000);
    // Half of the tenants limit their keys, so half of all calls are under leases with units.
    let rows =
        tenants(TENANTS, KEYS_EACH, SHARDS, |number| (number % 2 == 0).then_some(100_000_000));
    let mut traffic = Traffic::new(rows, SHARDS, NODES, 1, at);
    let shards = traffic.shards();
    let mut log: Vec<Message> = shards.iter().flat_map(|shard| traffic.taken(*shard)).collect();
    log.extend(shards.iter().flat_map(|shard| traffic.granted(*shard)));
    for turn in 0..CALLS / BATCH {
        let (node, shard) =
            (turn % usize::from(NODES), shards[turn / usize::from(NODES) % shards.len()]);
        log.push(traffic.calls(node, shard, BATCH));
    }
    for shard in shards {
        log.extend((0..usize::from(NODES)).map(|node| traffic.closed(node, shard)));
        log.push(traffic.sealed(shard));
    }
    log
}

/// How many calls stand on the log up to a sequence of a shard.
struct Progress {
    by_shard: HashMap<Shard, Vec<(u64, u64)>>,
    messages: u64,
    calls: u64,
}

impl Progress {
    fn of(log: &[Message]) -> Self {
        let mut by_shard: HashMap<Shard, Vec<(u64, u64)>> = HashMap::new();
        let mut calls = 0;
        for (seq, message) in (1..).zip(log) {
            calls += message.calls();
            let shard = by_shard.entry(message.shard()).or_default();
            let before = shard.last().map_or(0, |(_, calls)| *calls);
            shard.push((seq, before + message.calls()));
        }
        Self { by_shard, messages: log.len() as u64, calls }
    }

    fn calls_at(&self, checkpoints: &HashMap<Shard, u64>) -> u64 {
        let upto = |(shard, seq): (&Shard, &u64)| {
            let steps = self.by_shard.get(shard)?;
            let behind = steps.partition_point(|(at, _)| at <= seq);
            steps.get(behind.checked_sub(1)?).map(|(_, calls)| *calls)
        };
        checkpoints.iter().filter_map(upto).sum()
    }

    fn is_over(&self, checkpoints: &HashMap<Shard, u64>) -> bool {
        let reached = |(shard, steps): (&Shard, &Vec<(u64, u64)>)| {
            let last = steps.last().map_or(0, |(seq, _)| *seq);
            checkpoints.get(shard).is_some_and(|seq| *seq >= last)
        };
        self.by_shard.iter().all(reached)
    }
}

/// How much of the ledger's work is reading JSON: parses some messages of nodes again and again.
fn say_parsing(log: &[Message]) -> Outcome<()> {
    let of_nodes = log.iter().filter(|message| message.calls() > 0).take(1_000);
    let payloads = of_nodes.map(Message::payload).collect::<Outcome<Vec<_>>>()?;
    let (begun, mut calls) = (machine::own_cpu_seconds()?, 0);
    for _ in 0..5 {
        for payload in &payloads {
            calls += serde_json::from_slice::<UsageBatch>(payload)?.records.len() as u64;
        }
    }
    let taken = machine::own_cpu_seconds()? - begun;
    println!("reading JSON: {:.2} us of CPU a call", taken / measure(calls) * 1e6);
    Ok(())
}

/// The core alone, on one thread, with messages that are parsed already. Returns the median of calls a second.
fn fold_in_memory(log: Vec<Message>) -> f64 {
    let calls: u64 = log.iter().map(Message::calls).sum();
    let stored_at = mcp_node::clock::wall();
    let entries: Vec<(u64, Shard, Entry)> = (1..)
        .zip(log)
        .map(|(seq, message)| (seq, message.shard(), message.into_entry(stored_at)))
        .collect();
    let round = || {
        let mut states: Vec<ShardState> = (0..SHARDS).map(|n| ShardState::new(Shard(n))).collect();
        let mut changes = Changes::default();
        let begun = Instant::now();
        for (turn, (seq, shard, entry)) in entries.iter().enumerate() {
            states[usize::from(shard.0)].apply(*seq, entry, &mut changes);
            if turn % COMMIT_EVERY == 0 {
                changes = Changes::default();
            }
        }
        measure(calls) / begun.elapsed().as_secs_f64()
    };
    let rates: Vec<f64> = (0..5).map(|_| round()).collect();
    println!(
        "core: {:?} calls/s on one core",
        rates.iter().map(|rate| whole(*rate)).collect::<Vec<_>>()
    );
    median(&rates)
}

/// Reads the stream and counts bytes. Returns calls a second and core.
async fn read_raw(rig: &Rig, progress: &Progress) -> Outcome<f64> {
    let mut reader = Reader::open(&rig.connection, subject::LOG, &[], 0).await?;
    let (begun, cpu) = (Instant::now(), machine::own_cpu_seconds()?);
    let mut bytes = 0;
    while reader.last() < progress.messages {
        let messages = reader.next(2_000, Duration::from_secs(5)).await?;
        bytes += messages.iter().map(|message| message.payload.len()).sum::<usize>();
    }
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), machine::own_cpu_seconds()? - cpu);
    println!("raw: {wall:.2} s, {:.0} MB/s, {:.2} cores", bytes as f64 / wall / 1e6, cpu / wall);
    Ok(machine::per_core(progress.calls, wall, cpu))
}

/// Lets a ledger fold the log into an empty database. Returns calls a second and core.
async fn run_ledger(rig: &Rig, progress: &Progress, round: usize) -> Outcome<f64> {
    let database = rig.postgres.create_database(&format!("fold_{round}")).await?;
    let pool = PgPool::connect(&database).await?;
    let mut ledger = rig.ledger(&format!("ledger-{round}"), &database, &[]).await?;
    let roots = [rig::pid(&ledger)?];
    let (mut first, begun) = (None, Instant::now());
    let last = loop {
        let at = checkpoints(&pool).await?;
        let now = (Instant::now(), machine::cpu_seconds(&roots)?, progress.calls_at(&at));
        if first.is_none() && now.2 > 0 {
            first = Some((now, around(rig)?));
        }
        if progress.is_over(&at) {
            break now;
        }
        if begun.elapsed() > TIMEOUT {
            return Err(
                format!("the ledger did not fold the log in time: {}", ledger.log_tail()).into()
            );
        }
        tokio::time::sleep(rig::LOOK).await;
    };
    let ((from, cpu, calls), before) = first.ok_or("the ledger committed all at once")?;
    let (wall, cpu) = ((last.0 - from).as_secs_f64(), last.1 - cpu);
    let (postgres, nats) = around(rig)?;
    let (postgres, nats) = (postgres - before.0, nats - before.1);
    check(&pool, progress).await?;
    ledger.stop().await?;
    let calls = last.2 - calls;
    println!(
        "ledger: {:.2} s after the first commit, {:.0} calls/s, {:.2} cores (PostgreSQL {:.2}, NATS {:.2}), {:.2} us of CPU a call",
        wall,
        measure(calls) / wall,
        cpu / wall,
        postgres / wall,
        nats / wall,
        cpu / measure(calls) * 1e6
    );
    pool.close().await;
    Ok(machine::per_core(calls, wall, cpu))
}

/// CPU time of PostgreSQL and of NATS. Unit: seconds.
fn around(rig: &Rig) -> Outcome<(f64, f64)> {
    let of = |pid: u32| machine::cpu_seconds(&[pid]);
    Ok((of(rig::pid(&rig.postgres)?)?, of(rig::pid(&rig.nats)?)?))
}

/// What is in the database is what is on the log: all calls but the free ones, nothing odd.
async fn check(pool: &PgPool, progress: &Progress) -> Outcome<()> {
    let sum = "select coalesce(sum(quantity), 0)::bigint from ledger.hour_total";
    let counted: i64 = sqlx::query_scalar(sum).fetch_one(pool).await?;
    let odd: i64 = sqlx::query_scalar(
        "select (select count(*) from ledger.anomaly) + (select count(*) from ledger.quarantine)",
    )
    .fetch_one(pool)
    .await?;
    let billed = progress.calls - progress.calls.div_ceil(16);
    if u64::try_from(counted)? != billed || odd != 0 {
        return Err(format!("{counted} calls counted of {billed}, {odd} oddities").into());
    }
    Ok(())
}
