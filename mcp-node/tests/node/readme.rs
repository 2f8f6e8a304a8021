//! The command lines of the READMEs and of `deploy/up`, as a newcomer pastes them into two terminals.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use http::Method;
use schemas::KeyState;
use stack::{Clients, Folder};
use tokio::process::{Child, Command};

use crate::rig::{Caller, SECRET, World, until};

const README: &str = include_str!("../../README.md");
const TOP_README: &str = include_str!("../../../README.md");
/// What `deploy/up` prints for any terminal.
const FIRST_CALL: &str = include_str!("../../../deploy/plant/src/first_call.sh");

/// The shell blocks of a section, in order.
fn blocks(readme: &str, heading: &str) -> Vec<String> {
    let from = readme.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = &readme[from + heading.len() + 2..];
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap_or_default().to_owned()).collect()
}

/// Whether it starts a node, and so does not end by itself.
fn starts_node(block: &str) -> bool {
    block.lines().any(|line| line.starts_with("mcp-node "))
}

/// A terminal's surroundings: the built node and the fetched server in PATH, free ports, a key.
struct Terminal {
    world: World,
    key: KeyState,
    folder: Folder,
    listen: String,
    server_port: u16,
}

impl Terminal {
    async fn open() -> Self {
        let (world, clients) = (World::start().await, Clients::fetch().await.unwrap());
        let key = world.ledger.key(SECRET, Some(1_000)).await;
        let folder = Folder::temporary().unwrap();
        let (node, args) = clients.server_everything();
        // `npx -y @modelcontextprotocol/server-everything [how]` without the registry.
        let npx = format!(
            "#!/bin/sh\n[ \"$1 $2\" = '-y @modelcontextprotocol/server-everything' ] || exit 9\n\
             exec '{}' '{}' \"${{3:-stdio}}\"\n",
            node.display(),
            args[0],
        );
        let npx_path = folder.path().join("npx");
        std::fs::write(&npx_path, npx).unwrap();
        std::fs::set_permissions(&npx_path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_mcp-node"));
        std::os::unix::fs::symlink(built, folder.path().join("mcp-node")).unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        Self { world, key, folder, listen, server_port: free_port() }
    }

    fn shell(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap();
        let loopback = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/stack/node/loopback.cjs");
        let mut command = Command::new("bash");
        command.args(["-eu", "-o", "pipefail", "-c", script]).process_group(0).kill_on_drop(true);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("PATH", format!("{}:{path}", self.folder.path().display()));
        command.env("NODE_OPTIONS", format!("--require {loopback}"));
        command.env("MCP_NATS_URL", self.world.server.url()).env("MCP_LISTEN", &self.listen);
        command.env("NODE", format!("http://{}/mcp", self.listen)).env("TOLLBOOK_KEY", SECRET);
        command.env("PORT", self.server_port.to_string());
        command
    }

    /// Leaves a script running that starts a node, and waits until it serves.
    async fn node(&self, script: &str) -> Child {
        let mut child = self.shell(script).spawn().unwrap();
        let ready = Caller::new(&format!("http://{}/ready", self.listen), "-");
        for _ in 0..1_500 {
            assert!(child.try_wait().unwrap().is_none(), "the node ended:\n{script}");
            if tokio::net::TcpStream::connect(&self.listen).await.is_ok()
                && ready.send(Method::GET, "").await.status() == 200
            {
                return child;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the node does not serve:\n{script}");
    }

    async fn run(&self, script: &str) -> Output {
        let run = self.shell(script).output();
        tokio::time::timeout(Duration::from_secs(60), run).await.expect("it ends").unwrap()
    }
}

/// Ends a shell with all that it started.
async fn end(mut child: Child) {
    let group = i32::try_from(child.id().unwrap()).unwrap();
    let group = rustix::process::Pid::from_raw(group).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::TERM).unwrap();
    tokio::time::timeout(Duration::from_secs(40), child.wait()).await.expect("it ends").unwrap();
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Pastes a setup and a server into one terminal, and the setup and the clients into another.
async fn paste(setup: &str, server: &str, clients: &str, expected_calls: u64) {
    let terminal = Terminal::open().await;
    let node = terminal.node(&format!("{setup}\n{server}")).await;
    let out = terminal.run(&format!("{setup}\n{clients}")).await;
    let (said, errors) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{}\n{clients}\n{said}\n{errors}", out.status);
    assert!(!said.contains(r#""error":{"#), "{said}");
    let echoed = said.matches("Echo: hello").count() as u64;
    assert_eq!(echoed, expected_calls, "each call was answered: {said}");
    end(node).await;
    let (ledger, key) = (terminal.world.ledger.clone(), terminal.key.clone());
    until("the calls are counted", || ledger.consumed(&key) == expected_calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_line_of_the_quick_start_works() {
    let blocks = blocks(README, "## Quick start");
    let first = blocks.iter().position(|block| starts_node(block)).expect("a node is started");
    let (setup, rest) = blocks.split_at(first);
    let (servers, clients): (Vec<&String>, Vec<&String>) =
        rest.iter().partition(|block| starts_node(block));
    assert_eq!((setup.len(), servers.len()), (1, 2), "one way over stdio, one over HTTP");
    assert!(clients.len() >= 2, "with a session and without");
    let clients: Vec<&str> = clients.into_iter().map(String::as_str).collect();
    for server in servers {
        paste(&setup[0], server, &clients.join("\n"), clients.len() as u64).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lines_of_the_top_readme_and_of_up_work() {
    let blocks = blocks(TOP_README, "## In front of your own MCP server");
    let [server, client] = &blocks[..] else { panic!("{blocks:?}") };
    assert!(starts_node(server));
    paste("", server, &format!("{client}\n{FIRST_CALL}"), 2).await;
}
