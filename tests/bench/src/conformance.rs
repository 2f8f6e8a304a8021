//! The official conformance suite of MCP through mcp-node as a process, with everything switched on: keys, a hard
//! quota, the spool, the publisher, and the real ledger behind it.
//!
//! The suite cannot send a header of its own, so it calls a door that adds the key and changes nothing else.

use std::{convert::Infallible, path::Path, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use mcp_fixture::{Fixture, Speaks};
use serde::Serialize;
use stack::{CLIENT_PASSED, CLIENT_SCENARIOS, Clients, Conformance, Verdict};
use tokio::{net::TcpListener, process::Command};

use crate::{
    Outcome,
    node::{Gateway, Target},
    report::finish,
    rig::Rig,
};

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";

#[derive(Serialize)]
struct Figures {
    legacy_passed: usize,
    legacy_total: usize,
    modern_passed: usize,
    modern_total: usize,
    /// The scenarios for clients, of both revisions.
    client_passed: usize,
    client_total: usize,
}

/// Runs the benchmark.
///
/// # Errors
/// A part or the suite does not come up.
pub async fn run() -> Outcome<()> {
    let suite = Conformance::fetch().await?;
    let rig = Rig::start().await?;
    let node = Gateway::start(&rig, &Fixture::serve(Speaks::All).await?).await?;
    let url = keyed(&node.target).await?;
    let results = rig.folder.path().join("conformance");
    let legacy = judge(&suite, &url, LEGACY, &results).await?;
    let modern = judge(&suite, &url, MODERN, &results).await?;
    let (client_passed, client_total) = as_client(&suite, &rig, &node.target, &results).await?;
    finish(
        "conformance",
        &Figures {
            legacy_passed: legacy.passed.len(),
            legacy_total: legacy.total(),
            modern_passed: modern.passed.len(),
            modern_total: modern.total(),
            client_passed,
            client_total,
        },
    )
}

async fn judge(suite: &Conformance, url: &str, revision: &str, results: &Path) -> Outcome<Verdict> {
    let (program, args) = suite.server_command(url, revision, results);
    let running = Command::new(program).args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(300), running).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdict =
        Verdict::read(&said).ok_or_else(|| format!("the suite said no summary:\n{said}"))?;
    println!("{revision}: {} of {} passed", verdict.passed.len(), verdict.total());
    for failed in &verdict.failed {
        println!("  failed: {failed}");
    }
    Ok(verdict)
}

/// How many of the suite's scenarios for clients pass, and how many there are: the official JavaScript client calls the
/// suite's servers through a node each, which is the same one started again.
async fn as_client(
    suite: &Conformance,
    rig: &Rig,
    target: &Target,
    results: &Path,
) -> Outcome<(usize, usize)> {
    let clients = Clients::fetch().await?;
    let binary = std::env::current_exe()?.with_file_name("mcp-node");
    let (_, secret) = target.key.clone().ok_or("the target has no key")?;
    let spool = rig.folder.path().join("as-client.spool");
    let (mut passed, mut total) = (0, 0);
    for (revision, sessions, scenarios) in CLIENT_SCENARIOS {
        let client = clients.conformance(&binary, &secret, sessions);
        for scenario in scenarios {
            let (program, args) = suite.client_command(scenario, revision, &client, results);
            let mut command = Command::new(program);
            command.args(args).env("MCP_NATS_URL", rig.nats.url()).env("MCP_SPOOL_DIR", &spool);
            command.env("RUST_LOG", "info").kill_on_drop(true);
            let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await??;
            let said = [output.stdout, output.stderr]
                .map(|text| String::from_utf8_lossy(&text).into_owned());
            total += 1;
            if said.iter().any(|text| text.contains(CLIENT_PASSED)) {
                passed += 1;
            } else {
                println!("  failed as client: {revision} {scenario}\n{}", said.join("\n"));
            }
        }
    }
    println!("as client: {passed} of {total} passed");
    Ok((passed, total))
}

type Door = Client<HttpConnector, Incoming>;

/// Opens a door to `target` that adds its key to each request. Returns its URL.
async fn keyed(target: &Target) -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    let (name, secret) = target.key.clone().ok_or("the target has no key")?;
    let (to, key) = (target.url.clone(), HeaderValue::from_str(&secret)?);
    let client: Door = Client::builder(TokioExecutor::new()).build_http();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (client, to, key) = (client.clone(), to.clone(), key.clone());
            let service = service_fn(move |request| {
                pass(client.clone(), to.clone(), (name, key.clone()), request)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
        }
    });
    Ok(url)
}

/// `Host` stays the client's: the suite tests what the node says to strange ones.
async fn pass(
    client: Door,
    to: Uri,
    (name, key): (&'static str, HeaderValue),
    mut request: Request<Incoming>,
) -> Result<Response<Either<Incoming, Empty<bytes::Bytes>>>, Infallible> {
    *request.uri_mut() = to;
    request.headers_mut().insert(name, key);
    Ok(match client.request(request).await {
        Ok(response) => response.map(Either::Left),
        Err(error) => {
            eprintln!("bench: the node cannot be reached: {error}");
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}
