//! `ledger quarantine discard | count | replay`: what a person decides holds once, and a rebuild knows it too.

use schemas::{Epoch, LeaseId, UsageBatch};

use super::{count, last_line, now, outside};
use crate::world::{TestNode, World, eventually, id};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_decides_once_what_becomes_of_what_could_not_be_counted() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(Some(100)).await;
    let mut node = TestNode::new(&world, "n1");
    let lease = node.granted(world.key, LeaseId(id(50)), 8).await;
    let old = outside(&world, now().plus_ms(-36 * 24 * 3_600_000), 3);
    let huge = outside(&world, now(), 10_u64.pow(13));
    node.publish(vec![TestNode::call(&lease), old, huge]).await;
    let records = vec![TestNode::call(&lease)];
    let (v, shard, name) = (2, world.shard(), "of-tomorrow".parse().unwrap());
    let newer = UsageBatch { v, node: name, epoch: Epoch(1), shard, first_seq: 1, records };
    let subject = schemas::subject::usage(shard, &newer.node);
    let payload = serde_json::to_vec(&newer).unwrap();
    let sent = world.connection.jetstream.publish(subject, payload.into()).await.unwrap();
    let whole = sent.await.unwrap().sequence;
    eventually("three wait", || async { count(&world, "quarantine").await == 3 }).await;

    let (_, list, _) = world.question(&["quarantine", "list"]).await;
    let place = |record: &str| {
        let line = list.lines().find(|line| line.contains(record));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    let (old, huge, newer) = (place("35 days"), place("10^12"), whole.to_string());
    let decide = async |args: &[&str]| world.question(&[&["quarantine"], args].concat()).await;
    let (code, told, log) = decide(&["count", &old, "--by", "finance"]).await;
    assert!(code == 0 && told.contains("became   counted at LOG"), "{told}{log}");
    let (code, _, log) = decide(&["count", &old]).await;
    assert!(code == 2 && log.contains("decided before"), "{log}");
    let (code, _, log) = decide(&["count", &huge]).await;
    assert!(code == 2 && log.contains("10^12"), "{log}");
    let (code, told, log) = decide(&["discard", &huge, "--why", "a test's"]).await;
    assert!(code == 0 && told.contains("discarded"), "{told}{log}");

    let (code, _, log) = decide(&["replay", &newer]).await;
    assert!(code == 2 && log.contains("version 2"), "{log}");
    let fixed = tempfile::NamedTempFile::new().unwrap();
    let batch = UsageBatch { v: 1, ..read(&world, whole).await };
    std::fs::write(fixed.path(), serde_json::to_vec(&batch).unwrap()).unwrap();
    let file = fixed.path().to_str().unwrap();
    let (code, told, log) = decide(&["replay", &newer, "--with", file]).await;
    assert!(code == 0 && told.contains("replayed"), "{told}{log}");

    let total = "select sum(quantity)::bigint from ledger.hour_total";
    let total: i64 = sqlx::query_scalar(total).fetch_one(&world.pool).await.unwrap();
    assert_eq!(total, 1 + 3 + 1, "the call, what was too old, and the call of tomorrow's node");
    assert_eq!(count(&world, "quarantine where resolution is null").await, 0);
    let (code, told, log) = world.question(&["rebuild"]).await;
    assert_eq!((code, &last_line(&told)["equal"]), (0, &true.into()), "{told}{log}");
}

/// The batch in a message of `LOG`.
async fn read(world: &World, seq: u64) -> UsageBatch {
    let log = world.connection.jetstream.get_stream(schemas::subject::LOG).await.unwrap();
    let message = log.get_raw_message(seq).await.unwrap();
    serde_json::from_slice(&message.payload).unwrap()
}
