//! What every child process must do, tried on shell scripts.

use std::thread;

use super::*;
use crate::family::has_ended;

/// A shell script in a folder of its own; it serves once it has made the file `up`.
fn script(folder: &tempfile::TempDir, text: &str) -> (Spec, Probe) {
    let path = folder.path().to_owned();
    let spec = Spec {
        part: "script".to_owned(),
        program: PathBuf::from("/bin/sh"),
        args: vec!["-c".into(), text.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        folder: path.clone(),
        log: path.join("log"),
        account: None,
        ready_bound: Duration::from_secs(20),
        stop: Signal::TERM,
        stop_bound: Duration::from_secs(20),
        death: Signal::KILL,
    };
    let probe: Probe = Box::new(move |_| {
        let up = path.join("up").exists();
        Box::pin(
            async move { if up { Probed::Ready } else { Probed::NotYet("no file".to_owned()) } },
        )
    });
    (spec, probe)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_process_that_ends_early_is_reported_with_its_log() {
    let folder = folder();
    let (spec, probe) = script(&folder, "echo no such port >&2; exit 3");
    let error = Child::start(spec, probe).await.err().unwrap();
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    assert!(error.log_tail().unwrap().contains("no such port"));
}

#[tokio::test]
async fn a_process_that_never_serves_is_reported_and_gone() {
    let folder = folder();
    let (mut spec, probe) = script(&folder, "echo $$ > pid; exec sleep 1000");
    spec.ready_bound = Duration::from_millis(300);
    let error = Child::start(spec, probe).await.err().unwrap();
    assert!(error.to_string().contains("did not serve"), "{error}");
    let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap().trim().parse().unwrap();
    assert!(!is_there(pid));
}

#[tokio::test]
async fn a_process_that_ignores_the_stop_signal_is_killed() {
    let folder = folder();
    let (mut spec, probe) = script(&folder, "trap '' TERM; touch up; while :; do sleep 0.05; done");
    spec.stop_bound = Duration::from_millis(300);
    let mut child = Child::start(spec, probe).await.unwrap();
    let pid = child.pid().unwrap();
    child.stop().await.unwrap();
    assert!(child.pid().is_none() && !is_there(pid));
}

#[tokio::test]
async fn a_kill_takes_descendants_that_left_the_group() {
    let folder = folder();
    let text = "setsid sh -c 'echo $$ > pid; mv pid child; exec sleep 1000' & \
                until [ -e child ]; do sleep 0.01; done; touch up; wait";
    let (spec, probe) = script(&folder, text);
    let mut child = Child::start(spec, probe).await.unwrap();
    let deep =
        std::fs::read_to_string(folder.path().join("child")).unwrap().trim().parse().unwrap();
    assert!(is_there(deep));
    child.kill().await.unwrap();
    // An orphan's number goes when its new parent has reaped it; it is dead before that.
    let stat = std::fs::read_to_string(format!("/proc/{deep}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[tokio::test]
async fn a_stop_leaves_nothing_in_the_group() {
    let folder = folder();
    let text = "sleep 1000 & echo $! > child; trap 'exit 0' TERM; touch up; wait";
    let (spec, probe) = script(&folder, text);
    let mut child = Child::start(spec, probe).await.unwrap();
    let left =
        std::fs::read_to_string(folder.path().join("child")).unwrap().trim().parse().unwrap();
    assert!(is_there(left));
    child.stop().await.unwrap();
    let give_up = Instant::now() + Duration::from_secs(10);
    while is_there(left) {
        assert!(Instant::now() < give_up, "process {left} is still there");
        sleep(PAUSE).await; // It is dead, and waits to be reaped by its new parent.
    }
}

#[tokio::test]
async fn a_process_starts_again_after_a_stop_but_not_beside_itself() {
    let folder = folder();
    let (spec, probe) = script(&folder, "touch up; exec sleep 1000");
    let mut child = Child::start(spec, probe).await.unwrap();
    let first = child.pid().unwrap();
    assert!(child.start_again().await.unwrap_err().to_string().contains("runs already"));
    child.stop().await.unwrap();
    child.start_again().await.unwrap();
    assert!(!is_there(first) && child.pid().is_some_and(is_there));
}

#[tokio::test]
async fn a_dropped_handle_ends_its_process() {
    let folder = folder();
    let (spec, probe) = script(&folder, "touch up; exec sleep 1000");
    let child = Child::start(spec, probe).await.unwrap();
    let pid = child.pid().unwrap();
    assert!(is_there(pid));
    drop(child);
    assert!(!is_there(pid));
}

#[tokio::test]
async fn a_crash_is_seen_by_who_waits_for_the_end() {
    let folder = folder();
    let (spec, probe) = script(&folder, "touch up; until [ -e go ]; do sleep 0.01; done; exit 7");
    let child = Child::start(spec, probe).await.unwrap();
    std::fs::write(folder.path().join("go"), "").unwrap();
    assert_eq!(child.ended().await.unwrap().code(), Some(7));
    assert!(child.pid().is_none());
}

/// The kernel takes the thread that forked for the parent: were that the caller's, its end
/// would end the child.
#[test]
fn a_process_outlives_the_thread_that_asked_for_it() {
    let folder = folder();
    let (spec, probe) = script(&folder, "touch up; exec sleep 1000");
    let start = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Child::start(spec, probe)).unwrap()
    };
    let child = thread::spawn(start).join().unwrap();
    assert!(!has_ended(&child.running.as_ref().unwrap().handle, Duration::from_millis(200)));
}
