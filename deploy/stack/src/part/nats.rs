//! NATS with JetStream: from `PATH` when new enough, else from Debian's unstable, unpacked privately.
//!
//! The server chooses its port and writes it down; from then on the port is in its configuration,
//! so that a restart comes back to the same address. No password: it listens on loopback only, and
//! whoever shares the machine of a demo shares its messages. Absent on purpose: clusters.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::{Part, args, spec};
use crate::cache::{Cache, Want, debian};
use crate::child::Child;
use crate::error::{StackError, at};
use crate::fetcher::ask;
use crate::folder::Folder;
use crate::ready::{Probe, Probed};
use crate::settings::Settings;
use crate::version::Version;

const PART: &str = "nats";
/// The oldest server that works: optimistic concurrency over wildcards and several subjects of one
/// atomic batch are correct from here on (nats-server issue 8376), and known holes are closed.
const OLDEST: Version = Version(2, 14, 4);
/// Versions from here on may break what this project relies on.
const TOO_NEW: Version = Version(3, 0, 0);

/// When JetStream forces messages to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncInterval {
    /// Before every acknowledgement: what production asks for.
    Always,
    /// At most this long after it: bounds what a power loss can take. A killed server loses nothing.
    Every(Duration),
}

/// Settings of a NATS server.
#[derive(Clone, Copy, Debug)]
pub struct NatsSettings {
    pub sync: SyncInterval,
}

impl Default for NatsSettings {
    /// A second between syncs: costs no throughput on one replica.
    fn default() -> Self {
        Self { sync: SyncInterval::Every(Duration::from_secs(1)) }
    }
}

/// A running NATS server.
pub struct Nats {
    child: Child,
    version: String,
    port: u16,
    _folder: Folder,
}

impl Nats {
    /// Starts a server with its data in `folder`.
    ///
    /// # Errors
    /// No server can be had, or it does not come up.
    pub async fn start(folder: &Folder) -> Result<Self, StackError> {
        Self::start_with(folder, NatsSettings::default()).await
    }

    /// As [`Self::start`], with settings.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn start_with(folder: &Folder, settings: NatsSettings) -> Result<Self, StackError> {
        let (program, version) = server().await?;
        let home = folder.part(PART)?;
        let config = home.join("nats.conf");
        write_config(&config, &home, None, settings)?;
        let port = Arc::new(AtomicU16::new(0));
        let mut spec = spec(PART, program, folder, home.clone());
        spec.args = args(["--config", &config.to_string_lossy()]);
        let child = Child::start(spec, probe(home.clone(), Arc::clone(&port))).await?;
        let port = port.load(Ordering::SeqCst);
        write_config(&config, &home, Some(port), settings)?;
        Ok(Self { child, version: version.to_string(), port, _folder: folder.clone() })
    }

    /// Finds or fetches the server's binary and says where it is.
    ///
    /// # Errors
    /// It can be neither found nor fetched.
    pub async fn fetch() -> Result<PathBuf, StackError> {
        Ok(server().await?.0)
    }

    /// `nats://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Part for Nats {
    fn name(&self) -> &str {
        PART
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> String {
        self.url()
    }

    fn child(&self) -> Result<&Child, StackError> {
        Ok(&self.child)
    }

    fn child_mut(&mut self) -> Result<&mut Child, StackError> {
        Ok(&mut self.child)
    }
}

/// A server that is new enough, with its version.
async fn server() -> Result<(PathBuf, Version), StackError> {
    if let Some(found) = Settings::from_env().find("nats-server") {
        match fit(&found).await {
            Ok(version) => return Ok((found, version)),
            Err(error) => eprintln!("{error}; looking further"),
        }
    }
    let by_hand = format!(
        "put a nats-server of version {OLDEST} or newer into PATH (Homebrew and the \
         project's releases have it)"
    );
    let want = Want {
        name: "nats-server",
        key: "nats-server-2.14.4",
        expected_bytes: 55_000_000,
        by_hand: &by_hand,
    };
    let fetch = |staging: PathBuf| async move {
        debian::unpack(want.name, "nats-server", &staging).await?;
        fit(&binary_in(&staging)).await.map(|_| ()) // Also shows that it runs on this system's libc.
    };
    let binary = binary_in(&Cache::from_env()?.entry(want, fetch).await?);
    let version = fit(&binary).await?;
    Ok((binary, version))
}

/// Debian keeps it in `sbin`; were it moved, then to `bin`.
fn binary_in(entry: &Path) -> PathBuf {
    let usr = entry.join("root/usr");
    let (sbin, bin) = (usr.join("sbin/nats-server"), usr.join("bin/nats-server"));
    if sbin.exists() { sbin } else { bin }
}

/// The version of a server, if it is one to work with.
async fn fit(binary: &Path) -> Result<Version, StackError> {
    let text = ask(PART, binary, &["--version"]).await?;
    match Version::find(&text) {
        Some(version) if (OLDEST..TOO_NEW).contains(&version) => Ok(version),
        Some(version) => Err(StackError::new(
            PART,
            format!(
                "{} is version {version}, not {OLDEST} or newer below {TOO_NEW}",
                binary.display()
            ),
        )),
        None => Err(StackError::new(PART, format!("{} tells no version", binary.display()))),
    }
}

/// Writes the configuration; without a port the server takes a free one and writes it down.
fn write_config(
    path: &Path,
    home: &Path,
    port: Option<u16>,
    settings: NatsSettings,
) -> Result<(), StackError> {
    let quoted = |folder: &Path| serde_json::Value::from(folder.to_string_lossy()).to_string();
    let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
    let sync = match settings.sync {
        SyncInterval::Always => "always".to_owned(),
        SyncInterval::Every(interval) => format!("\"{}ms\"", interval.as_millis()),
    };
    let text = format!(
        "server_name: tollbook\n\
         host: 127.0.0.1\n\
         port: {port}\n\
         ports_file_dir: {ports}\n\
         max_payload: 8MB\n\
         jetstream {{\n\
         \x20 store_dir: {store}\n\
         \x20 sync_interval: {sync}\n\
         \x20 max_buffered_msgs: 50000\n\
         \x20 max_buffered_size: 256MB\n\
         \x20 limits {{\n\
         \x20   max_ack_pending: 50000\n\
         \x20   max_request_batch: 5000\n\
         \x20   batch {{ max_inflight_per_stream: 500, max_inflight_total: 2000, max_msgs: 1000, timeout: \"10s\" }}\n\
         \x20 }}\n\
         }}\n",
        ports = quoted(home),
        store = quoted(&home.join("data")),
    );
    fs::write(path, text).map_err(at(PART, "write", path))
}

/// Ready when the port is written down and the server greets there with JetStream on; leaves the
/// port in `port`.
fn probe(home: PathBuf, port: Arc<AtomicU16>) -> Probe {
    Box::new(move |pid| {
        let (file, port) = (home.join(format!("nats-server_{pid}.ports")), Arc::clone(&port));
        Box::pin(async move {
            let Some(chosen) = read_port(&file) else {
                return Probed::NotYet(format!("no address in {}", file.display()));
            };
            match greeting(chosen).await {
                Ok(Greeting { jetstream: true }) => {
                    port.store(chosen, Ordering::SeqCst);
                    Probed::Ready
                }
                Ok(_) => Probed::Never(StackError::new(PART, "the server runs without JetStream")),
                Err(error) => Probed::NotYet(error.to_string()),
            }
        })
    })
}

/// The port of the first client address in a ports file; none while it is being written.
fn read_port(file: &Path) -> Option<u16> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let ports: Ports = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    ports.nats.first()?.rsplit_once(':')?.1.parse().ok()
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(default)]
    jetstream: bool,
}

/// The `INFO` line with which a server greets.
async fn greeting(port: u16) -> std::io::Result<Greeting> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(serde_json::from_str(line.trim_start_matches("INFO "))?)
}
