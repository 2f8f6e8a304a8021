//! The process itself: from the command line to its end, in order and by force.

use std::{path::Path, process::Stdio, time::Duration};

use http::Method;
use schemas::Record;
use serde_json::{Value, json};
use stack::McpTools;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    rig::{Caller, SECRET, World, messages, until},
    server::Server,
};

/// A running `mcp-node`.
pub struct Process {
    child: Child,
    pub url: String,
}

impl Process {
    /// Starts it in the world's spool folder; `args` come last.
    pub async fn start(world: &World, args: &[&str]) -> Self {
        let spool = world.folder.path().join("spool");
        Self::run(Self::command(world, &[], &spool, args)).await
    }

    /// A command that starts it in a spool folder, by way of the command `by` if there is one.
    pub fn command(world: &World, by: &[&str], spool: &Path, args: &[&str]) -> Command {
        let mut whole = by.iter().copied().chain([env!("CARGO_BIN_EXE_mcp-node")]);
        let mut command = Command::new(whole.next().expect("it has a program"));
        command.args(whole).args(["--listen", "127.0.0.1:0"]).args(args).kill_on_drop(true);
        command.env("MCP_NATS_URL", world.server.url()).env("MCP_SPOOL_DIR", spool);
        command.env("NO_COLOR", "1").env("RUST_LOG", "info").stderr(Stdio::piped());
        command
    }

    /// Runs it until it serves.
    pub async fn run(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut url = None;
        while let Some(line) = lines.next_line().await.unwrap() {
            eprintln!("node: {line}");
            if let Some(address) = line.split("address=").nth(1) {
                let address = address.split_whitespace().next().unwrap();
                url = Some(format!("http://{address}/mcp"));
            }
            if line.contains("Serving") {
                break;
            }
        }
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("node: {line}");
            }
        });
        Self { child, url: url.expect("it said where it listens") }
    }

    pub fn caller(&self, secret: &str) -> Caller {
        Caller::new(&self.url, secret)
    }

    pub fn pid(&self) -> rustix::process::Pid {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        rustix::process::Pid::from_raw(pid).unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Ends it with SIGTERM and returns its exit code.
    pub async fn stop(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        status.expect("it stops").unwrap().code()
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Waits until the node knows the key.
pub async fn known(caller: &Caller) {
    for _ in 0..500 {
        if caller.post(r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#).await.status() != 401 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the key is not known");
}

pub fn runs(pid: u64) -> bool {
    // A process that ended and was not yet waited for by its new parent does not run.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_and_stops_lose_no_call_and_double_none() {
    let (world, server) = (World::start().await, Server::start().await);
    let key = world.ledger.key(SECRET, Some(1_000)).await;
    let mut served = 0;
    for round in 0..4u64 {
        let process = Process::start(&world, &["--upstream", &server.url()]).await;
        let caller = process.caller(SECRET);
        known(&caller).await;
        for id in 0..25 {
            assert_eq!(caller.called(id, "success", json!({})).await.0, 200);
            served += 1;
        }
        assert_eq!(caller.called(99, "tool_error", json!({})).await.0, 200);
        if round % 2 == 0 {
            process.kill().await;
        } else {
            assert_eq!(process.stop().await, Some(0));
        }
    }
    until("every call is counted", || world.ledger.consumed(&key) == served).await;
    until("no unit is held", || world.ledger.outstanding(&key) == 0).await;
    let usage = |placed: &&crate::ledger::Placed| matches!(placed.record, Record::Usage(_));
    assert_eq!(world.ledger.records().iter().filter(usage).count() as u64, served + 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_child_outlives_its_node() {
    const SERVER: &str = "import json,os,sys\n\
        for l in sys.stdin:\n m=json.loads(l)\n \
        if 'id' in m: print(json.dumps({'jsonrpc':'2.0','id':m['id'],\
        'result':{'pid':os.getpid(),'nats':os.environ.get('MCP_NATS_URL')}}),flush=True)\n";
    let world = World::start().await;
    world.ledger.key(SECRET, None).await;
    for by_force in [false, true] {
        let process = Process::start(&world, &["--", "python3", "-c", SERVER]).await;
        let caller = process.caller(SECRET);
        known(&caller).await;
        let caller = caller.initialized().await;
        let pid = caller.called(1, "any", json!({})).await.1["result"].clone();
        assert_eq!(pid["nats"], Value::Null, "where the log is does not concern the server");
        let pid = pid["pid"].as_u64().unwrap();
        assert!(runs(pid));
        if by_force {
            process.kill().await;
        } else {
            assert_eq!(process.stop().await, Some(0));
        }
        until("the child is gone", || !runs(pid)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_public_and_settings_are_checked() {
    let (world, server) = (World::start().await, Server::start().await);
    let process = Process::start(&world, &["--upstream", &server.url()]).await;
    for (path, status) in [("/health", 200), ("/ready", 200), ("/metrics", 200), ("/mcp", 401)] {
        let anybody = Caller::new(&process.url.replace("/mcp", path), "-").without("x-api-key");
        assert_eq!(anybody.send(Method::GET, "").await.status(), status, "{path}");
    }
    assert_eq!(process.stop().await, Some(0));
    for args in
        [vec![], vec!["--upstream", "not a url"], vec!["--upstream", "http://x/", "--", "y"]]
    {
        let out = Command::new(env!("CARGO_BIN_EXE_mcp-node")).args(&args).output().await.unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
    }
}

/// Lines of a process that logs JSON, until one holds `message`; the line.
async fn line_with(
    lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    message: &str,
) -> Value {
    while let Some(line) = lines.next_line().await.unwrap() {
        eprintln!("node: {line}");
        let line: Value = serde_json::from_str(&line).expect("every line is JSON");
        if line["message"] == message {
            return line;
        }
    }
    panic!("no line says {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_keep_the_names_that_operators_know_and_every_call_has_its_line() {
    let (world, server) = (World::start().await, Server::start().await);
    let key = world.ledger.key(SECRET, None).await;
    let file = world.folder.path().join("node.toml");
    std::fs::write(&file, "request_timeout = 400\nmax_request_size = 9999\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-node"));
    command.args(["--upstream", &server.url(), "--max-connections", "50", "--config"]).arg(&file);
    command.env_remove("RUST_LOG").stderr(Stdio::piped()).kill_on_drop(true);
    for (name, value) in [
        ("MCP_NATS_URL", world.server.url().as_str()),
        ("MCP_SPOOL_DIR", world.folder.path().join("spool").to_str().unwrap()),
        ("MCP_SERVER_HOST", "127.0.0.1"),
        ("MCP_SERVER_PORT", "0"),
        ("MCP_OPS_LISTEN", "127.0.0.1:0"),
        ("MCP_LOG_LEVEL", "DEBUG"),
        ("MCP_LOG_FORMAT", "json"),
        ("MCP_MAX_CONNECTIONS", "7"),
        ("MCP_CONNECTION_TIMEOUT", "5000"),
        ("MCP_MAX_REQUEST_SIZE", "2048"),
        ("TENANT_ID", "operator"),
        ("ORGANIZATION_ID", "acme"),
    ] {
        command.env(name, value);
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = |line: &Value| format!("http://{}", line["address"].as_str().unwrap());
    let ops = address(&line_with(&mut lines, "Listening").await);
    let url = address(&line_with(&mut lines, "Listening").await) + "/mcp";
    line_with(&mut lines, "Serving").await;
    let caller = Caller::new(&url, SECRET);
    known(&caller).await;
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
    let line = line_with(&mut lines, "tools/call finished").await;
    assert_eq!(line["level"], "DEBUG");
    let whose = |line: &Value| ["project", "key", "client"].map(|field| line[field].clone());
    let expected = [json!(key.project.to_string()), json!(key.key.to_string()), json!("127.0.0.1")];
    assert_eq!(whose(&line), expected, "{line}");
    assert!(
        line["timestamp"].is_string() && line["duration"].is_u64() && line["connectionId"].is_u64(),
        "{line}"
    );
    assert_eq!(
        (&line["tenant"], &line["organization"]),
        (&json!(key.tenant.to_string()), &json!("acme"))
    );
    assert_eq!(
        (&line["tool"], &line["requestId"], &line["status"]),
        (&json!("success"), &json!("1"), &json!("success"))
    );
    assert_eq!(caller.called(2, "never", json!({})).await.0, 504, "the file's time");
    assert_eq!(line_with(&mut lines, "tools/call finished").await["status"], "timeout");
    assert_eq!(caller.post("x".repeat(3_000)).await.status(), 413, "variables go before the file");
    let nobody = Caller::new(&url, "tb_nobody").call(3, "success", json!({})).await;
    assert_eq!(nobody.status(), 401);
    let line = line_with(&mut lines, "Request refused").await;
    assert_eq!((&line["tenant"], &line["status"]), (&json!("operator"), &json!("unauthorized")));
    assert_eq!(whose(&line), [Value::Null, Value::Null, json!("127.0.0.1")], "{line}");
    world.ledger.key("tb_poor", Some(0)).await;
    let poor = Caller::new(&url, "tb_poor");
    known(&poor).await;
    assert_eq!(poor.called(4, "success", json!({})).await.0, 429);
    let line = line_with(&mut lines, "tools/call refused").await;
    assert_eq!((&line["status"], &line["tool"]), (&json!("quota_exhausted"), &json!("success")));
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.starts_with("0 of 0 calls of this key used; resets "), "{detail}");
    let [project, poor, client] = whose(&line);
    assert!(project.as_str().is_some_and(|id| id.starts_with("prj_")), "{line}");
    assert!(poor.as_str().is_some_and(|id| id.starts_with("key_") && json!(id) != expected[1]));
    assert_eq!(client, "127.0.0.1");

    let anybody = |path: &str| Caller::new(&format!("{ops}{path}"), "-").without("x-api-key");
    assert_eq!(anybody("/ready").send(Method::GET, "").await.status(), 200);
    let metrics = anybody("/metrics").send(Method::GET, "").await;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    assert!(metrics.lines().any(|line| line.starts_with("mcp_connections ")), "{metrics}");
    let beside = Caller::new(&url.replace("/mcp", "/metrics"), "-").without("x-api-key");
    assert_eq!(beside.send(Method::GET, "").await.status(), 404, "they have a port of their own");
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_is_served_and_refused_exactly() {
    let world = World::start().await;
    let tools = McpTools::fetch().await.unwrap();
    let http = stack::McpServer::start(&world.folder).await.unwrap();
    let (program, args) = tools.stdio_command();
    let stdio: Vec<&str> = ["--", program.to_str().unwrap()]
        .into_iter()
        .chain(args.iter().map(String::as_str))
        .collect();
    let url = http.url();
    for (secret, how) in [("tb_over_http", vec!["--upstream", &url]), ("tb_over_stdio", stdio)] {
        let key = world.ledger.key(secret, Some(20)).await;
        let process = Process::start(&world, &how).await;
        known(&process.caller(secret)).await;
        let said = calls(&tools, &process.url, secret).await;
        assert_eq!(
            (&said["succeeded"], &said["refused"], &said["failed"]),
            (&json!(20), &json!(10), &json!(0)),
            "{said}"
        );
        assert_eq!(process.stop().await, Some(0));
        until("all are counted", || world.ledger.consumed(&key) == 20).await;
    }
}

/// Thirty calls of the official client.
async fn calls(tools: &McpTools, url: &str, key: &str) -> Value {
    let (program, mut args): (_, Vec<String>) = tools.calls_command();
    let more = ["--url", url, "--key", key, "--calls", "30", "--concurrency", "3", "--json"];
    args.extend(more.map(str::to_owned));
    let out = Command::new(Path::new(&program)).args(args).output().await.unwrap();
    messages(
        out.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or_default(),
    )
    .pop()
    .unwrap_or_else(|| panic!("it said nothing: {}", String::from_utf8_lossy(&out.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_is_set_in_a_file_and_by_flags() {
    let (world, server) = (World::start().await, Server::start().await);
    let (token, file) = (world.folder.path().join("token"), world.folder.path().join("node.toml"));
    std::fs::write(&token, "Bearer of-the-server\n").unwrap();
    let settings = format!(
        "internal_jwt = true\ninternal_jwt_header = \"x-tollbook-token\"\n\
         [tool_scopes]\n\"tool_*\" = \"context:read\"\n\
         [upstream_headers]\nauthorization = \"file:{}\"\n",
        token.display()
    );
    std::fs::write(&file, settings).unwrap();
    let (url, file) = (server.url(), file.to_str().unwrap().to_owned());
    let args = ["--config", &file, "--forward-identity", "--upstream", &url];
    let process = Process::start(&world, &args).await;
    let scopes = |key: &mut schemas::KeyState| key.scopes = vec!["debate:*".into()];
    let key = world.ledger.key_with(SECRET, None, scopes).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    assert_eq!(caller.called(1, "tool_error", json!({})).await.0, 403);
    assert_eq!(caller.called(2, "success", json!({})).await.0, 200);
    let told = server.last().headers;
    assert_eq!(told["authorization"], "Bearer of-the-server");
    assert_eq!(told["x-tollbook-key"].to_str().unwrap(), key.key.to_string());
    assert_eq!(told["x-tollbook-token"].to_str().unwrap().split('.').count(), 3);
    let jwks = Caller::new(&process.url.replace("/mcp", "/.well-known/jwks.json"), SECRET);
    assert_eq!(jwks.send(Method::GET, "").await.status(), 200);
    assert!(world.folder.path().join("spool/internal-jwt.pem").exists());
    assert_eq!(process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_contradict_each_other_stop_the_start() {
    for (args, says) in [
        (&["--jwt-issuer", "https://i.example"][..], "jwt_audience"),
        (&["--jwt-audience", "a"], "jwt_issuer"),
        (&["--jwt-issuer", "https://i.example", "--jwt-audience", "a"], "public_url"),
        (&["--jwt-issuer", "http://i.example", "--jwt-audience", "a"], "no https URL"),
        (
            &["--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-jwks", "http://i.example/k"],
            "no https URL",
        ),
        (&["--tool-scopes", "a=b:*"], "no scope"),
        (&["--tool-scopes", "a"], "name=value"),
        (&["--upstream-headers", "host=a"], "upstream_headers"),
        (&["--upstream-headers", "mcp-session-id=a"], "upstream_headers"),
        (&["--upstream-headers", "a=env:TB_NOT_SET_ANYWHERE"], "TB_NOT_SET_ANYWHERE"),
        (&["--internal-jwt", "--upstream-headers", "authorization=hush"], "internal_jwt_header"),
        (&["--forward-identity", "maybe"], "neither on nor off"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-node"));
        command.args(["--listen", "0.0.0.0:0", "--upstream", "http://127.0.0.1:9/mcp"]).args(args);
        let output = command.env("NO_COLOR", "1").output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{args:?}: {said}");
        assert!(!said.contains("hush"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_can_be_said_in_the_file_and_in_flags() {
    let (world, server) = (World::start().await, Server::start().await);
    let key = world.ledger.key(SECRET, None).await;
    let file = world.folder.path().join("node.toml");
    let text = r#"
        refuse_as = "result"
        tenant_per_minute = 60000
        [[meter]]
        name = "bytes"
        from = "bytes_in"
        tools = ["succ*"]
        reserve = 1000
        [weights]
        "success" = 2
        "events" = 7
    "#;
    std::fs::write(&file, text).unwrap();
    let (file, url) = (file.to_string_lossy().into_owned(), server.url());
    let tokens = r#"{ name = "tokens", from = "/_meta/usage/tokens", reserve = 10 }"#;
    let args = ["--config", &file, "--upstream", &url, "--weight", "events=3"];
    let process = Process::start(&world, &args).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    let size = crate::rig::call(1, "success", json!({})).len() as u64;
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
    assert_eq!(caller.called(2, "events", json!({})).await.0, 200);
    until("both are counted", || world.ledger.used(&key, "tool_calls") == 5).await;
    assert_eq!(world.ledger.used(&key, "bytes"), size);
    assert_eq!(process.stop().await, Some(0));

    let args = ["--config", &file, "--upstream", &url, "--meter", tokens];
    let process = Process::start(&world, &args).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    assert_eq!(caller.called(3, "tokens_9", json!({})).await.0, 200);
    until("it is counted", || world.ledger.used(&key, "tokens") == 9).await;
    assert_eq!(world.ledger.used(&key, "bytes"), size, "the flag stands in the place of the file");
    assert_eq!(process.stop().await, Some(0));
}

#[tokio::test]
async fn what_is_counted_must_make_sense() {
    for (variable, text, said) in [
        (
            "MCP_METER",
            r#"[{name="tokens",from="/a",reserve=0}]"#,
            "the reserve of the meter `tokens`",
        ),
        ("MCP_METER", r#"[{name="tokens",from="a",reserve=1}]"#, "`a` is neither"),
        ("MCP_METER", r#"[{name="tool_calls",from="/a",reserve=1}]"#, "`tool_calls` is configured"),
        ("MCP_WEIGHTS", r#"{"search*"=2000000}"#, "the weight of `search*`"),
        ("MCP_REFUSE_AS", "silence", "refuse_as"),
        ("MCP_QUOTA_META", "maybe", "quota_meta"),
        ("MCP_BLOCK_MS", "1", "block_ms"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-node"));
        command.args(["--upstream", "http://127.0.0.1:1/"]).env(variable, text);
        let out = command.output().await.unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{variable}={text}");
        assert!(told.contains(said), "{told}");
    }
}

#[tokio::test]
async fn variables_of_other_programs_are_passed_over_with_a_word() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-node"));
    command.args(["--upstream", "http://127.0.0.1:9/mcp", "--nats-url", "nats://127.0.0.1:9"]);
    command.env("MCP_TIMEOUT", "5").env("MCP_SERVER_PORTS", "1").env("NO_COLOR", "1");
    command.env("MCP_SPOOL_DIR", "/nowhere").kill_on_drop(true).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = String::new();
    while !said.contains("no settings of this program") {
        said = lines.next_line().await.unwrap().expect("it says so before it goes on");
    }
    assert!(said.contains("MCP_TIMEOUT") && said.contains("MCP_SERVER_PORTS"), "{said}");
    assert!(!said.contains("MCP_SPOOL_DIR"), "{said}");
}
