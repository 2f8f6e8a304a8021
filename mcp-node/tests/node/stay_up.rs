//! Servers that fail: they are left alone for a while, their children are not started in a row, and none takes more
//! memory than it may.

use std::{path::Path, time::Duration};

use http::Method;
use mcp_node::upstream::UpstreamSettings;
use mcp_node_core::breaker::BreakerSettings;
use serde_json::{Value, json};

use crate::{
    process::{Process, known, runs},
    rig::{
        Caller, Rig, SECRET, World, http_upstream_with, initialize, message, settings,
        stdio_upstream, until,
    },
    server::Server,
};

fn nervous() -> UpstreamSettings {
    let breaker = BreakerSettings {
        failures: 3,
        open_ms: 400,
        max_open_ms: 400,
        ..BreakerSettings::default()
    };
    let request_timeout = Duration::from_millis(500);
    UpstreamSettings { breaker, request_timeout, ..settings() }
}

/// Calls a tool until the answer has this status.
async fn until_status(caller: &Caller, tool: &str, status: u16) {
    for id in 0..1_000 {
        if caller.called(1_000 + id, tool, json!({})).await.0 == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{tool} never gave {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_left_alone_for_a_while_and_then_asked_by_one() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream_with(&server.url(), nervous())).await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    for (id, tool) in [(1, "broken"), (2, "broken"), (3, "broken")] {
        assert!(caller.called(id, tool, json!({})).await.0 >= 502, "{tool}");
    }
    let asked = server.sent.lock().len();
    let response = caller.call(4, "success", json!({})).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    let refused = message(response.body());
    assert_eq!(refused["error"]["data"]["reason"], "upstream_unavailable");
    assert!((1..=400).contains(&refused["error"]["data"]["retryAfterMs"].as_u64().unwrap()));
    let (status, body) = caller.asked("tools/call", json!({ "name": "success" })).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!(50308)), "in the new era too");
    assert_eq!(caller.post(initialize(json!({}))).await.status(), 503);
    assert_eq!(server.sent.lock().len(), asked, "nothing went to it");

    // A probe that fails keeps it so; one that does not lets all through.
    until_status(&caller, "broken", 502).await;
    assert_eq!(caller.called(5, "success", json!({})).await.0, 503);
    until_status(&caller, "success", 200).await;
    assert_eq!(caller.called(6, "success", json!({})).await.0, 200);
    let world = rig.stop().await;
    assert_eq!(world.ledger.consumed(&key), 2, "what was refused is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_calls_are_no_failures_of_the_server() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream_with(&server.url(), nervous())).await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let tools = ["tool_error", "protocol_error", "error_with_status", "other_id", "not_json"];
    for (id, tool) in (0..).zip(tools.into_iter().cycle().take(15)) {
        assert_ne!(caller.called(id, tool, json!({})).await.0, 503, "{tool}");
    }
    assert_eq!(caller.called(99, "success", json!({})).await.0, 200);
    rig.stop().await;
}

/// Notes each start; serves when it is told that it is well.
const SICKLY: &str = r#"
import json, os, sys
folder = sys.argv[1]
open(folder + "/start-" + str(os.getpid()), "w").close()
if not os.path.exists(folder + "/well"): sys.exit(1)
for line in sys.stdin:
    m = json.loads(line)
    if "id" in m: print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": {"content": []}}), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_start_is_not_started_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["-c", SICKLY, folder.path().to_str().unwrap()].map(str::to_owned).to_vec();
    let rig = Rig::start(stdio_upstream(Path::new("python3"), args)).await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let starts = || std::fs::read_dir(folder.path()).unwrap().count();
    let mut last = Value::Null;
    for _ in 0..60 {
        let response = caller.post(initialize(json!({}))).await;
        assert_eq!(response.status(), 502);
        last = message(response.body())["error"]["data"].clone();
        if last["reason"] == "upstream_restarting" {
            assert!(response.headers().contains_key("retry-after"));
        }
    }
    assert_eq!(last["reason"], "upstream_restarting");
    assert!((3..15).contains(&starts()), "{} starts for 60 requests", starts());
    std::fs::write(folder.path().join("well"), "").unwrap();
    let mut begun = 502;
    for _ in 0..3_000 {
        begun = caller.post(initialize(json!({}))).await.status().as_u16();
        if begun == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(begun, 200, "it is started when its time has come");
    caller.initialized().await;
    rig.stop().await;
}

/// Holds as much memory as a call says, itself or in a child of its own.
const GREEDY: &str = r#"
import json, os, sys, time
for line in sys.stdin:
    m = json.loads(line)
    if m.get("method") == "tools/call":
        if m["params"]["name"] == "greedy":
            pid = os.fork()
            if pid == 0:
                held = b"x" * (300 << 20)
                time.sleep(1000)
            time.sleep(1000)
        print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": {"content": [], "pid": os.getpid()}}), flush=True)
    elif "id" in m: print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": {}}), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_takes_too_much_memory_ends_alone_with_all_that_it_started() {
    let world = World::start().await;
    world.ledger.key(SECRET, None).await;
    let args = ["--child-max-bytes", "200000000", "--", "python3", "-c", GREEDY];
    let process = Process::start(&world, &args).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    let (greedy, modest) = (caller.clone().initialized().await, caller.initialized().await);
    let pid = |body: Value| body["result"]["pid"].as_u64().unwrap();
    let first = pid(greedy.called(1, "any", json!({})).await.1);
    let (status, body) = greedy.called(2, "greedy", json!({})).await;
    assert_eq!((status, &body["error"]["data"]["reason"]), (502, &json!("upstream_unreachable")));
    until("its whole group is gone", || !runs(first) && group(first) == 0).await;
    let other = pid(modest.called(1, "any", json!({})).await.1);
    assert!(runs(other), "the other session's child stays");
    let metrics = Caller::new(&process.url.replace("/mcp", "/metrics"), "-").without("x-api-key");
    let metrics = metrics.send(Method::GET, "").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    for line in
        [r#"mcp_child_ends_total{why="memory"} 1"#, "mcp_child_starts_total 2", "mcp_children 1"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    assert_eq!(process.stop().await, Some(0));
    assert!(!runs(other));
}

/// Processes of a group that run.
fn group(leader: u64) -> usize {
    let stats = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.unwrap().file_name().to_str()?.parse::<u64>().ok()?;
        std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()
    });
    let of_it = |stat: &String| {
        let mut fields = stat.rsplit(") ").next().unwrap().split_whitespace();
        fields.next() != Some("Z") && fields.nth(1) == Some(leader.to_string().as_str())
    };
    stats.filter(of_it).count()
}
