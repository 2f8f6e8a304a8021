//! Every part starts, answers, survives a crash with its data, and leaves nothing behind.
//!
//! The parts are real and come from the cache, which the first run fills.

#![allow(clippy::unwrap_used)] // The lint knows test functions, but not their helpers.

mod calls;
mod choice;
mod clickhouse;
mod ending;
mod mcp_server;
mod nats;
mod own;
mod postgres;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep};

/// Whether a process runs; a zombie that waits for its parent does not.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&child| parent(child) == Some(pid)).collect()
}

/// Waits until `holds`; panics with `claim` after 20 s.
async fn eventually(claim: &str, holds: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < give_up, "{claim}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Starts `stack parts` and gives it and the rows of its table.
async fn stack_with(args: &[&str], env: &[(&str, &str)]) -> (tokio::process::Child, Vec<Value>) {
    let mut stack = tokio::process::Command::new(env!("CARGO_BIN_EXE_stack"))
        .args(["parts", "--json"])
        .args(args)
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(stack.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    (stack, serde_json::from_str(&line).unwrap())
}

fn signal(process: &tokio::process::Child, name: &str) {
    let pid = process.id().unwrap().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// Builds the Stripe simulator where it is not there: cargo builds another package's binaries for
/// nobody's tests.
fn stripe_sim_is_built() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let beside = Path::new(env!("CARGO_BIN_EXE_stack")).with_file_name("stripe-sim");
        if !beside.exists() {
            let build =
                Command::new(env!("CARGO")).args(["build", "--package", "stripe-sim"]).status();
            assert!(build.unwrap().success(), "stripe-sim does not build");
        }
    });
}
