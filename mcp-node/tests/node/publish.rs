//! The publisher against a NATS server that dies, and a process that dies.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use mcp_node::{
    Node, clock, publish,
    spool::{Folder, Spool, SpoolLimits},
};
use runtime::nats;
use schemas::{
    Epoch, KeyId, ProjectId, Quantity, Record, RefusalReason, Shard, TenantId, Timestamp,
};
use stack::Part;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    ledger::{Ledger, SHARDS},
    rig::{World, until},
};

fn record(number: u64) -> Record {
    Record::Refused {
        at: Timestamp(0),
        tenant: TenantId(Uuid::nil()),
        project: ProjectId(Uuid::nil()),
        key: KeyId(Uuid::nil()),
        tool: "t".into(),
        reason: RefusalReason::RateLimited,
        calls: Quantity(number),
    }
}

/// The numbers that reached the log, by epoch and shard, in its order. The ledger has checked their positions.
fn numbers(ledger: &Ledger) -> BTreeMap<(Epoch, Shard), Vec<u64>> {
    let mut numbers: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for placed in ledger.records() {
        if let Record::Refused { calls, .. } = placed.record {
            numbers.entry((placed.epoch, placed.shard)).or_default().push(calls.0);
        }
    }
    numbers
}

fn start_spool(path: &Path) -> Arc<Spool> {
    let folder = Folder::open(path, None, &"n-1".parse().unwrap()).unwrap();
    let limits = SpoolLimits { segment_bytes: 100_000, ..SpoolLimits::default() };
    Spool::start(folder, limits, u64::try_from(clock::wall().0).unwrap(), SHARDS).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_reordered_when_the_server_is_killed() {
    const COUNT: u64 = 20_000;
    let mut world = World::start().await;
    let nats = nats::connect(&world.server.url(), "node").await.unwrap();
    let spool = start_spool(&world.folder.path().join("spool"));
    let (stop, fenced) = (CancellationToken::new(), CancellationToken::new());
    publish::start(&nats, &spool, &stop, &fenced);
    let writing = tokio::spawn({
        let spool = spool.clone();
        async move {
            for number in 0..COUNT {
                spool
                    .append(
                        Shard(u16::try_from(number % u64::from(SHARDS)).unwrap()),
                        &record(number),
                    )
                    .unwrap();
                if number % 10 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    });
    // Short absences, and one longer than a publisher waits for its acknowledgement.
    for away_ms in [0, 100, 4_000, 0, 300] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.server.kill().await.unwrap();
        tokio::time::sleep(Duration::from_millis(away_ms)).await;
        world.server.start_again().await.unwrap();
    }
    writing.await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), spool.flushed())
        .await
        .expect("all of it reaches the log");
    let total = || numbers(&world.ledger).values().map(Vec::len).sum::<usize>() as u64;
    until("the ledger has read all", || total() >= COUNT).await;
    for ((_, shard), found) in numbers(&world.ledger) {
        let expected: Vec<u64> =
            (0..COUNT).filter(|n| n % u64::from(SHARDS) == u64::from(shard.0)).collect();
        assert_eq!(found, expected, "in order, each once");
    }
    assert!(!fenced.is_cancelled());
    stop.cancel();
    spool.stop();
}

const CHILD_FOLDER: &str = "TOLLBOOK_TEST_NODE";
const CHILD_NATS: &str = "TOLLBOOK_TEST_NATS";

/// Not a claim of its own: the process that `a_killed_node_replays_its_spool` kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_publishes_until_it_is_killed() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    let nats = nats::connect(&std::env::var(CHILD_NATS).unwrap(), "child").await.unwrap();
    let spool = start_spool(Path::new(&folder));
    let (stop, fenced) = (CancellationToken::new(), CancellationToken::new());
    publish::start(&nats, &spool, &stop, &fenced);
    for number in 0.. {
        spool
            .append(Shard(u16::try_from(number % u64::from(SHARDS)).unwrap()), &record(number))
            .unwrap();
        println!("recorded {number}");
        std::io::stdout().flush().unwrap();
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_replays_its_spool() {
    let world = World::start().await;
    let path = world.folder.path().join("spool");
    let mut recorded = vec![];
    for round in 0..3u64 {
        let (path, url) = (path.clone(), world.server.url());
        let last = tokio::task::spawn_blocking(move || {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "publish::child_that_publishes_until_it_is_killed",
                    "--nocapture",
                ])
                .env(CHILD_FOLDER, path)
                .env(CHILD_NATS, url)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let said = lines.filter_map(|line| line.split("recorded ").nth(1)?.parse::<u64>().ok());
            let mut last = 0;
            for number in said {
                last = number;
                if number == 500 + round * 333 {
                    child.kill().unwrap();
                }
            }
            child.wait().unwrap();
            last
        });
        recorded.push(last.await.unwrap() + 1);
    }
    let nats = nats::connect(&world.server.url(), "node").await.unwrap();
    let spool = start_spool(&path);
    let (stop, fenced) = (CancellationToken::new(), CancellationToken::new());
    publish::start(&nats, &spool, &stop, &fenced);
    tokio::time::timeout(Duration::from_secs(30), spool.flushed())
        .await
        .expect("all of it reaches the log");
    let ended =
        || world.ledger.records().iter().filter(|p| matches!(p.record, Record::EpochEnded)).count();
    until("every dead epoch has ended in every shard", || ended() == 3 * usize::from(SHARDS)).await;
    let mut by_epoch: BTreeMap<Epoch, Vec<u64>> = BTreeMap::new();
    for ((epoch, _), found) in numbers(&world.ledger) {
        by_epoch.entry(epoch).or_default().extend(found);
    }
    assert_eq!(by_epoch.len(), 3);
    for (mut found, recorded) in by_epoch.into_values().zip(recorded) {
        found.sort_unstable();
        assert!(found.len() as u64 >= recorded, "{recorded} recorded, {} on the log", found.len());
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "each once, and no hole");
    }
    stop.cancel();
    spool.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_has_counted_leaves_the_disk() {
    let world = World::start().await;
    let node = Node::start(&world.spool(), &world.nats).await.unwrap();
    drop(node);
    let nats = nats::connect(&world.server.url(), "node").await.unwrap();
    let mut settings = world.spool();
    settings.spool_dir = world.folder.path().join("small");
    settings.limits.segment_bytes = 20_000;
    settings.limits.max_bytes = 200_000;
    let node = Node::start(&settings, &nats).await.unwrap();
    let spool = node.spool().clone();
    for number in 0..2_000 {
        spool.append(Shard(u16::try_from(number % 4).unwrap()), &record(number)).unwrap();
    }
    assert!(!spool.accepts(), "full: the ledger has confirmed nothing");
    spool.flushed().await;
    let total = || numbers(&world.ledger).values().map(Vec::len).sum::<usize>();
    until("the ledger has read all", || total() == 2_000).await;
    world.ledger.push_watermarks(spool.node()).await;
    until("the disk is free again", || spool.accepts() && spool.bytes() < 25_000).await;
    node.stop(Duration::from_secs(1), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_node_is_fenced_off() {
    let world = World::start().await;
    let nats = nats::connect(&world.server.url(), "node").await.unwrap();
    let first = start_spool(&world.folder.path().join("first"));
    let (stop, fenced) = (CancellationToken::new(), CancellationToken::new());
    publish::start(&nats, &first, &stop, &fenced);
    first.append(Shard(0), &record(1)).unwrap();
    first.flushed().await;
    // The same name, another folder, a later start: from now on this one is the node.
    let second = start_spool(&world.folder.path().join("second"));
    let second_fenced = CancellationToken::new();
    publish::start(&nats, &second, &stop, &second_fenced);
    second.append(Shard(0), &record(2)).unwrap();
    second.flushed().await;
    first.append(Shard(0), &record(3)).unwrap();
    tokio::time::timeout(Duration::from_secs(10), fenced.cancelled())
        .await
        .expect("the older one must stop");
    assert!(!second_fenced.is_cancelled());
    until("the ledger has both", || numbers(&world.ledger).len() == 2).await;
    let said: Vec<u64> = numbers(&world.ledger).into_values().flatten().collect();
    assert_eq!(said, [1, 2], "what the older one said late is not on the log");
    stop.cancel();
    first.stop();
    second.stop();
}
