//! An MCP server that no one here wrote: `@modelcontextprotocol/server-everything`, over Streamable
//! HTTP as a process of ours, or over stdio as a command line for whoever wants to be its parent.
//!
//! The same installed npm project holds the official client, driven by `calls.mjs`. The server
//! forgets its sessions when it ends: it keeps nothing.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Part, args, spec};
use crate::cache::Cache;
use crate::cache::npm::Project;
use crate::child::Child;
use crate::error::StackError;
use crate::fetcher::ask;
use crate::folder::Folder;
use crate::settings::Settings;
use crate::version::Version;
use crate::{ports, ready};

const PART: &str = "mcp-server";
const MANIFEST: &str = include_str!("../../node/package.json");
/// The oldest Node that its packages run on.
const OLDEST_NODE: Version = Version(20, 0, 0);

const PROJECT: Project = Project {
    name: "MCP server and client",
    key: "mcp-node-modules",
    files: &[
        ("package.json", MANIFEST),
        ("package-lock.json", include_str!("../../node/package-lock.json")),
        ("calls.mjs", include_str!("../../node/calls.mjs")),
        ("loopback.cjs", include_str!("../../node/loopback.cjs")),
    ],
    expected_bytes: 45_000_000,
    by_hand: "install Node 20 or newer with npm, and check that `npm ping` succeeds",
};

/// The installed npm project: the server, the official client, and the Node that runs them.
#[derive(Clone, Debug)]
pub struct McpTools {
    node: PathBuf,
    folder: PathBuf,
}

impl McpTools {
    /// Finds Node and installs the project where it is missing.
    ///
    /// # Errors
    /// There is no Node 20 or newer, or the packages cannot be fetched.
    pub async fn fetch() -> Result<Self, StackError> {
        let node = Settings::from_env().find("node").ok_or_else(|| {
            StackError::new(PART, "node is not in PATH")
                .mend(format!("install Node {OLDEST_NODE} or newer"))
        })?;
        let version = ask(PART, &node, &["--version"]).await?;
        if Version::find(&version).is_none_or(|version| version < OLDEST_NODE) {
            let what =
                format!("{} is {}, older than {OLDEST_NODE}", node.display(), version.trim());
            return Err(StackError::new(PART, what).mend("put a newer `node` first in PATH"));
        }
        let folder = PROJECT.install(&Cache::from_env()?).await?;
        Ok(Self { node, folder })
    }

    /// Where the project is installed.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The program and arguments that serve MCP over stdin and stdout.
    pub fn stdio_command(&self) -> (PathBuf, Vec<String>) {
        (self.node.clone(), vec![self.server(), "stdio".to_owned()])
    }

    /// The program and first arguments that make tool calls with the official client; append
    /// `--url`, `--key`, `--calls` and so on (see `calls.mjs`).
    pub fn calls_command(&self) -> (PathBuf, Vec<String>) {
        (self.node.clone(), vec![self.path("calls.mjs")])
    }

    fn server(&self) -> String {
        self.path("node_modules/@modelcontextprotocol/server-everything/dist/index.js")
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).to_string_lossy().into_owned()
    }
}

/// A running MCP server over Streamable HTTP.
pub struct McpServer {
    child: Child,
    tools: McpTools,
    version: String,
    port: u16,
    _folder: Folder,
}

impl McpServer {
    /// Starts a server; its log is in `folder`.
    ///
    /// # Errors
    /// It cannot be had, or does not come up.
    pub async fn start(folder: &Folder) -> Result<Self, StackError> {
        let tools = McpTools::fetch().await?;
        let port = ports::free()?;
        let mut spec = spec(PART, tools.node.clone(), folder, folder.part(PART)?);
        spec.args =
            args(["--require", &tools.path("loopback.cjs"), &tools.server(), "streamableHttp"]);
        spec.env.push(("PORT".into(), port.to_string().into()));
        // SIGINT ends it by its own hand; to a GET without a session it answers "bad request".
        spec.stop = rustix::process::Signal::INT;
        let probe = ready::http_get(&url(port), |status| status == 400);
        let child = Child::start(spec, probe).await?;
        Ok(Self { child, tools, version: version()?, port, _folder: folder.clone() })
    }

    /// `http://127.0.0.1:port/mcp`.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// The installed project that it runs from.
    pub fn tools(&self) -> &McpTools {
        &self.tools
    }
}

impl Part for McpServer {
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

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/mcp")
}

/// The server's version, from the manifest that pins it.
fn version() -> Result<String, StackError> {
    #[derive(Deserialize)]
    struct Manifest {
        dependencies: std::collections::BTreeMap<String, String>,
    }
    let unreadable = |error| StackError::new(PART, "its manifest cannot be read").caused_by(error);
    let manifest: Manifest = serde_json::from_str(MANIFEST).map_err(unreadable)?;
    let version = manifest.dependencies.get("@modelcontextprotocol/server-everything");
    version.cloned().ok_or_else(|| StackError::new(PART, "its manifest does not name the server"))
}
