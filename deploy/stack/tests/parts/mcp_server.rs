//! The MCP server that others made, over both transports, kept to loopback.

use std::process::Stdio;

use serde_json::{Value, json};
use stack::{Folder, McpServer, McpTools, Part};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::calls::calls;
use crate::runs;

#[tokio::test]
async fn it_answers_the_official_client_also_after_a_kill() {
    let folder = Folder::temporary().unwrap();
    let mut server = McpServer::start(&folder).await.unwrap();
    let (url, first) = (server.url(), server.pid().unwrap());
    let all = json!({"attempted": 6, "succeeded": 6, "refused": 0, "failed": 0, "errors": {}});
    assert_eq!(calls(server.tools(), &url, &["--calls", "6"]).await, (all.clone(), true));
    server.kill().await.unwrap();
    assert!(!runs(first));
    server.start_again().await.unwrap();
    assert_eq!(server.url(), url);
    assert_eq!(calls(server.tools(), &url, &["--calls", "6"]).await, (all, true));
    let last = server.pid().unwrap();
    server.stop().await.unwrap();
    assert!(!runs(last));
}

#[tokio::test]
async fn it_listens_on_loopback_only_and_sees_none_of_our_environment() {
    let folder = Folder::temporary().unwrap();
    let server = McpServer::start(&folder).await.unwrap();
    let pid = server.pid().unwrap();
    let port =
        server.url().rsplit_once(':').unwrap().1.trim_end_matches("/mcp").parse::<u16>().unwrap();
    let listens = |table: &str| -> Vec<String> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
        let local = |line: &str| line.split_whitespace().nth(1).unwrap().to_owned();
        let own = format!(":{port:04X}");
        let listening = text.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        listening.map(local).filter(|address| address.ends_with(&own)).collect()
    };
    assert_eq!(listens("tcp"), [format!("0100007F:{port:04X}")]);
    assert_eq!(listens("tcp6"), Vec::<String>::new());
    // Its tool `get-env` tells its environment to anybody.
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.contains("PORT="));
    assert!(!environment.contains("CARGO"), "cargo sets variables for this test");
}

#[tokio::test]
async fn it_serves_over_stdio_too() {
    let (program, args) = McpTools::fetch().await.unwrap().stdio_command();
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{hello}\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let answer: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(answer["id"], 1);
    assert!(answer["result"]["serverInfo"]["name"].is_string(), "{line}");
    child.kill().await.unwrap();
}
