//! Exactly once under fire: ClickHouse killed again and again, requests cut off, three writers at once, one of
//! them cut off and started again, a log full of repeats, ledger facts and messages that cannot be read.

use std::time::Duration;

use crate::{
    model::{Model, Random},
    proxy::Proxy,
    world::{Ingest, World},
};

/// Kills of the server; `INGEST_TEST_KILLS` asks for more.
fn kills() -> u64 {
    std::env::var("INGEST_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(12)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_rows_and_rollup_are_exact_whatever_is_killed_or_cut_off() {
    let seed = 20_261_120;
    let mut world = World::start().await;
    let (mut random, mut model) = (Random::new(seed), Model::default());
    let cut = Proxy::start(world.address(), seed, 400).await;
    let torn = Proxy::start(world.address(), seed + 1, 60).await;
    let first = world.ingest();
    world.until("SELECT count() FROM meter.rollup_progress", |_| true).await;
    let second = Ingest::start(world.config(cut.address()));
    let mut third = Ingest::start(world.config(&world.address()));

    let (mut last, mut poison) = (0, 0);
    for kill in 0..kills() {
        for _ in 0..60 + random.below(60) {
            last = match random.below(12) {
                0 => world.publish_ledger().await,
                1 => {
                    poison += 1;
                    world
                        .publish(
                            "usage.1.node-9".to_owned(),
                            format!("poison {poison}").into_bytes(),
                        )
                        .await
                }
                2..4 => match model.old_batch(&mut random) {
                    Some(batch) => world.publish_batch(&batch).await,
                    None => continue,
                },
                _ => world.publish_batch(&model.next_batch(&mut random)).await,
            };
        }
        tokio::time::sleep(Duration::from_millis(random.below(250))).await;
        world.crash_clickhouse().await;
        if kill % 3 == 1 {
            third.cut_off().await;
            let address = if kill % 2 == 0 { world.address() } else { torn.address().to_owned() };
            third = Ingest::start(world.config(&address));
        }
    }
    world.until_rolled(last).await;
    let cuts = cut.cuts().await + torn.cuts().await;
    eprintln!(
        "{} kills, {cuts} cuts, {last} messages, {} records, {poison} poison",
        kills(),
        model.records()
    );
    assert!(cuts > 0, "the proxies cut nothing: the test proves less than it says");
    check_raw(&world, &model).await;
    check_rollup(&world, &model).await;
    check_quarantine(&world, poison).await;
    for ingest in [first, second] {
        ingest.stop().await;
    }
}

async fn check_raw(world: &World, model: &Model) {
    let counts = "SELECT count(), uniqExact(node, epoch, shard, seq) FROM meter.usage_events WHERE record != 'mark'";
    let records = model.records();
    assert_eq!(world.ask(counts).await, format!("{records}\t{records}"));
    let holes = "SELECT count() FROM (SELECT max(seq) - uniqExact(seq) AS missing FROM meter.usage_events \
                 WHERE record != 'mark' GROUP BY node, epoch, shard HAVING missing != 0)";
    assert_eq!(world.ask(holes).await, "0");
    let marks =
        "SELECT count() - uniqExact(stream_seq) FROM meter.usage_events WHERE record = 'mark'";
    assert_eq!(world.ask(marks).await, "0", "a mark stands twice");
}

async fn check_rollup(world: &World, model: &Model) {
    let query = "SELECT toString(tenant_id), tool, intDiv(toUnixTimestamp(hour), 3600), \
                 sum(calls), sum(free), sum(refused), toUInt64(sum(n)) FROM (\
                   SELECT tenant_id, tool, hour, calls, free, refused, 0 AS n FROM meter.usage_hour \
                   WHERE tenant_id != toUUID('00000000-0000-0000-0000-000000000000')) \
                 GROUP BY ALL ORDER BY ALL";
    let found = world.ask(query).await;
    let wanted: Vec<String> = model
        .cells
        .iter()
        .map(|((tenant, tool, hour), cell)| {
            format!("{tenant}\t{tool}\t{hour}\t{}\t{}\t{}\t0", cell.calls, cell.free, cell.refused)
        })
        .collect();
    assert_eq!(found, wanted.join("\n"));
}

async fn check_quarantine(world: &World, poison: u64) {
    let query = "SELECT count(), uniqExact(payload), uniqExact(stream_seq), any(reason) FROM meter.quarantine";
    assert_eq!(world.ask(query).await, format!("{poison}\t{poison}\t{poison}\tjson"));
}
