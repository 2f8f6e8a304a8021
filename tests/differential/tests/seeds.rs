//! The short form of the search, with fixed seeds: what `deploy/test --differential` and `--fairness` do at length.

#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use differential::{answers::Answers, fairness, requests::Requests, rig::Rig};

const SEED: u64 = 10;
/// One after another: each fills the machine.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_seen_if_and_only_if_it_is_counted_once() {
    let _turn = TURN.lock().await;
    let rig = Rig::start().await.unwrap();
    let found = Answers::start(&rig).await.unwrap().run(SEED, 0, 600).await.unwrap();
    assert_eq!((found.cases, found.differences), (600, 0), "the differences are printed above");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_runs_was_admitted() {
    let _turn = TURN.lock().await;
    let rig = Rig::start().await.unwrap();
    let own_binary = Path::new(env!("CARGO_BIN_EXE_differential"));
    let requests = Requests::start(&rig, own_binary).await.unwrap();
    let found = requests.run(SEED, 0, 900).await.unwrap();
    assert_eq!((found.cases, found.differences), (900, 0), "the differences are printed above");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_one_tenant_does_another_is_served() {
    let _turn = TURN.lock().await;
    let rig = Rig::start().await.unwrap();
    let figures = fairness::run(&rig, Duration::from_secs(15)).await.unwrap();
    assert!(figures.victim_served_percent >= 99.0, "{figures:?}");
    assert_eq!(figures.victim_503, 0, "{figures:?}");
}
