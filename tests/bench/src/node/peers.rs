//! The gateways that mcp-node is measured beside, as they install from the registries, each in front of the same server.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use stack::{Folder, ports};
use tokio::process::{Child, Command};

use super::load::{Session, Target};
use crate::{Outcome, rig::wait_until};

/// How long a gateway may take to come up. `ContextForge` sets up a database first.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A gateway that runs.
pub struct Peer {
    pub target: Target,
    /// Ends with this.
    _process: Child,
}

/// Where `deploy/bench` has installed them.
fn installed() -> Outcome<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(fs::canonicalize(target.join("bench/peers"))?)
}

/// Starts all of them, in front of the server at `upstream` or of its twin over stdio.
pub async fn start(folder: &Folder, upstream: &str) -> Outcome<Vec<Peer>> {
    let ours = std::env::current_exe()?.to_string_lossy().into_owned();
    let peers = installed()?;
    let program = |name: &str| peers.join(name).to_string_lossy().into_owned();
    let mut running = Vec::new();

    let port = ports::free()?;
    let config = folder.path().join("mcp-proxy.toml");
    let text = format!(
        "[proxy]\nname = \"bench\"\n[proxy.listen]\nhost = \"127.0.0.1\"\nport = {port}\n\
         [[backends]]\nname = \"up\"\ntransport = \"http\"\nurl = \"{upstream}\"\n"
    );
    fs::write(&config, text)?;
    let config = config.to_string_lossy();
    let target = Target {
        name: "crates.io mcp-proxy 0.6.0",
        url: format!("http://127.0.0.1:{port}/").parse()?,
        key: None,
        tool: "up/echo".into(),
    };
    running
        .push(peer(folder, target, &program("rust/bin/mcp-proxy"), &["--config", &config]).await?);

    let port = ports::free()?;
    let port_text = port.to_string();
    let args = ["--port", &port_text, "--", &ours, "mcp-server-stdio"];
    let target = Target {
        name: "PyPI mcp-proxy 0.13.0",
        url: format!("http://127.0.0.1:{port}/mcp/").parse()?,
        key: None,
        tool: "echo".into(),
    };
    running.push(peer(folder, target, &program("mcp-proxy/bin/mcp-proxy"), &args).await?);

    let port = ports::free()?;
    let port_text = port.to_string();
    let args = ["run", upstream, "--transport", "http", "--port", &port_text, "--no-banner"];
    let target = Target {
        name: "fastmcp 4.1.2",
        url: format!("http://127.0.0.1:{port}/mcp").parse()?,
        key: None,
        tool: "echo".into(),
    };
    running.push(peer(folder, target, &program("fastmcp/bin/fastmcp"), &args).await?);
    Ok(running)
}

/// Starts one and waits until it answers a call. It dies with this process, however that ends.
async fn peer(folder: &Folder, target: Target, program: &str, args: &[&str]) -> Outcome<Peer> {
    let log = folder.path().join(format!("{}.log", target.name.replace(' ', "-")));
    let written = fs::File::create(&log)?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]).args(args).kill_on_drop(true);
    command.env("HOME", folder.path()).current_dir(folder.path()).stdin(Stdio::null());
    command.stdout(written.try_clone()?).stderr(written);
    let process = command.spawn()?;
    let serves = || async {
        Ok(match Session::begin(&target).await {
            Ok(mut session) => session.call().await.is_ok(),
            Err(_) => false,
        })
    };
    match wait_until(target.name, TIMEOUT, serves).await {
        Ok(()) => Ok(Peer { target, _process: process }),
        Err(error) => {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(20).collect();
            Err(format!("{error}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
                .into())
        }
    }
}
