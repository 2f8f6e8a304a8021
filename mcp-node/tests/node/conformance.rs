//! The official conformance suite, against our fixture and then through a node with everything switched on: keys,
//! a hard quota, the spool, the publisher.

use std::{path::Path, time::Duration};

use mcp_fixture::{Fixture, Speaks};
use schemas::Record;
use stack::{CLIENT_PASSED, CLIENT_SCENARIOS, Clients, Conformance, Verdict};
use tokio::process::Command;

use crate::rig::{Rig, SECRET, World, http_upstream_with, settings, until};

/// What a revision asks for, and how many scenarios that is.
pub const REVISIONS: [(&str, usize); 2] = [("2025-11-25", 30), ("2026-07-28", 37)];

/// What the suite says of a server, and its words.
pub struct Judged {
    pub verdict: Verdict,
    pub said: String,
}

pub async fn judge(url: &str, revision: &str, results: &Path) -> Judged {
    let (program, args) =
        Conformance::fetch().await.unwrap().server_command(url, revision, results);
    let running = Command::new(program).args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(180), running).await;
    let output = output.expect("the suite ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Judged { verdict: Verdict::read(&said).unwrap_or_else(|| panic!("{said}")), said }
}

impl Judged {
    #[track_caller]
    pub fn is_whole(&self, whose: &str, count: usize) {
        let (Verdict { passed, failed, beside }, said) = (&self.verdict, &self.said);
        eprintln!("{whose}: {} passed, failed {failed:?}; beside: {beside:?}", passed.len());
        assert!(failed.is_empty(), "{whose} fails {failed:?}\n{said}");
        assert!(passed.len() >= count, "{whose}: {} of {count}\n{said}", passed.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fixture_passes_the_official_suite() {
    let (url, results) = (Fixture::serve(Speaks::All).await.unwrap(), tempfile::tempdir().unwrap());
    for (revision, count) in REVISIONS {
        judge(&url, revision, results.path()).await.is_whole(revision, count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_suite_passes_through_the_node() {
    let results = tempfile::tempdir().unwrap();
    let settings = mcp_node::upstream::UpstreamSettings { max_sessions: 1_000, ..settings() };
    let rig =
        Rig::start(http_upstream_with(&Fixture::serve(Speaks::All).await.unwrap(), settings)).await;
    let key = rig.ledger().key(SECRET, Some(10_000)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let url = rig.open_keyed(SECRET).await;
    for (revision, count) in REVISIONS {
        judge(&url, revision, results.path()).await.is_whole(revision, count);
    }
    let world = rig.stop().await;
    let records = world.ledger.records();
    let billed = records.iter().filter(|placed| match &placed.record {
        Record::Usage(event) => !event.quantities.is_empty(),
        _ => false,
    });
    let billed = billed.count() as u64;
    assert!(billed > 20, "the suite's calls were counted: {billed}");
    assert_eq!(world.ledger.consumed(&key), billed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_the_suite_see_a_good_client_through_the_node() {
    let (suite, clients) = (Conformance::fetch().await.unwrap(), Clients::fetch().await.unwrap());
    let (world, results) = (World::start().await, tempfile::tempdir().unwrap());
    let key = world.ledger.key(SECRET, Some(1_000)).await;
    for (revision, sessions, scenarios) in CLIENT_SCENARIOS {
        let node = Path::new(env!("CARGO_BIN_EXE_mcp-node"));
        let client = clients.conformance(node, SECRET, sessions);
        for scenario in scenarios {
            let (program, args) = suite.client_command(scenario, revision, &client, results.path());
            let mut command = Command::new(program);
            command.args(args).env("RUST_LOG", "info").env("MCP_NATS_URL", world.server.url());
            command.env("MCP_SPOOL_DIR", world.folder.path().join("spool")).kill_on_drop(true);
            let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
            let output = output.expect("the scenario ends").unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            let passed = said.contains(CLIENT_PASSED) || errors.contains(CLIENT_PASSED);
            assert!(passed, "{revision} {scenario}:\n{said}\n{errors}");
        }
    }
    let counted = world.ledger.consumed(&key);
    assert!(counted > 10, "the calls went through the node, and were counted: {counted}");
}
