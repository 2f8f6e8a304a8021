//! Whatever the keys of one tenant do, the calls of another keep their success rate and their p99.
//!
//! A victim calls ten times a second at fixed moments, whether or not the call before has ended; first alone, then
//! beside each bad thing in turn.

mod aggressor;
mod server;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use schemas::RateLimits;
use serde::Serialize;
use tokio::task::JoinSet;

use self::aggressor::{DEEDS, begin};
use crate::{
    Failure, raw,
    rig::{KeyRules, Rig},
};

const BEAT: Duration = Duration::from_millis(100);
/// Every so many calls the victim begins a session first.
const SESSION_EVERY: u64 = 5;
/// Shares of the time that the victim is alone.
const ALONE: u32 = 3;

/// What the victim met.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub victim_served_percent: f64,
    pub victim_p99_ms: f64,
    pub alone_p99_ms: f64,
    /// Calls that were answered with 503.
    #[serde(skip)]
    pub victim_503: u64,
}

/// The calls of the victim in one turn.
#[derive(Default)]
struct Turn {
    calls: u64,
    served: u64,
    took: Vec<Duration>,
    others: BTreeMap<String, u64>,
}

/// Runs the test for about so long.
///
/// # Errors
/// The test itself fails.
pub async fn run(rig: &Rig, time: Duration) -> Result<Figures, Failure> {
    let server = server::start().await?;
    // A call may take a second, so that calls that are too long show within a turn; sessions are few, so that they can
    // be used up within one.
    let env = [
        ("MCP_UPSTREAM_URL", format!("http://{server}/mcp")),
        ("MCP_REQUEST_TIMEOUT", "1000".to_owned()),
        ("MCP_MAX_SESSIONS", "1000".to_owned()),
    ];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let node = rig.node("node-fairness", "", &env).await?;
    let victim = rig.key(200, KeyRules::default()).await?;
    let quota = KeyRules { quota: Some(1_000_000), ..KeyRules::default() };
    let rate = Some(RateLimits { per_minute: 600, burst: 20, concurrent: None });
    let aggressors = rig.tenant(201, vec![quota, KeyRules { rate, ..KeyRules::default() }]).await?;
    rig.wait_for_key(&node, &victim).await?;
    for aggressor in &aggressors {
        rig.wait_for_key(&node, aggressor).await?;
    }
    let shares = ALONE + DEEDS.iter().map(|deed| deed.shares).sum::<u32>();
    let share = time / shares;
    let address = node.address.clone();
    let alone = turn(&address, &victim.secret, share * ALONE).await?;
    tell("alone", &alone);
    let mut all = Turn::default();
    for deed in DEEDS {
        let workers = begin(*deed, address.parse()?, &aggressors);
        let turn = turn(&address, &victim.secret, share * deed.shares).await?;
        drop(workers);
        tell(deed.name, &turn);
        all.calls += turn.calls;
        all.served += turn.served;
        all.took.extend(turn.took);
        for (what, times) in turn.others {
            *all.others.entry(what).or_default() += times;
        }
    }
    Ok(Figures {
        victim_served_percent: percent(all.served, all.calls),
        victim_p99_ms: p99_ms(&all.took),
        alone_p99_ms: p99_ms(&alone.took),
        victim_503: all
            .others
            .iter()
            .filter(|(what, _)| what.starts_with("503"))
            .map(|(_, n)| n)
            .sum(),
    })
}

/// The victim's calls for so long.
async fn turn(address: &str, secret: &str, time: Duration) -> Result<Turn, Failure> {
    let (mut calls, end) = (JoinSet::new(), Instant::now() + time);
    let mut beat = tokio::time::interval(BEAT);
    for number in 0u64.. {
        beat.tick().await;
        if Instant::now() >= end && number > 0 {
            break;
        }
        let (address, secret) = (address.to_owned(), secret.to_owned());
        calls.spawn(async move { one(&address, &secret, number).await });
    }
    let mut turn = Turn::default();
    for (what, took) in calls.join_all().await {
        turn.calls += 1;
        turn.took.push(took);
        match what {
            None => turn.served += 1,
            Some(what) => *turn.others.entry(what).or_default() += 1,
        }
    }
    Ok(turn)
}

/// One call; what was answered instead of a result, and how long it took.
async fn one(address: &str, secret: &str, number: u64) -> (Option<String>, Duration) {
    let began = Instant::now();
    let mut headers = vec![("x-api-key", secret.to_owned())];
    let answered = async {
        if number.is_multiple_of(SESSION_EVERY) {
            let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"v","version":"1"}}}"#;
            let answer = raw::post(address, "/mcp", &borrowed(&headers), hello).await?;
            let session =
                answer.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
            match session {
                Some(session) => headers.push(("mcp-session-id", session.trim().to_owned())),
                None => return Ok(answer),
            }
        }
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"steady","arguments":{{}}}}}}"#
        );
        raw::post(address, "/mcp", &borrowed(&headers), &body).await
    };
    let answer: Result<raw::Answer, Failure> = answered.await;
    let took = began.elapsed();
    let what = match answer {
        Ok(answer) if answer.status == 200 && raw::find(&answer.body, b"\"ran\"").is_some() => None,
        Ok(answer) => {
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let reason = body["error"]["data"]["reason"].as_str().unwrap_or("no reason");
            Some(format!("{} {reason}", answer.status))
        }
        Err(error) => Some(error.to_string()),
    };
    (what, took)
}

fn borrowed<'a>(headers: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn tell(name: &str, turn: &Turn) {
    println!(
        "{name:24} {:4} of {:4} served, p99 {:8.2} ms {:?}",
        turn.served,
        turn.calls,
        p99_ms(&turn.took),
        turn.others
    );
}

#[expect(clippy::float_arithmetic, reason = "a figure, no count")]
fn percent(part: u64, whole: u64) -> f64 {
    // Rounded down: 100 means all.
    (part as f64 * 10_000.0 / whole.max(1) as f64).floor() / 100.0
}

#[expect(clippy::float_arithmetic, reason = "a figure, no count")]
fn p99_ms(took: &[Duration]) -> f64 {
    let mut took = took.to_vec();
    took.sort_unstable();
    let place = (took.len() * 99).div_ceil(100).saturating_sub(1);
    let p99 = took.get(place).copied().unwrap_or_default();
    (p99.as_secs_f64() * 100_000.0).round() / 100.0
}
