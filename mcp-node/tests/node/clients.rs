//! Clients and servers that nobody here wrote, through the node as a process: the official SDKs, the Inspector and
//! mcp-remote, in front of server-everything and mcp-server-time.

use std::{collections::BTreeMap, path::Path, time::Duration};

use schemas::KeyState;
use serde::Deserialize;
use serde_json::{Value, json};
use stack::{Clients, CommandLine, Folder, McpServer, Sdk};
use tokio::process::Command;

use crate::{
    process::Process,
    rig::{World, until},
};

/// What a client saw of one session.
#[derive(Debug, Deserialize)]
struct Seen {
    protocol: Option<String>,
    tools: Vec<String>,
    results: Vec<BTreeMap<String, Value>>,
    progress: u64,
    asked: u64,
}

struct Output {
    success: bool,
    stdout: String,
    stderr: String,
}

/// Runs a client to its end; what it keeps of its own goes to `home`.
async fn run((program, args): CommandLine, home: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(args).env("HOME", home).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
    let output = output.expect("the client ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output {
        success: output.status.success(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

async fn session(clients: &Clients, sdk: Sdk, url: &str, key: &str, calls: Value) -> Seen {
    let home = tempfile::tempdir().unwrap();
    let output = run(clients.session(sdk, url, key, &calls.to_string()), home.path()).await;
    let last = output.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last)
        .unwrap_or_else(|error| panic!("{sdk:?}: {error}\n{}\n{}", output.stdout, output.stderr))
}

/// The arguments of a node in front of a command.
fn behind((program, args): &CommandLine) -> Vec<String> {
    let program = program.to_string_lossy().into_owned();
    ["--".to_owned(), program].into_iter().chain(args.iter().cloned()).collect()
}

async fn node(world: &World, args: &[String]) -> Process {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Process::start(world, &args).await
}

/// A key of its own for each client, with a hard quota.
async fn keys(world: &World, quota: u64) -> Vec<(Sdk, String, KeyState)> {
    keys_of(world, &Sdk::ALL, quota).await
}

async fn keys_of(world: &World, sdks: &[Sdk], quota: u64) -> Vec<(Sdk, String, KeyState)> {
    let mut keys = Vec::new();
    for (number, sdk) in sdks.iter().copied().enumerate() {
        let secret = format!("tb_client_{sdk:?}_{number}");
        let key = world.ledger.key(&secret, Some(quota)).await;
        keys.push((sdk, secret, key));
    }
    keys
}

/// Clients that ask what the node speaks get the newest revision, whatever the server behind it speaks.
fn expected_protocol(sdk: Sdk) -> Option<&'static str> {
    match sdk {
        Sdk::JavaScript2 | Sdk::Python => Some("2026-07-28"),
        // The SDK does not tell its transport.
        Sdk::McpRemote | Sdk::JavaScript1WebSocket => None,
        _ => Some("2025-11-25"),
    }
}

/// The older transports at the same node, each with the clients that speak it.
fn older(url: &str) -> [(String, &'static [Sdk]); 2] {
    let base = url.strip_suffix("/mcp").unwrap();
    let socket = base.replacen("http", "ws", 1);
    [(format!("{base}/sse"), &Sdk::SSE), (format!("{socket}/ws"), &Sdk::WEBSOCKET)]
}

/// Every client does all that server-everything asks of it, is counted to the call and refused at its quota.
async fn every_client_is_served(world: &World, clients: &Clients, url: &str) {
    these_clients_are_served(world, clients, &Sdk::ALL, url).await;
}

/// As [`every_client_is_served`], over HTTP+SSE and WebSocket.
async fn every_older_client_is_served(world: &World, clients: &Clients, url: &str) {
    for (url, sdks) in older(url) {
        these_clients_are_served(world, clients, sdks, &url).await;
    }
}

async fn these_clients_are_served(world: &World, clients: &Clients, sdks: &[Sdk], url: &str) {
    let keys = keys_of(world, sdks, 4).await;
    for (sdk, secret, _) in &keys {
        let calls = json!([
            ["echo", { "message": "hi" }],
            ["trigger-long-running-operation", { "duration": 1, "steps": 4 }],
            ["trigger-sampling-request", { "prompt": "p", "maxTokens": 5 }],
            ["trigger-elicitation-request", {}],
            ["echo", { "message": "past the quota" }],
        ]);
        let seen = session(clients, *sdk, url, secret, calls).await;
        assert_eq!(seen.protocol.as_deref(), expected_protocol(*sdk), "{sdk:?}: {seen:?}");
        assert!(seen.tools.iter().any(|tool| tool == "echo"), "{sdk:?}: {seen:?}");
        let texts: Vec<&str> =
            seen.results.iter().filter_map(|r| r.get("text")?.as_str()).collect();
        assert_eq!(texts.len(), 4, "{sdk:?}: {seen:?}");
        assert_eq!(texts[0], "Echo: hi", "{sdk:?}");
        assert!(texts[2].contains("sampled"), "{sdk:?}: {}", texts[2]);
        assert!(texts[3].contains("decline"), "{sdk:?}: {}", texts[3]);
        assert_eq!(seen.results[4].get("error"), Some(&json!(42901)), "{sdk:?}: {seen:?}");
        // The SDK drops a notice that it reads in one piece with the result, so the last may be missing.
        assert!(seen.progress >= 3, "{sdk:?}: {seen:?}");
        assert_eq!(seen.asked, 2, "{sdk:?}: sampling and elicitation: {seen:?}");
    }
    for (sdk, _, key) in &keys {
        until(&format!("the calls of {sdk:?} are counted"), || world.ledger.consumed(key) == 4)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_work_in_front_of_server_everything_over_http() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let folder = Folder::temporary().unwrap();
    let server = McpServer::start(&folder).await.unwrap();
    let node = node(&world, &["--upstream".to_owned(), server.url()]).await;
    every_client_is_served(&world, &clients, &node.url).await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_work_in_front_of_server_everything_over_stdio() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let node = node(&world, &behind(&clients.server_everything())).await;
    every_client_is_served(&world, &clients, &node.url).await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_clients_work_in_front_of_server_everything_over_http() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let folder = Folder::temporary().unwrap();
    let server = McpServer::start(&folder).await.unwrap();
    let node = node(&world, &["--upstream".to_owned(), server.url()]).await;
    every_older_client_is_served(&world, &clients, &node.url).await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_clients_work_in_front_of_server_everything_over_stdio() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let node = node(&world, &behind(&clients.server_everything())).await;
    every_older_client_is_served(&world, &clients, &node.url).await;
    assert_eq!(node.stop().await, Some(0));
}

/// A server of others, at an address that it says or was told.
struct Other {
    _child: tokio::process::Child,
    url: String,
}

impl Other {
    /// Over HTTP+SSE, on a port that was free.
    async fn over_sse(command: impl FnOnce(u16) -> CommandLine) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let (program, args) = command(port);
        let mut command = Command::new(program);
        command.args(args).env("PORT", port.to_string()).kill_on_drop(true);
        let child = command.spawn().unwrap();
        for _ in 0..3_000 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Self { _child: child, url: format!("http://127.0.0.1:{port}/sse") };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server does not listen");
    }

    /// Over WebSocket, at the address that it prints.
    async fn over_websocket((program, args): CommandLine) -> Self {
        let mut command = Command::new(program);
        command.args(args).stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdout = tokio::io::BufReader::new(child.stdout.take().unwrap());
        let mut lines = tokio::io::AsyncBufReadExt::lines(stdout);
        let url = lines.next_line().await.unwrap().expect("its address");
        Self { _child: child, url }
    }
}

/// One client of each SDK over Streamable HTTP, and one of the new era.
const OF_EACH: [Sdk; 3] = [Sdk::JavaScript1, Sdk::JavaScript2, Sdk::PythonSessions];

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_work_in_front_of_a_server_over_sse() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let server = Other::over_sse(|_| clients.server_everything_sse()).await;
    // What it speaks is found out.
    let node = node(&world, &["--upstream".to_owned(), server.url.clone()]).await;
    these_clients_are_served(&world, &clients, &OF_EACH, &node.url).await;
    every_older_client_is_served(&world, &clients, &node.url).await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_work_in_front_of_a_server_over_websocket() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let server = Other::over_websocket(clients.server_everything_websocket()).await;
    let node = node(&world, &["--upstream".to_owned(), server.url.clone()]).await;
    these_clients_are_served(&world, &clients, &OF_EACH, &node.url).await;
    every_older_client_is_served(&world, &clients, &node.url).await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_work_in_front_of_a_server_of_python_over_sse() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let server = Other::over_sse(|port| clients.python_server_sse(port)).await;
    let args = ["--upstream", &server.url, "--upstream-transport", "sse"].map(str::to_owned);
    let node = node(&world, &args).await;
    // In the new era, which it speaks over HTTP+SSE too, the server cannot ask in the middle of a call.
    let old = [Sdk::JavaScript1, Sdk::JavaScript2Sessions, Sdk::PythonSessions];
    let fronts = [(node.url.clone(), &old[..])].into_iter().chain(older(&node.url));
    for (url, sdks) in fronts {
        let keys = keys_of(&world, sdks, 3).await;
        for (sdk, secret, _) in &keys {
            let calls = json!([
                ["echo", { "message": "hi" }],
                ["ask", {}],
                ["echo", { "message": "again" }],
                ["echo", { "message": "past the quota" }],
            ]);
            let seen = session(&clients, *sdk, &url, secret, calls).await;
            assert_eq!(seen.tools, ["echo", "ask"], "{sdk:?}: {seen:?}");
            let texts: Vec<&str> =
                seen.results.iter().filter_map(|r| r.get("text")?.as_str()).collect();
            assert_eq!(texts, ["Echo: hi", "sampled", "Echo: again"], "{sdk:?}: {seen:?}");
            assert_eq!(seen.results[3].get("error"), Some(&json!(42901)), "{sdk:?}: {seen:?}");
        }
        for (sdk, _, key) in &keys {
            until(&format!("the calls of {sdk:?} are counted"), || world.ledger.consumed(key) == 3)
                .await;
        }
    }
    for (sdk, secret, _) in keys_of(&world, &[Sdk::JavaScript2, Sdk::Python], 1).await {
        let calls = json!([["echo", { "message": "hi" }], ["echo", { "message": "more" }]]);
        let seen = session(&clients, sdk, &node.url, &secret, calls).await;
        assert_eq!(seen.protocol.as_deref(), Some("2026-07-28"), "{sdk:?}: {seen:?}");
        assert_eq!(seen.results[0].get("text"), Some(&json!("Echo: hi")), "{sdk:?}: {seen:?}");
        assert_eq!(seen.results[1].get("error"), Some(&json!(42901)), "{sdk:?}: {seen:?}");
    }
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_work_in_front_of_mcp_server_time() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let node = node(&world, &behind(&clients.server_time())).await;
    let keys = keys(&world, 100).await;
    for (sdk, secret, _) in &keys {
        let noon = json!({ "source_timezone": "Etc/UTC", "time": "12:00", "target_timezone": "Asia/Tokyo" });
        let calls = json!([
            ["get_current_time", { "timezone": "Etc/UTC" }],
            ["convert_time", noon],
            ["get_current_time", { "timezone": "Mars/Olympus" }],
        ]);
        let seen = session(&clients, *sdk, &node.url, secret, calls).await;
        assert_eq!(seen.tools, ["get_current_time", "convert_time"], "{sdk:?}");
        let text =
            |at: usize| seen.results[at].get("text").and_then(Value::as_str).unwrap_or_default();
        assert!(text(0).contains("Etc/UTC"), "{sdk:?}: {seen:?}");
        assert!(text(1).contains("T21:00:00+09:00"), "{sdk:?}: {seen:?}");
        assert!(seen.results[2].contains_key("error"), "{sdk:?}: {seen:?}");
    }
    for (sdk, _, key) in &keys {
        // A tool's error is free.
        until(&format!("the calls of {sdk:?} are counted"), || world.ledger.consumed(key) == 2)
            .await;
    }
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_works_and_says_why_it_is_refused() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let key = world.ledger.key("tb_inspector", Some(1)).await;
    let node = node(&world, &behind(&clients.server_everything())).await;
    let home = tempfile::tempdir().unwrap();
    let inspect = async |more: &[&str]| {
        let (program, mut args) = clients.inspector(&node.url, "tb_inspector");
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        run((program, args), home.path()).await
    };
    let listed = inspect(&["--method", "tools/list"]).await;
    assert!(listed.success && listed.stdout.contains("\"echo\""), "{}", listed.stderr);
    let echo = ["--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hi"];
    let called = inspect(&echo).await;
    assert!(called.success && called.stdout.contains("Echo: hi"), "{}", called.stderr);
    let refused = inspect(&echo).await;
    assert!(!refused.success, "{}", refused.stdout);
    assert!(refused.stderr.contains("quota_exhausted"), "{}", refused.stderr);
    until("the one call is counted", || world.ledger.consumed(&key) == 1).await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_works_in_front_of_mcp_server_time() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let key = world.ledger.key("tb_inspector", Some(9)).await;
    let node = node(&world, &behind(&clients.server_time())).await;
    let home = tempfile::tempdir().unwrap();
    let (program, mut args) = clients.inspector(&node.url, "tb_inspector");
    let call = ["--method", "tools/call", "--tool-name", "get_current_time"];
    args.extend(call.iter().chain(&["--tool-arg", "timezone=Etc/UTC"]).map(ToString::to_string));
    let called = run((program, args), home.path()).await;
    assert!(called.success && called.stdout.contains("Etc/UTC"), "{}", called.stderr);
    until("the one call is counted", || world.ledger.consumed(&key) == 1).await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_work_in_front_of_two_servers_as_one() {
    let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
    let upstream = |name: &str, (program, args): CommandLine| {
        let words = std::iter::once(program.to_string_lossy().into_owned()).chain(args);
        format!("[[upstream]]\nname = \"{name}\"\ncommand = {}\n", json!(words.collect::<Vec<_>>()))
    };
    let (everything, time) = (clients.server_everything(), clients.server_time());
    let text =
        format!("aggregate = true\n{}{}", upstream("all", everything), upstream("time", time));
    let file = world.folder.path().join("node.toml");
    std::fs::write(&file, text).unwrap();
    let node = node(&world, &["--config".to_owned(), file.to_str().unwrap().to_owned()]).await;
    let keys = keys(&world, 4).await;
    for (sdk, secret, _) in &keys {
        let calls = json!([
            ["all_echo", { "message": "hi" }],
            ["time_get_current_time", { "timezone": "Etc/UTC" }],
            ["all_trigger-sampling-request", { "prompt": "p", "maxTokens": 5 }],
            ["all_trigger-elicitation-request", {}],
            ["time_get_current_time", { "timezone": "Etc/UTC" }],
        ]);
        let seen = session(&clients, *sdk, &node.url, secret, calls).await;
        assert_eq!(seen.protocol.as_deref(), expected_protocol(*sdk), "{sdk:?}: {seen:?}");
        let listed = |tool: &str| seen.tools.iter().any(|listed| listed == tool);
        assert!(listed("all_echo") && listed("time_convert_time"), "{sdk:?}: {seen:?}");
        let texts: Vec<&str> =
            seen.results.iter().filter_map(|r| r.get("text")?.as_str()).collect();
        assert_eq!(texts.len(), 4, "{sdk:?}: {seen:?}");
        assert!(texts[0] == "Echo: hi" && texts[1].contains("Etc/UTC"), "{sdk:?}: {seen:?}");
        assert!(texts[2].contains("sampled") && texts[3].contains("decline"), "{sdk:?}: {seen:?}");
        assert_eq!(seen.results[4].get("error"), Some(&json!(42901)), "{sdk:?}: {seen:?}");
        assert_eq!(seen.asked, 2, "{sdk:?}: sampling and elicitation: {seen:?}");
    }
    for (sdk, _, key) in &keys {
        until(&format!("the calls of {sdk:?} are counted"), || world.ledger.consumed(key) == 4)
            .await;
    }
    assert_eq!(node.stop().await, Some(0));
}
