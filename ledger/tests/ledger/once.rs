//! What is said once, twice or wrongly counts once.

use schemas::{
    ControlFact, KeyDigest, KeyStatus, LeaseAnswer, LeaseId, LeaseRefusal, Record, Timestamp,
    UsageBatch,
};

use crate::world::{TestNode, World, eventually, id};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_published_leased_counted_sealed_and_revoked() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(Some(100)).await;
    let state = world.key_state().await.unwrap();
    assert_eq!(
        (state.status, state.limited, state.shard),
        (KeyStatus::Active, true, world.shard())
    );

    let mut node = TestNode::new(&world, "n1");
    let lease = node.granted(world.key, LeaseId(id(50)), 10).await;
    assert_eq!(lease.shares[0].units.0, 10);
    node.publish(vec![TestNode::call(&lease), TestNode::call(&lease)]).await;
    eventually("two calls are counted", || async { world.used().await == (2, 8) }).await;
    node.publish(vec![TestNode::close(&lease, 2)]).await;
    eventually("the lease is settled", || async { world.used().await == (2, 0) }).await;
    let seen = || async {
        world.watermark(&node.node).await.is_some_and(|w| w.epochs.get(&node.epoch) == Some(&3))
    };
    eventually("the node learns that it may forget", seen).await;
    eventually("the hour is sealed in part", || async { world.sealed().await == 2 }).await;

    let (first, second) = (world.digest, KeyDigest([2; 32]));
    let former_until = Timestamp::from(chrono::Utc::now()).plus_ms(60_000);
    let hint = String::new();
    let rotated = ControlFact::KeyRotated { key: world.key, digest: second, hint, former_until };
    world.decide(vec![rotated]).await;
    let both = || async {
        let (old, new) = (world.key_state_of(&first).await, world.key_state_of(&second).await);
        old.is_some_and(|old| old.expires_at == Some(former_until))
            && new.is_some_and(|new| new.key == world.key && new.expires_at.is_none())
    };
    eventually("the new secret serves, and the old one until its time", both).await;

    world.decide(vec![ControlFact::KeyRevoked { key: world.key }]).await;
    let revoked = || async {
        let mut revoked = true;
        for digest in [first, second] {
            let state = world.key_state_of(&digest).await;
            revoked &= state.is_some_and(|state| state.status == KeyStatus::Revoked);
        }
        revoked
    };
    eventually("the revocation of both secrets is published", revoked).await;
    let refused = node.ask(world.key, LeaseId(id(51)), 1).await;
    assert!(
        matches!(refused, LeaseAnswer::Refused { why: LeaseRefusal::KeyNotActive, .. }),
        "{refused:?}"
    );
    assert_eq!(
        (world.count("anomaly").await, world.count("quarantine").await, world.count("hours").await),
        (0, 0, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn resent_records_count_once_and_unreadable_ones_are_kept_apart() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(None).await;
    let mut node = TestNode::new(&world, "n1");
    let lease = node.granted(world.key, LeaseId(id(50)), 10).await;
    let records: Vec<Record> = (0..5).map(|_| TestNode::call(&lease)).collect();
    let batch = UsageBatch {
        v: 1,
        node: node.node.clone(),
        epoch: node.epoch,
        shard: world.shard(),
        first_seq: 1,
        records,
    };
    for _ in 0..3 {
        node.send(&batch).await;
    }
    let subject = format!("usage.{}.n9", world.shard());
    let poison = world.connection.jetstream.publish(subject, "{\"v\":1,".into());
    poison.await.unwrap().await.unwrap();
    node.send(&UsageBatch {
        first_seq: 5,
        records: vec![TestNode::call(&lease), TestNode::call(&lease)],
        ..batch
    })
    .await;
    eventually("six records are counted once each", || async { world.used().await == (6, 0) })
        .await;
    assert_eq!((world.count("quarantine").await, world.count("anomaly").await), (1, 0));
}
