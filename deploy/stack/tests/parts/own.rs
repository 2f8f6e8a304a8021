//! Our own binaries: the Stripe simulator as a part, and any binary as a service.

use stack::{Folder, Part, Service, ServiceSettings, StripeSim, ports};

use crate::{runs, stripe_sim_is_built};

#[tokio::test]
async fn the_stripe_simulator_comes_back_at_the_same_address() {
    stripe_sim_is_built();
    let folder = Folder::temporary().unwrap();
    let mut stripe = StripeSim::start(&folder).await.unwrap();
    let (url, first) = (stripe.url(), stripe.pid().unwrap());
    stripe.kill().await.unwrap();
    assert!(!runs(first));
    stripe.start_again().await.unwrap();
    assert_eq!(stripe.url(), url);
    let last = stripe.pid().unwrap();
    stripe.stop().await.unwrap();
    assert!(!runs(last));
}

#[tokio::test]
async fn two_services_of_one_binary_live_side_by_side() {
    stripe_sim_is_built();
    let folder = Folder::temporary().unwrap();
    let settings = |name: &str| {
        let listen = format!("127.0.0.1:{}", ports::free().unwrap());
        ServiceSettings {
            binary: "stripe-sim".to_owned(),
            name: name.to_owned(),
            args: vec!["--listen".into(), listen.clone().into()],
            env: vec![("TOLLBOOK_TRY".to_owned(), "given".to_owned())],
            health: format!("http://{listen}/_sim/health"),
        }
    };
    let mut one = Service::start(&folder, settings("one")).await.unwrap();
    let two = Service::start(&folder, settings("two")).await.unwrap();
    let (first, other) = (one.pid().unwrap(), two.pid().unwrap());
    let environment = std::fs::read_to_string(format!("/proc/{first}/environ")).unwrap();
    assert!(environment.contains("TOLLBOOK_TRY=given") && !environment.contains("CARGO"));
    one.kill().await.unwrap();
    assert!(!runs(first) && runs(other));
    one.start_again().await.unwrap();
    assert!(folder.log("one").exists() && folder.log("two").exists());
    drop((one, two));
    assert!(!runs(other));
}

#[tokio::test]
async fn a_service_that_dies_at_its_start_says_why() {
    let folder = Folder::temporary().unwrap();
    let settings = ServiceSettings {
        binary: "clickhouse-embedded".to_owned(),
        args: vec!["--no-such-flag".into()],
        health: "http://127.0.0.1:1/".to_owned(),
        ..ServiceSettings::default()
    };
    let error = Service::start(&folder, settings).await.err().unwrap();
    assert_eq!(error.part(), "clickhouse-embedded");
    assert!(error.report().contains("unexpected argument '--no-such-flag'"), "{}", error.report());
}

#[tokio::test]
async fn a_binary_that_is_not_built_is_named_with_the_remedy() {
    let folder = Folder::temporary().unwrap();
    let settings =
        ServiceSettings { binary: "no-such-service".to_owned(), ..ServiceSettings::default() };
    let report = Service::start(&folder, settings).await.err().unwrap().report();
    assert!(report.contains("no-such-service") && report.contains("cargo build"), "{report}");
}
