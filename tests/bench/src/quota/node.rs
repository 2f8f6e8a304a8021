//! One node that hammers one key: the node's own library in a process of its own, without HTTP around it, so that it
//! can be killed. It writes down when each call was admitted and refused, in files that outlive it.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mcp_node::{Call, Meter, Node, NodeSettings, Origin, labels::Labels, spool::SpoolLimits};
use mcp_node_core::Refusal;
use runtime::{health::Health, nats::Nats};
use schemas::Outcome as Ended;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Outcome,
    rig::{LOOK, wait_until},
};

/// How many callers a node has at once.
pub const CALLERS: usize = 4;
/// How long all nodes may take to come up and the key to be known.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a node tells when the quota is exhausted: the messages that it sent and got since it began to call.
#[derive(Serialize, Deserialize)]
pub struct Done {
    pub sent: u64,
    pub got: u64,
}

/// The files of one node.
pub struct Files {
    folder: PathBuf,
    node: String,
}

impl Files {
    pub fn new(folder: &Path, node: &str) -> Self {
        Self { folder: folder.to_owned(), node: node.to_owned() }
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.node))
    }

    /// The times of the calls that were answered. Eight bytes each: microseconds since 1970.
    pub fn admitted(&self) -> PathBuf {
        self.path("admitted")
    }

    /// The times of the calls that were refused, and why; a line each.
    pub fn refused(&self) -> PathBuf {
        self.path("refused")
    }

    /// There once the node knows the key.
    pub fn ready(&self) -> PathBuf {
        self.path("ready")
    }

    /// There once it was told that the quota is exhausted; see [`Done`].
    pub fn done(&self) -> PathBuf {
        self.path("done")
    }
}

/// The file that lets all nodes begin.
pub fn go(folder: &Path) -> PathBuf {
    folder.join("go")
}

/// `bench quota-node NATS FOLDER NODE SECRET LISTEN`; runs until SIGTERM.
pub async fn run(settings: &[&str]) -> Outcome<()> {
    let [nats_url, folder, node, secret, listen] = settings else {
        return Err("quota-node is started by `quota`, not by hand".into());
    };
    let (folder, files) = (PathBuf::from(folder), Files::new(Path::new(folder), node));
    let stop = runtime::shutdown::token()?;
    let listener = runtime::serve::bind(listen).await?;
    tokio::spawn(runtime::serve::serve(listener, Health::default().router(), stop.clone()));
    let nats = runtime::nats::connect(nats_url, node).await?;
    let settings = NodeSettings {
        spool_dir: folder.join(format!("{node}.spool")),
        limits: SpoolLimits::default(),
        node_id: Some(node.parse()?),
        labels: Labels::default(),
    };
    let running = Node::start(&settings, &nats).await?;
    let meter = running.meter();
    wait_until("the key is known", TIMEOUT, || async { Ok(meter.authenticate(secret).is_ok()) })
        .await?;
    std::fs::write(files.ready(), "")?;
    wait_until("all may begin", TIMEOUT, || async { Ok(go(&folder).exists()) }).await?;
    let hammered = hammer(&running, &nats, secret, &files, &stop).await;
    stop.cancelled().await;
    running.stop(Duration::from_secs(5), Duration::from_secs(5)).await;
    hammered
}

async fn hammer(
    node: &Node,
    nats: &Nats,
    secret: &str,
    files: &Files,
    stop: &CancellationToken,
) -> Outcome<()> {
    let statistics = nats.client.statistics();
    let counts = || {
        let (sent, got) = (&statistics.out_messages, &statistics.in_messages);
        (sent.load(Ordering::Relaxed), got.load(Ordering::Relaxed))
    };
    let before = counts();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (meter, secret) = (node.meter().clone(), secret.to_owned());
        let (admitted, refused) = (append(&files.admitted())?, append(&files.refused())?);
        let stop = stop.clone();
        callers.spawn(async move {
            stop.run_until_cancelled(call(&meter, &secret, &admitted, &refused))
                .await
                .unwrap_or(Ok(()))
        });
    }
    for done in callers.join_all().await {
        done?;
    }
    if stop.is_cancelled() {
        return Ok(());
    }
    node.spool().flushed().await;
    let after = counts();
    let done = Done { sent: after.0 - before.0, got: after.1 - before.1 };
    let aside = files.path("done.new");
    std::fs::write(&aside, serde_json::to_vec(&done)?)?;
    Ok(std::fs::rename(&aside, files.done())?)
}

/// Calls without a pause until the quota is exhausted.
async fn call(meter: &Meter, secret: &str, mut admitted: &File, mut refused: &File) -> Outcome<()> {
    let call = Call {
        method: "tools/call",
        tool: "search_documents",
        bytes_in: 640,
        origin: Origin::default(),
    };
    loop {
        let known = meter.authenticate(secret).map_err(|refusal| format!("{refusal:?}"))?;
        match meter.admit(&known, call).await {
            Ok(permit) => {
                permit.settle(Ended::Success, 9_800).map_err(|error| error.to_string())?;
                admitted.write_all(&now_us()?.to_le_bytes())?;
            }
            Err(refusal) => {
                refused.write_all(format!("{} {}\n", now_us()?, refusal.reason()).as_bytes())?;
                match refusal {
                    Refusal::QuotaExhausted { .. } => return Ok(()),
                    Refusal::UnitsHeld { .. } | Refusal::LedgerUnreachable => {}
                    other => return Err(format!("{other:?}").into()),
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        tokio::task::yield_now().await; // Where a server would wait for its upstream.
    }
}

fn append(path: &Path) -> Outcome<File> {
    Ok(OpenOptions::new().create(true).append(true).open(path)?)
}

/// Microseconds since 1970.
fn now_us() -> Outcome<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}
