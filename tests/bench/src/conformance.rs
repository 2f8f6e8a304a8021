//! The official conformance suite of MCP through mcp-node as a process, with everything switched on: keys, a hard
//! quota, the spool, the publisher, and the real ledger behind it.
//!
//! The suite cannot send a header of its own, so it calls a door that adds the key and changes nothing else.

use std::{collections::BTreeSet, convert::Infallible, path::Path, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use mcp_fixture::{Fixture, Speaks};
use serde::Serialize;
use stack::Conformance;
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
    finish(
        "conformance",
        &Figures {
            legacy_passed: legacy.passed.len(),
            legacy_total: legacy.total(),
            modern_passed: modern.passed.len(),
            modern_total: modern.total(),
        },
    )
}

/// What the suite said of the scenarios that a revision requires.
struct Verdict {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl Verdict {
    fn total(&self) -> usize {
        self.passed.len() + self.failed.len()
    }
}

async fn judge(suite: &Conformance, url: &str, revision: &str, results: &Path) -> Outcome<Verdict> {
    let (program, args) = suite.server_command(url, revision, results);
    let running = Command::new(program).args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(300), running).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdict = read(&said).ok_or_else(|| format!("the suite said no summary:\n{said}"))?;
    println!("{revision}: {} of {} passed", verdict.passed.len(), verdict.total());
    for failed in &verdict.failed {
        println!("  failed: {failed}");
    }
    Ok(verdict)
}

/// Reads the summary: a line `✓ name: …` or `✗ name: …` for each scenario; those that are not scored are named again
/// behind `Not scored`, as `✓ name (…)`.
fn read(said: &str) -> Option<Verdict> {
    let summary = said.split("=== SUMMARY ===").nth(1)?;
    let (required, beside) = summary.split_once("Not scored").unwrap_or((summary, ""));
    let named = |text: &str, mark: char, end: char| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(mark));
        lines.filter_map(|line| Some(line.split_once(end)?.0.trim().to_owned())).collect()
    };
    let beside = &named(beside, '✓', '(') | &named(beside, '✗', '(');
    let (passed, failed) = (named(required, '✓', ':'), named(required, '✗', ':'));
    Some(Verdict { passed: &passed - &beside, failed: &failed - &beside })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_scored_does_not_count() {
        let said = "=== SUMMARY ===\n✓ tools-list: 3 passed, 0 failed\n✗ ping: 0 passed, 1 failed\n✓ extra: 1 passed, 0 failed\n\
                    Not scored for X: 1\n  ✓ extra (extension)\n";
        let verdict = read(said).unwrap();
        assert_eq!((verdict.passed.len(), verdict.failed.len(), verdict.total()), (1, 1, 2));
        assert!(read("nothing").is_none());
    }
}
