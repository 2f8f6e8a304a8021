//! Which of several servers a part is, and what is said when there is none.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stack::{ClickHouse, Folder, Part, ports};
use tokio::process::Command;

use crate::{runs, signal, stack_with};

/// A program that says it is of this version, first in a `PATH` that is otherwise ours.
fn path_with(folder: &Path, program: &str, version: &str) -> String {
    let file = folder.join(program);
    std::fs::write(&file, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

#[tokio::test]
async fn a_server_in_path_that_is_too_old_is_passed_over() {
    for (part, program, says) in [
        ("nats", "nats-server", "nats-server: v2.14.3"),
        ("clickhouse", "clickhouse", "ClickHouse local version 25.8.1.1 (official build)."),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = path_with(folder.path(), program, says);
        let (mut stack, rows) = stack_with(&["--only", part], &[("PATH", &path)]).await;
        let version = rows[0]["version"].as_str().unwrap();
        assert!(!says.contains(version) && rows[0]["pid"].is_u64(), "{rows:?}");
        signal(&stack, "-INT");
        assert!(stack.wait().await.unwrap().success());
    }
}

#[tokio::test]
async fn a_clickhouse_that_someone_else_runs_is_used_and_left_alone() {
    let folder = Folder::temporary().unwrap();
    let theirs = ClickHouse::start(&folder).await.unwrap();
    let pid = theirs.pid().unwrap();
    let env = [
        ("CLICKHOUSE_URL", theirs.url()),
        ("CLICKHOUSE_USER", theirs.user()),
        ("CLICKHOUSE_PASSWORD", theirs.password()),
    ];
    let (mut stack, rows) = stack_with(&["--only", "clickhouse"], &env).await;
    assert_eq!((rows[0]["address"].as_str(), rows[0]["pid"].as_u64()), (Some(theirs.url()), None));
    assert_eq!(rows[0]["version"].as_str(), Some(theirs.version()));
    signal(&stack, "-INT");
    assert!(stack.wait().await.unwrap().success());
    assert!(runs(pid));
    assert_eq!(theirs.query("SELECT 1").await.unwrap(), "1");
}

/// Runs `stack parts` with a start that must fail; gives what it says.
async fn refusal(only: &str, env: &[(&str, &str)]) -> String {
    let mut stack = Command::new(env!("CARGO_BIN_EXE_stack"));
    stack.args(["parts", "--only", only]).envs(env.iter().copied()).kill_on_drop(true);
    let output = stack.output().await.unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn what_cannot_be_had_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap(); // No program in it, and nothing in the cache.
    let env = [("TOLLBOOK_CACHE", empty), ("PATH", empty)];
    let text = refusal("nats", &env).await;
    assert!(
        text.contains("apt-get is not in PATH") && text.contains("put a nats-server"),
        "{text}"
    );
    let text = refusal("clickhouse", &env).await;
    assert!(text.contains("npm is not in PATH") && text.contains("CLICKHOUSE_URL"), "{text}");
    let text = refusal("mcp-server", &env).await;
    assert!(text.contains("node is not in PATH") && text.contains("install Node"), "{text}");
}

#[tokio::test]
async fn a_clickhouse_address_where_nobody_answers_is_refused() {
    let url = format!("http://127.0.0.1:{}", ports::free().unwrap());
    let text = refusal("clickhouse", &[("CLICKHOUSE_URL", &url)]).await;
    assert!(text.contains("cannot be reached") && text.contains("check CLICKHOUSE_URL"), "{text}");
}
