//! The official clients, as child processes that take cases on stdin and say on stdout what they saw.

use std::{collections::HashMap, path::Path, process::Stdio, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use stack::Clients as Installed;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::{Semaphore, oneshot},
};

use crate::Failure;

const SCRIPTS: [(&str, &str); 2] = [
    ("cases.mjs", include_str!("../../clients/cases.mjs")),
    ("cases.py", include_str!("../../clients/cases.py")),
];
/// How many cases a client has in hand at once.
const AT_ONCE: usize = 32;
/// A client that does not answer within so long beyond a case's own timeout has hung.
const HUNG: Duration = Duration::from_secs(120);

/// What a client saw of a call.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Saw {
    Success,
    /// A result with `isError`.
    ToolError,
    /// A task or a question instead of a result.
    Later,
    /// A JSON-RPC error.
    Error,
    /// A result reached it that its schema refused.
    Invalid,
    /// The stream of its call ended, it took that for the end, and a result came another way.
    GaveUp,
    Nothing,
    /// It could not even connect: the case says nothing.
    Unconnected,
}

/// One report of a client.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    pub case: u64,
    pub saw: Saw,
    /// How many answers with the call's id the transport handed over.
    pub answers: u64,
    pub detail: String,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Report>>>>;

struct OneClient {
    stdin: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    places: Semaphore,
    _child: Child,
}

/// All clients, running.
pub struct Clients {
    by_name: HashMap<&'static str, OneClient>,
    next: std::sync::atomic::AtomicU64,
}

impl Clients {
    /// Starts one process a client, each with the key.
    ///
    /// # Errors
    /// The clients cannot be installed or started.
    pub async fn start(folder: &Path, secret: &str) -> Result<Self, Failure> {
        let installed = Installed::fetch().await?;
        for (name, text) in SCRIPTS {
            std::fs::write(folder.join(name), text)?;
        }
        let mut by_name = HashMap::new();
        for name in super::plan::CLIENTS.iter().filter(|name| **name != "sloppy") {
            let mut command = if let Some(mode) = name.strip_prefix("py") {
                let mode = if mode.is_empty() { "auto" } else { "legacy" };
                let mut command = Command::new(installed.python());
                command.arg(folder.join("cases.py")).args(["--client", mode]);
                command
            } else {
                let client = match *name {
                    "js1" => "v1",
                    "js2" => "v2",
                    _ => "v2-legacy",
                };
                let mut command = Command::new(installed.node());
                command.arg(folder.join("cases.mjs")).args(["--client", client, "--modules"]);
                command.arg(installed.modules());
                command
            };
            command.args(["--key", secret]).env("HOME", folder).kill_on_drop(true);
            let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
            by_name.insert(*name, OneClient::start(&mut command)?);
        }
        Ok(Self { by_name, next: 0.into() })
    }

    /// Lets a client make one call.
    ///
    /// # Errors
    /// It has ended or hung.
    pub async fn run(
        &self,
        client: &str,
        url: &str,
        tool: &str,
        timeout: Duration,
    ) -> Result<Report, Failure> {
        let one = self.by_name.get(client).ok_or("no such client")?;
        let _place = one.places.acquire().await?;
        let case = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, report) = oneshot::channel();
        one.waiting.lock().insert(case, sender);
        let timeout_ms = u64::try_from(timeout.as_millis())?;
        let order = json!({ "case": case, "url": url, "tool": tool, "timeoutMs": timeout_ms });
        one.stdin.lock().await.write_all(format!("{order}\n").as_bytes()).await?;
        match tokio::time::timeout(timeout + HUNG, report).await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(_)) => Err(format!("the client {client} ended").into()),
            Err(_) => Err(format!("the client {client} hung at {tool}").into()),
        }
    }
}

impl OneClient {
    fn start(command: &mut Command) -> Result<Self, Failure> {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().ok_or("a client without stdin")?;
        let stdout = child.stdout.take().ok_or("a client without stdout")?;
        let waiting = Waiting::default();
        let own = waiting.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(report) = serde_json::from_str::<Report>(&line)
                    && let Some(sender) = own.lock().remove(&report.case)
                {
                    drop(sender.send(report)); // Nobody waits any more.
                }
            }
            own.lock().clear();
        });
        let places = Semaphore::new(AT_ONCE);
        Ok(Self { stdin: tokio::sync::Mutex::new(stdin), waiting, places, _child: child })
    }
}
