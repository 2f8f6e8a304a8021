//! The official libraries live a whole life against the simulator: pinned, from the registries that npm and pip are set up for.
//!
//! Installed by this test and not by `deploy/stack`: the simulator stands on the same floor, and alone. They are kept under `target/`, so a second run needs no network. A machine without Node, npm or Python fails these tests.

use super::*;
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;

fn check_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("check")
}

/// A folder for what was installed by these files, whole or not there.
async fn installed(name: &str, files: &[&str], install: impl AsyncFnOnce(&Path)) -> PathBuf {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for file in files {
        hash.update(std::fs::read(check_folder().join(file)).unwrap());
    }
    let key = hex::encode(&hash.finalize()[..8]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/stripe-clients");
    let folder = root.join(format!("{name}-{key}"));
    if folder.exists() {
        return folder;
    }
    let fresh = root.join(format!("{name}-{key}-{}", std::process::id()));
    std::fs::create_dir_all(&fresh).unwrap();
    for file in files {
        std::fs::copy(check_folder().join(file), fresh.join(file)).unwrap();
    }
    install(&fresh).await;
    if std::fs::rename(&fresh, &folder).is_err() {
        assert!(folder.exists(), "another run put it there first"); // Else the rename itself failed.
        std::fs::remove_dir_all(&fresh).unwrap();
    }
    folder
}

async fn run(command: &mut Command) -> Output {
    let output = command.kill_on_drop(true).output().await;
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not run: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed:\n{out}\n{err}");
    output
}

async fn lives(sim: &Sim, command: &mut Command) {
    let address = format!("http://{}", sim.server.address());
    let output = run(command.arg(address)).await;
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.ends_with("all good\n"), "{out}");
    assert!(!out.contains("BAD"), "{out}");
    sim.assert_sound().await;
}

#[tokio::test]
async fn stripe_node_lives_a_whole_life() {
    let sim = Sim::with(|config| config.freeze_at = None).await;
    let files = ["package.json", "package-lock.json"];
    let folder = installed("node", &files, async |folder: &Path| {
        run(Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(folder))
        .await;
    });
    let folder = folder.await;
    std::fs::copy(check_folder().join("life.mjs"), folder.join("life.mjs")).unwrap();
    lives(&sim, Command::new("node").arg(folder.join("life.mjs"))).await;
}

#[tokio::test]
async fn stripe_python_lives_a_whole_life() {
    let sim = Sim::with(|config| config.freeze_at = None).await;
    let folder = installed("python", &["requirements.txt"], async |folder: &Path| {
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--target",
        ];
        let list = folder.join("requirements.txt");
        run(Command::new("python3").args(pip).arg(folder.join("lib")).arg("-r").arg(list)).await;
    });
    let library = folder.await.join("lib");
    let life = check_folder().join("life.py");
    lives(&sim, Command::new("python3").env("PYTHONPATH", library).arg(life)).await;
}
