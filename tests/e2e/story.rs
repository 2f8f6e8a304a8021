//! The main story: subscribe, call, be refused at the quota, be counted and billed.

use plant::{PlantSettings, make_calls, wait_for_ties};

use crate::world::{TIMEOUT, subscribed};

async fn story(settings: PlantSettings) {
    let (plant, demo) = subscribed(settings, 60).await;
    let calls = make_calls(&plant, 0, &demo.limited.secret, 100, |_| {}).await.unwrap();
    assert_eq!((calls.succeeded, calls.refused, calls.failed), (60, 40, 0), "{:?}", calls.errors);
    let ties = wait_for_ties(&plant, &demo.tenant, (60, 40), TIMEOUT).await;
    ties.unwrap_or_else(|error| panic!("{}", error.report()));
    plant.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_http_are_metered_refused_charted_and_billed() {
    story(PlantSettings::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_stdio_are_metered_refused_charted_and_billed() {
    story(PlantSettings { stdio: true, ..PlantSettings::default() }).await;
}

/// Three nodes share one key's quota: together they serve it to the unit.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_exact_across_nodes() {
    let (plant, demo) =
        subscribed(PlantSettings { nodes: 3, ..PlantSettings::default() }, 50).await;
    let secret = demo.limited.secret.clone();
    let (a, b, c) = tokio::join!(
        make_calls(&plant, 0, &secret, 40, |_| {}),
        make_calls(&plant, 1, &secret, 40, |_| {}),
        make_calls(&plant, 2, &secret, 40, |_| {}),
    );
    let (mut succeeded, mut refused) = (0, 0);
    for calls in [a.unwrap(), b.unwrap(), c.unwrap()] {
        assert_eq!(calls.failed, 0, "{:?}", calls.errors);
        succeeded += calls.succeeded;
        refused += calls.refused;
    }
    // A unit that another node holds is refused with "try again", so the last ones may need another try.
    let mut tries = 0;
    while succeeded < 50 && tries < 20 {
        let more = make_calls(&plant, tries % 3, &secret, 10, |_| {}).await.unwrap();
        assert_eq!(more.failed, 0, "{:?}", more.errors);
        succeeded += more.succeeded;
        refused += more.refused;
        tries += 1;
    }
    assert_eq!(succeeded, 50, "every unit can be spent, and not one more");
    let ties = wait_for_ties(&plant, &demo.tenant, (50, refused), TIMEOUT).await;
    ties.unwrap_or_else(|error| panic!("{}", error.report()));
}
