//! NATS is down for half a minute in the middle of a run: calls go on under their lease, nothing is lost or doubled.

use std::time::Duration;

use plant::{PlantSettings, make_calls, wait_for_ties};
use stack::Part;

use crate::world::{TIMEOUT, subscribed};

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_nats_is_down() {
    let (mut plant, demo) = subscribed(PlantSettings::default(), 10).await;
    let secret = demo.roomy.secret.clone();
    let before = make_calls(&plant, 0, &secret, 30, |_| {}).await.unwrap();
    assert_eq!((before.succeeded, before.failed), (30, 0), "{:?}", before.errors);
    plant.nats.kill().await.unwrap();
    // The length of the outage is what is tested, so here a test waits by the clock.
    let down = tokio::time::Instant::now();
    let mut during = 0;
    while down.elapsed() < Duration::from_secs(30) {
        let calls = make_calls(&plant, 0, &secret, 4, |_| {}).await.unwrap();
        assert_eq!((calls.succeeded, calls.failed), (4, 0), "{:?}", calls.errors);
        during += calls.succeeded;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    plant.nats.start_again().await.unwrap();
    let after = make_calls(&plant, 0, &secret, 30, |_| {}).await.unwrap();
    assert_eq!((after.succeeded, after.failed), (30, 0), "{:?}", after.errors);
    let ties = wait_for_ties(&plant, &demo.tenant, (60 + during, 0), TIMEOUT).await;
    ties.unwrap_or_else(|error| panic!("{}", error.report()));
}
