//! The end of a whole stack: by Ctrl-C and by SIGKILL.

use std::path::Path;

use tokio::process::{Child, Command};

use crate::{children, eventually, runs, signal, stack_with};

const PARTS: &str = "nats,postgres,clickhouse,mcp-server";

/// Starts `stack parts` with temporary folders below `base`; gives it and its parts' pids.
async fn stack(base: &Path, args: &[&str]) -> (Child, Vec<u32>) {
    let (stack, rows) = stack_with(args, &[("TMPDIR", base.to_str().unwrap())]).await;
    let pids =
        rows.iter().map(|row| u32::try_from(row["pid"].as_u64().unwrap()).unwrap()).collect();
    (stack, pids)
}

/// A base for temporary folders that the account of a root's PostgreSQL can pass.
fn base() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let base = tempfile::tempdir().unwrap();
    std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    base
}

fn folders(base: &Path) -> usize {
    std::fs::read_dir(base).unwrap().count()
}

/// The parts and everything below them.
fn all_of(pids: &[u32]) -> Vec<u32> {
    pids.iter().flat_map(|&pid| std::iter::once(pid).chain(children(pid))).collect()
}

#[tokio::test]
async fn ctrl_c_leaves_neither_a_process_nor_a_file() {
    for name in ["-INT", "-TERM"] {
        let base = base();
        let (mut stack, pids) = stack(base.path(), &["--only", PARTS]).await;
        assert_eq!((pids.len(), folders(base.path())), (4, 1));
        let all = all_of(&pids);
        assert!(all.len() > 6 && all.iter().all(|&pid| runs(pid)), "{all:?}");
        signal(&stack, name);
        assert!(stack.wait().await.unwrap().success());
        assert!(!all.iter().any(|&pid| runs(pid)), "{all:?}");
        assert_eq!(folders(base.path()), 0);
    }
}

#[tokio::test]
async fn a_killed_stack_takes_its_parts_along_and_the_next_one_cleans_up() {
    let base = base();
    let (mut first, pids) = stack(base.path(), &["--only", PARTS]).await;
    let all = all_of(&pids);
    first.kill().await.unwrap(); // SIGKILL: it can do nothing any more.
    eventually("no part outlives a killed stack", || !all.iter().any(|&pid| runs(pid))).await;
    assert_eq!(folders(base.path()), 1);
    let (mut second, _) = stack(base.path(), &["--only", "nats"]).await;
    assert_eq!(folders(base.path()), 1, "the dead stack's folder has gone, the new one is there");
    signal(&second, "-INT");
    assert!(second.wait().await.unwrap().success());
    assert_eq!(folders(base.path()), 0);
}

#[tokio::test]
async fn a_named_folder_keeps_its_data_and_refuses_a_second_stack() {
    let base = base();
    let data = base.path().join("data");
    let args = ["--only", "nats", "--data", data.to_str().unwrap()];
    let (mut first, _) = stack(base.path(), &args).await;
    let second =
        Command::new(env!("CARGO_BIN_EXE_stack")).arg("parts").args(args).output().await.unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another stack uses"));
    signal(&first, "-INT");
    assert!(first.wait().await.unwrap().success());
    assert!(data.join("nats/data/jetstream").exists());
}
