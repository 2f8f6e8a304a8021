//! The spool folder of a real process: copied while that process is frozen, without room, held by another.

use std::{io::Write, path::Path, process::Command as Blocking, time::Duration};

use http::Method;
use mcp_node::{Node, NodeSettings, spool::SpoolLimits};
use runtime::{http::Client, nats};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    process::{Process, known},
    rig::{Caller, SECRET, World, call, message, until},
    server::Server,
};

fn copy(from: &Path, to: &Path) {
    let copied = Blocking::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Calls until nothing is left for it; how many were answered.
async fn spend(caller: &Caller) -> u64 {
    let mut answered = 0;
    for id in 0..1_000 {
        match caller.called(id, "success", json!({})).await {
            (200, _) => answered += 1,
            (429, _) => return answered,
            other => panic!("{other:?}"),
        }
    }
    panic!("it is served for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_node_and_one_on_a_copy_of_its_folder_keep_the_quota_together() {
    let (world, server) = (World::start().await, Server::start().await);
    let key = world.ledger.key(SECRET, Some(100)).await;
    let (url, spool) = (server.url(), world.folder.path().join("spool"));
    let frozen = Process::start(&world, &["--upstream", &url]).await;
    known(&frozen.caller(SECRET)).await;
    for id in 0..5 {
        assert_eq!(frozen.caller(SECRET).called(id, "success", json!({})).await.0, 200);
    }
    // Twenty calls run in it when it freezes, and forty more wait for it.
    let client = Client::new(Duration::from_secs(5), 64);
    let (mut calls, asked) = (JoinSet::new(), server.sent.lock().len());
    let mut ask = |id: u64, tool: &str| {
        let request = frozen.caller(SECRET).request(Method::POST, call(id, tool, json!({})));
        let client = client.clone();
        calls.spawn(async move {
            let answer = client.send(request, Duration::from_secs(30), 1 << 20).await;
            answer.is_ok_and(|answer| answer.status() == 200)
        });
    };
    (100..120).for_each(|id| ask(id, "held"));
    until("they run", || server.sent.lock().len() >= asked + 20).await;
    frozen.signal(Signal::STOP);
    server.hold.cancel();
    (200..240).for_each(|id| ask(id, "success"));
    let before = world.ledger.consumed(&key);
    assert!(before < 25, "some of them are not answered yet, or this proves nothing");
    let other = world.folder.path().join("copy");
    copy(&spool, &other);

    let replacement =
        Process::run(Process::command(&world, &[], &other, &["--upstream", &url])).await;
    known(&replacement.caller(SECRET)).await;
    let replaced = spend(&replacement.caller(SECRET)).await;
    assert!(replaced >= 30, "it serves meanwhile, {replaced} calls");
    frozen.signal(Signal::CONT);
    let thawed = calls.join_all().await.into_iter().filter(|answered| *answered).count() as u64;
    assert!(5 + replaced + thawed <= 100, "5, {replaced} and {thawed} of 100");
    assert!(thawed >= 20, "what ran in the frozen one was answered: {thawed}");
    until("what the replacement served is counted", || world.ledger.consumed(&key) >= 5 + replaced)
        .await;
    assert_eq!(replacement.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_elsewhere_held_is_free_once_it_cannot_spend_it_any_more() {
    let (world, server) = (World::start().await, Server::start().await);
    let key = world.ledger.key(SECRET, Some(100)).await;
    let process = Process::start(&world, &["--upstream", &server.url()]).await;
    known(&process.caller(SECRET)).await;
    assert_eq!(process.caller(SECRET).called(1, "success", json!({})).await.0, 200);
    process.kill().await;
    until("it held units", || world.ledger.outstanding(&key) > 0).await;
    let other = world.folder.path().join("copy");
    copy(&world.folder.path().join("spool"), &other);

    let limits = SpoolLimits { hold: Duration::ZERO, ..SpoolLimits::default() };
    let settings = NodeSettings { limits, ..NodeSettings::new(&other) };
    for round in 0..2 {
        let nats = nats::connect(&world.server.url(), "node").await.unwrap();
        let node = Node::start(&settings, &nats).await.unwrap();
        until("the ledger knows the new epoch", || world.ledger.has_all(node.spool())).await;
        assert_eq!(world.ledger.outstanding(&key) > 0, round == 0, "round {round}");
        world.ledger.push_watermarks(node.spool().node()).await;
        until("the units are free", || world.ledger.outstanding(&key) == 0).await;
        node.stop(Duration::from_secs(5), Duration::from_secs(10)).await;
    }
    assert_eq!(world.ledger.consumed(&key), 1);
}

/// What makes the disk full.
#[derive(Clone, Copy, PartialEq)]
enum Cause {
    /// A file system of a few MiB that is full.
    FileSystem,
    /// No file may grow any more.
    FileSize,
}

impl Cause {
    /// The commands that start the node so.
    fn by(self) -> Vec<&'static str> {
        const MOUNT: &str = r#"mount -t tmpfs -o size=4m tmpfs "$MCP_SPOOL_DIR" && exec "$0" "$@""#;
        match self {
            Self::FileSystem => vec!["unshare", "-m", "sh", "-c", MOUNT],
            Self::FileSize => vec!["sh", "-c", r#"trap '' XFSZ; exec "$0" "$@""#],
        }
    }

    /// Leaves room, or none.
    fn fill(self, process: &Process, spool: &Path, full: bool) {
        let pid = process.pid();
        match self {
            Self::FileSystem => {
                let pid = pid.as_raw_nonzero();
                let filler = format!("/proc/{pid}/root{}/filler", spool.display());
                if !full {
                    return std::fs::remove_file(filler).unwrap();
                }
                let mut filler = std::fs::File::create(filler).unwrap();
                while filler.write_all(&[1; 4_096]).is_ok() {}
            }
            Self::FileSize => {
                let current = if full { Some(1_024) } else { None };
                let maximum = getrlimit(Resource::Fsize).maximum;
                prlimit(Some(pid), Resource::Fsize, Rlimit { current, maximum }).unwrap();
            }
        }
    }
}

/// What a node's `/ready` says: its status, and what it waits for.
async fn ready(process: &Process) -> (u16, Value) {
    let ready = Caller::new(&process.url.replace("/mcp", "/ready"), "-").without("x-api-key");
    let ready = ready.send(Method::GET, "").await;
    (ready.status().as_u16(), message(ready.body())["waits_for"]["spool"].clone())
}

async fn serves_again_when_there_is_room(cause: Cause) {
    let (world, server) = (World::start().await, Server::start().await);
    let key = world.ledger.key(SECRET, Some(1_000)).await;
    let (url, spool) = (server.url(), world.folder.path().join("spool"));
    std::fs::create_dir_all(&spool).unwrap();
    let command = Process::command(&world, &cause.by(), &spool, &["--upstream", &url]);
    let process = Process::run(command).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    let mut answered = 0;
    for round in 0..3u64 {
        for id in 0..10 {
            assert_eq!(caller.called(id, "success", json!({})).await.0, 200);
            answered += 1;
        }
        cause.fill(&process, &spool, true);
        let mut refused = Value::Null;
        for id in 0..100 {
            let (status, body) = caller.called(id, "success", json!({})).await;
            if status != 200 {
                refused = body["error"]["data"]["reason"].clone();
                break;
            }
            answered += 1; // There was room left on a page of its own.
        }
        assert_eq!(refused, "cannot_record", "round {round}");
        let (mut status, mut why) = (200, Value::Null);
        while status == 200 {
            (status, why) = ready(&process).await;
        }
        let why = why.as_str().unwrap();
        assert!(status == 503 && why.starts_with("no room on the disk since 20"), "{why}");
        assert_eq!(caller.called(1, "success", json!({})).await.0, 503);
        cause.fill(&process, &spool, false);
        while status != 200 {
            status = ready(&process).await.0;
        }
    }
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
    answered += 1;
    until("what was answered is counted", || world.ledger.consumed(&key) == answered).await;
    assert_eq!(process.stop().await, Some(0));
    until("no unit is held", || world.ledger.outstanding(&key) == 0).await;
    assert_eq!(world.ledger.consumed(&key), answered, "and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_was_full_serves_again_when_there_is_room() {
    let mounts = Blocking::new("unshare").args(["-m", "true"]).status();
    if mounts.is_ok_and(|status| status.success()) {
        serves_again_when_there_is_room(Cause::FileSystem).await;
    } else {
        eprintln!("nothing can be mounted here: files that may not grow stand for a full disk");
        serves_again_when_there_is_room(Cause::FileSize).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_files_might_not_grow_serves_again_when_they_may() {
    serves_again_when_there_is_room(Cause::FileSize).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_process_on_a_folder_listens_nowhere_and_names_the_first() {
    let (world, server) = (World::start().await, Server::start().await);
    let (url, spool) = (server.url(), world.folder.path().join("spool"));
    let first = Process::start(&world, &["--upstream", &url]).await;
    let args = ["--upstream", &url, "--ops-listen", "127.0.0.1:0"];
    let out = Process::command(&world, &[], &spool, &args).output().await.unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(!said.contains("Listening"), "{said}");
    let holder = format!("in use by process {}", first.pid().as_raw_nonzero());
    assert!(said.contains(&holder) && said.contains(spool.to_str().unwrap()), "{said}");
    assert_eq!(first.stop().await, Some(0));
}
