//! Real tool calls with the official MCP client.

use std::process::Stdio;

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{Plant, PlantError};

/// What came of some calls, as the client saw it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Calls {
    pub attempted: u64,
    pub succeeded: u64,
    pub refused: u64,
    pub failed: u64,
    #[serde(default)]
    pub errors: std::collections::BTreeMap<String, u64>,
}

/// Makes `calls` tool calls at one node with one key; each line of progress goes to `tell`.
///
/// # Errors
/// The client cannot be run, or says nothing that can be read. Failed calls are no error: they are in the answer.
pub async fn make_calls(
    plant: &Plant,
    node: usize,
    secret: &str,
    calls: u64,
    tell: impl Fn(&str),
) -> Result<Calls, PlantError> {
    let unexpected = |text: String| PlantError::Unexpected(format!("the MCP client: {text}"));
    let url = plant
        .addresses
        .nodes
        .get(node)
        .ok_or_else(|| unexpected(format!("there is no node {node}")))?;
    let (program, first) = plant.mcp_server.tools().calls_command();
    let mut child = Command::new(program)
        .args(first)
        .args(["--url", url, "--key", secret, "--calls", &calls.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| unexpected(error.to_string()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        return Err(unexpected("it has no output".into()));
    };
    let (mut out, mut progress) = (BufReader::new(stdout).lines(), BufReader::new(stderr).lines());
    let mut last = String::new();
    let (mut out_open, mut progress_open) = (true, true);
    while out_open || progress_open {
        tokio::select! {
            line = out.next_line(), if out_open => match line {
                Ok(Some(line)) => last = line,
                _ => out_open = false,
            },
            line = progress.next_line(), if progress_open => match line {
                Ok(Some(line)) => tell(&line),
                _ => progress_open = false,
            },
        }
    }
    child.wait().await.map_err(|error| unexpected(error.to_string()))?;
    serde_json::from_str(&last).map_err(|error| unexpected(format!("{error} in `{last}`")))
}
