//! When ingest must stop rather than go on: another stream, lost messages, lost rows, changed migrations.

use std::time::Duration;

use ingest::{IngestError, migrate::MigrateError};
use runtime::nats::ReadError;
use schemas::{Epoch, Record, Shard, UsageBatch, subject};

use crate::world::{Ingest, World};

fn ended(first_seq: u64) -> UsageBatch {
    let records = vec![Record::EpochEnded];
    UsageBatch {
        v: 1,
        node: "n1".parse().unwrap(),
        epoch: Epoch(1),
        shard: Shard(0),
        first_seq,
        records,
    }
}

/// A log of three messages that is stored; ingest does not run.
async fn stored() -> World {
    let world = World::start().await;
    let ingest = world.ingest();
    for seq in 1..=3 {
        world.publish_batch(&ended(seq)).await;
    }
    world.until_rolled(3).await;
    ingest.stop().await;
    world
}

async fn remake_log(world: &World) {
    world.log.jetstream.delete_stream(subject::LOG).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await; // So that it is made in another millisecond.
    world.make_log().await;
}

#[tokio::test]
async fn a_stream_that_was_made_anew_stops_it_until_it_is_told() {
    let world = stored().await;
    remake_log(&world).await;
    let refused = world.ingest().failure().await;
    assert!(matches!(refused, IngestError::OtherStream { src: 1, .. }), "{refused}");

    let told = ingest::Config { accept_new_stream: true, ..world.config(&world.address()) };
    let again = Ingest::start(told);
    world.publish_batch(&ended(2)).await; // Known from the first life: not new.
    world.publish_batch(&ended(4)).await;
    let rows =
        "SELECT src, stream_seq, seq FROM meter.usage_events WHERE record != 'mark' ORDER BY seq";
    world.until(rows, |answer| answer == "1\t1\t1\n1\t2\t2\n1\t3\t3\n2\t2\t4").await;
    again.stop().await;
    let unasked = world.ingest(); // From now on it is the known one.
    world.publish_batch(&ended(5)).await;
    world.until(rows, |answer| answer.ends_with("2\t3\t5")).await;

    remake_log(&world).await; // While it runs.
    let stopped = unasked.failure().await;
    assert!(
        matches!(
            stopped,
            IngestError::OtherStream { .. } | IngestError::Read(ReadError::Behind { .. })
        ),
        "{stopped}"
    );
}

#[tokio::test]
async fn messages_that_expired_unread_stop_it() {
    let world = stored().await;
    for seq in 4..=6 {
        world.publish_batch(&ended(seq)).await;
    }
    world.lose_messages_up_to(5).await;
    let stopped = world.ingest().failure().await;
    assert!(
        matches!(stopped, IngestError::Read(ReadError::Expired { first: 6, checkpoint: 3, .. })),
        "{stopped}"
    );
}

#[tokio::test]
async fn a_hole_in_the_log_stops_it() {
    let world = stored().await;
    for seq in 4..=6 {
        world.publish_batch(&ended(seq)).await;
    }
    world.lose_message(5).await;
    let stopped = world.ingest().failure().await;
    assert!(
        matches!(stopped, IngestError::Read(ReadError::Hole { last: 4, found: 6, .. })),
        "{stopped}"
    );
    assert_eq!(world.ask("SELECT max(stream_seq) <= 4 FROM meter.usage_events").await, "1");
}

#[tokio::test]
async fn rows_that_vanish_while_it_runs_stop_it_and_a_restart_brings_them_back() {
    let world = stored().await;
    let ingest = world.ingest();
    world.publish_batch(&ended(4)).await;
    world.until_rolled(4).await;
    world.ask("TRUNCATE TABLE meter.usage_events").await;
    world.publish_batch(&ended(5)).await;
    let stopped = ingest.failure().await;
    assert!(matches!(stopped, IngestError::Gap(_)), "{stopped}");

    let again = world.ingest();
    let rows = "SELECT groupArray(seq) FROM (SELECT seq FROM meter.usage_events WHERE record != 'mark' ORDER BY seq)";
    world.until(rows, |answer| answer == "[1,2,3,4,5]").await;
    again.stop().await;
}

#[tokio::test]
async fn a_position_that_is_stored_twice_stops_it() {
    let world = stored().await;
    world.ask("INSERT INTO meter.usage_events SELECT * REPLACE (2 AS seq) FROM meter.usage_events WHERE stream_seq = 1").await;
    let stopped = world.ingest().failure().await;
    assert!(matches!(stopped, IngestError::Positions(_)), "{stopped}");
}

#[tokio::test]
async fn a_changed_or_newer_migration_stops_it() {
    let world = stored().await;
    let book = "INSERT INTO meter.schema_migrations (version, name, checksum, state) VALUES";
    world.ask(&format!("{book} (99, '0099_of_tomorrow', 'x', 'done')")).await;
    let stopped = world.ingest().failure().await;
    assert!(
        matches!(stopped, IngestError::Migrate(MigrateError::Newer { version: 99 })),
        "{stopped}"
    );
    world.ask("ALTER TABLE meter.schema_migrations DELETE WHERE version = 99 SETTINGS mutations_sync = 2").await;
    world.ask(&format!("{book} (2, '0002_stream_incarnations', 'other', 'done')")).await;
    let stopped = world.ingest().failure().await;
    assert!(
        matches!(stopped, IngestError::Migrate(MigrateError::Changed { version: 2 })),
        "{stopped}"
    );
}
