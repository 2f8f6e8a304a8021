//! The ledger dies at any moment: nothing is lost, nothing is double, nothing is granted twice.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use schemas::{LeaseAnswer, LeaseId, subject};
use stack::Part;
use tokio::time::sleep;

use crate::world::{TestNode, World, eventually, id, kill};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_ledger_neither_loses_nor_doubles_a_call_or_a_unit() {
    const LIMIT: u64 = 300;
    let mut world = World::new().await;
    let mut ledger = world.ledger("ledger").await;
    world.tenant(Some(LIMIT)).await;
    let mut node = TestNode::new(&world, "n1");
    let mut spent = 0;
    let mut questions = 0;
    'quota: loop {
        questions += 1;
        let lease = loop {
            match node.ask(world.key, LeaseId(id(1_000 + questions)), 20).await {
                LeaseAnswer::Granted(lease) => break lease,
                LeaseAnswer::Refused { why: schemas::LeaseRefusal::UnitsHeld { .. }, .. } => {
                    sleep(Duration::from_millis(20)).await;
                }
                LeaseAnswer::Refused {
                    why: schemas::LeaseRefusal::QuotaExhausted { .. }, ..
                } => break 'quota,
                LeaseAnswer::Refused { why, .. } => panic!("{why:?}"),
            }
        };
        if questions % 4 == 1 {
            kill(&mut ledger).await;
            ledger.start_again().await.unwrap();
            // The answer may have been lost with it: the same question is the same lease.
            let again = node.granted(world.key, lease.lease, 20).await;
            assert_eq!(again, lease);
        }
        let units = lease.shares[0].units.0;
        for _ in 0..units {
            node.publish(vec![TestNode::call(&lease)]).await;
            spent += 1;
        }
        if questions % 4 == 3 {
            kill(&mut ledger).await;
        }
        node.publish(vec![TestNode::close(&lease, units)]).await;
        if questions % 4 == 3 {
            ledger.start_again().await.unwrap();
        }
    }
    assert_eq!(spent, LIMIT, "every unit was granted and none twice");
    let settled = || async { world.used().await == (300, 0) };
    eventually("all is settled", settled).await;
    eventually("all is sealed", || async { world.sealed().await == LIMIT }).await;
    assert_eq!((world.count("anomaly").await, world.count("quarantine").await), (0, 0));
    assert_eq!(world.count("hours").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over() {
    let mut world = World::new().await;
    let mut first = world.ledger("first").await;
    world.tenant(None).await;
    let node = TestNode::new(&world, "n1");
    node.granted(world.key, LeaseId(id(50)), 1).await;
    let _second = world.ledger("second").await;
    kill(&mut first).await;
    node.granted(world.key, LeaseId(id(51)), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ledgers_share_the_shards_and_one_that_is_left_has_them_all() {
    let mut world = World::new().await;
    let first = world.ledger("first").await;
    world.tenant(Some(100)).await;
    eventually("one has all", || async { world.owners().await == [4] }).await;
    let mut node = TestNode::new(&world, "n1");
    let before = node.granted(world.key, LeaseId(id(50)), 4).await;
    let mut second = world.ledger("second").await;
    eventually("two have two each", || async { world.owners().await == [2, 2] }).await;
    node.granted(world.key, LeaseId(id(51)), 1).await;
    let _third = world.ledger("third").await;
    eventually("three share them", || async { world.owners().await == [2, 1, 1] }).await;
    kill(&mut second).await;
    eventually("the two that are left", || async { world.owners().await == [2, 2] }).await;
    drop(first);
    eventually("the last has all", || async { world.owners().await == [4] }).await;
    node.publish(vec![TestNode::call(&before), TestNode::close(&before, 1)]).await;
    eventually("the call is counted", || async { world.used().await.0 == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_made_anew_stops_the_ledger_and_it_says_so() {
    let mut world = World::new().await;
    let mut ledger = world.ledger("ledger").await;
    world.tenant(None).await;
    let node = TestNode::new(&world, "n1");
    node.granted(world.key, LeaseId(id(50)), 1).await;
    ledger.stop().await.unwrap();
    let jetstream = &world.connection.jetstream;
    let Config { name, subjects, .. } =
        jetstream.get_stream(subject::LOG).await.unwrap().cached_info().config.clone();
    jetstream.delete_stream(name).await.unwrap();
    assert_eq!(subjects.len(), 2);
    ledger.start_again().await.unwrap();
    let says_so = || async { ledger.log_tail().contains("it was made anew") };
    eventually("the ledger says that the log is another", says_so).await;
    assert_eq!(node.ask_once(world.key, LeaseId(id(51)), 1).await, None, "and grants nothing");
}
