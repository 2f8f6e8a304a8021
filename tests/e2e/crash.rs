//! Each service is killed in turn while calls are made: the four numbers still agree.

use std::sync::atomic::{AtomicU64, Ordering};

use plant::{Calls, PlantSettings, make_calls, wait_for_ties};
use stack::Part;

use crate::world::{TIMEOUT, eventually, subscribed};

/// Kills ledger, ingest and billing, each while a run of calls goes on.
#[tokio::test(flavor = "multi_thread")]
async fn killed_services_lose_and_double_nothing() {
    let (mut plant, demo) = subscribed(PlantSettings::default(), 1_000).await;
    let secret = demo.roomy.secret.clone();
    let mut answered = 0;
    for victim in ["ledger", "ingest", "billing"] {
        let before = make_calls(&plant, 0, &secret, 20, |_| {}).await.unwrap();
        let service = match victim {
            "ledger" => &mut plant.ledger,
            "ingest" => &mut plant.ingest,
            _ => &mut plant.billing,
        };
        service.kill().await.unwrap();
        let during = make_calls(&plant, 0, &secret, 20, |_| {}).await.unwrap();
        let service = match victim {
            "ledger" => &mut plant.ledger,
            "ingest" => &mut plant.ingest,
            _ => &mut plant.billing,
        };
        service.start_again().await.unwrap();
        let after = make_calls(&plant, 0, &secret, 20, |_| {}).await.unwrap();
        for calls in [before, during, after] {
            assert_eq!((calls.succeeded, calls.failed), (20, 0), "{victim}: {:?}", calls.errors);
            answered += calls.succeeded;
        }
    }
    let ties = wait_for_ties(&plant, &demo.tenant, (answered, 0), TIMEOUT).await;
    ties.unwrap_or_else(|error| panic!("{}", error.report()));
}

/// Kills the node in the middle of a run. A call whose answer the client has was counted; one that it has not may
/// have been: so the three places agree with each other, and lie within what the client saw.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_counts_every_answer_that_it_gave() {
    let (mut plant, demo) = subscribed(PlantSettings::default(), 1_000).await;
    let secret = demo.limited.secret.clone();
    let mut total = Calls { attempted: 0, succeeded: 0, refused: 0, failed: 0, errors: [].into() };
    for _ in 0..3 {
        let progress = AtomicU64::new(0);
        let mut node = plant.nodes.remove(0);
        let (calls, ()) = tokio::join!(
            make_calls(&plant, 0, &secret, 60, |_| {
                progress.fetch_add(1, Ordering::Relaxed);
            }),
            async {
                eventually("calls are being made", || async {
                    progress.load(Ordering::Relaxed) > 0
                })
                .await;
                node.kill().await.unwrap();
                node.start_again().await.unwrap();
            }
        );
        plant.nodes.insert(0, node);
        let calls = calls.unwrap();
        total.attempted += calls.attempted;
        total.succeeded += calls.succeeded;
        total.failed += calls.failed;
        total.refused += calls.refused;
    }
    assert_eq!(total.refused, 0);
    let end = make_calls(&plant, 0, &secret, 10, |_| {}).await.unwrap();
    assert_eq!((end.succeeded, end.failed), (10, 0), "{:?}", end.errors);
    total.succeeded += 10;
    total.attempted += 10;
    let agree = || async {
        let ties = plant::ties(&plant, &demo.tenant).await.unwrap();
        ties.are(ties.ledger) && (total.succeeded..=total.attempted).contains(&ties.ledger)
    };
    eventually("ledger, ClickHouse and Stripe agree within what the client saw", agree).await;
    // And it stays so: nothing trickles in twice.
    let ties = plant::ties(&plant, &demo.tenant).await.unwrap();
    assert!(ties.are(ties.ledger), "{ties:?}, the client: {total:?}");
}

/// A dead node's lease is settled when it comes back: the whole quota can be spent, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_gives_back_what_it_held() {
    let (mut plant, demo) = subscribed(PlantSettings::default(), 40).await;
    let secret = demo.limited.secret.clone();
    let first = make_calls(&plant, 0, &secret, 7, |_| {}).await.unwrap();
    assert_eq!(first.succeeded, 7, "{:?}", first.errors);
    plant.nodes[0].kill().await.unwrap();
    plant.nodes[0].start_again().await.unwrap();
    let mut served = 7;
    for _ in 0..20 {
        let calls = make_calls(&plant, 0, &secret, 20, |_| {}).await.unwrap();
        assert_eq!(calls.failed, 0, "{:?}", calls.errors);
        served += calls.succeeded;
        if served >= 40 {
            break;
        }
    }
    assert_eq!(served, 40);
    let more = make_calls(&plant, 0, &secret, 10, |_| {}).await.unwrap();
    assert_eq!(more.succeeded, 0);
}
