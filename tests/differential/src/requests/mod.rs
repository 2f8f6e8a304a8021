//! Generated requests → node → a server that runs whatever it can read: *run ⇒ admitted*, and what ran is what was
//! admitted. With a key that may not, nothing runs.

mod plan;
mod server;
mod spellings;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

pub use self::server::over_stdio;
use self::{
    plan::{KEYS, Plan, SERVERS},
    server::Server,
    write::{Parts, tool, write},
};
use crate::{
    Failure, Found, http, raw,
    rig::{Key, KeyRules, NodeProcess, Rig},
};

const BATCH: u64 = 300;
const AT_ONCE: usize = 48;
/// Batches that run at the same time: while the last cases of one time out, the next one runs.
const BATCHES: usize = 3;
/// How long a client waits for an answer, and for a second one where it sent two requests.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1_200);
/// How long a call may be on its way to its record when the next batch begins.
const LATE_RECORD_TIMEOUT: Duration = Duration::from_secs(8);
/// The same for a case that runs by itself, to find a simpler one.
const SOON: Duration = Duration::from_secs(1);
/// After so many differences no more are made simpler.
const MAX_SIMPLIFIED: u64 = 200;

/// How a case breaks the law.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Difference {
    /// A tool ran with a key that may run none of these.
    RanForbidden,
    /// A tool ran oftener than calls of it were recorded.
    RanNotRecorded,
}

/// The test's parts.
pub struct Requests<'a> {
    rig: &'a Rig,
    server: Server,
    node: NodeProcess,
    keys: HashMap<&'static str, Key>,
    sessions: Mutex<HashMap<(&'static str, &'static str), String>>,
    runs: AtomicU64,
    simplified: AtomicU64,
    /// The simplest cases that were printed.
    known: Mutex<Vec<(Difference, Plan)>>,
    statuses: Mutex<BTreeMap<u16, u64>>,
}

/// One run of one case.
struct Run {
    number: u64,
    status: u16,
    bytes: Vec<u8>,
}

/// What a run showed.
struct Seen {
    difference: Difference,
    tool: String,
    times: u64,
    read: Vec<u8>,
}

impl<'a> Requests<'a> {
    /// Starts server and node. `own_binary` is `differential`, which is the child over stdio, too.
    ///
    /// # Errors
    /// A part does not come up.
    pub async fn start(rig: &'a Rig, own_binary: &std::path::Path) -> Result<Self, Failure> {
        let server = Server::start().await?;
        let (address, told_at) = (server.address, server.told_at);
        let http = ["h_old", "h_plain", "h_new"].map(|name| {
            format!("[[upstream]]\nname = \"{name}\"\nurl = \"http://{address}/{name}\"\n")
        });
        let own_binary = own_binary.display();
        let file = format!(
            "aggregate = true\n{}[[upstream]]\nname = \"stdio\"\n\
             command = [\"{own_binary}\", \"--lenient-stdio\", \"{told_at}\"]\n\
             [tool_scopes]\n\"*\" = \"may:run\"\n",
            http.concat()
        );
        let env = [("MCP_BREAKER_FAILURES", "0"), ("MCP_REQUEST_TIMEOUT", "4000")];
        let node = rig.node("node-requests", &file, &env).await?;
        let mut keys = HashMap::new();
        for (number, name) in (100..).zip(KEYS) {
            let scopes = if *name == "no_scope" { vec!["may:nothing".to_owned()] } else { vec![] };
            let rules = KeyRules {
                quota: (*name == "no_quota").then_some(0),
                tools: (*name == "other_tools").then(|| vec!["none".to_owned()]),
                scopes,
                rate: None,
            };
            let key = rig.key(number, rules).await?;
            rig.wait_for_key(&node, &key).await?;
            keys.insert(*name, key);
        }
        let requests = Self {
            rig,
            server,
            node,
            keys,
            sessions: Mutex::default(),
            runs: 0.into(),
            simplified: 0.into(),
            known: Mutex::default(),
            statuses: Mutex::default(),
        };
        for key in KEYS {
            for server in SERVERS {
                requests.begin_session(key, server).await?;
            }
        }
        Ok(requests)
    }

    async fn begin_session(&self, key: &'static str, server: &'static str) -> Result<(), Failure> {
        let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"d","version":"1"}}}"#;
        let at = if server == "all" { "/mcp".to_owned() } else { format!("/mcp/{server}") };
        let headers = [("x-api-key", self.keys[key].secret.as_str())];
        let answer = raw::post(&self.node.address, &at, &headers, hello).await?;
        let line = answer.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
        let session = line.unwrap_or("none").trim().to_owned();
        self.sessions.lock().insert((key, server), session);
        Ok(())
    }

    /// Runs `cases` cases from `first` on.
    ///
    /// # Errors
    /// The test itself fails.
    pub async fn run(&self, seed: u64, first: u64, cases: u64) -> Result<Found, Failure> {
        let starts = (first..first + cases).step_by(usize::try_from(BATCH)?);
        let batches =
            starts.map(|start| self.batch(seed, start..(start + BATCH).min(first + cases)));
        let found: Vec<_> = stream::iter(batches).buffer_unordered(BATCHES).collect().await;
        let mut differences = 0;
        for batch in found {
            differences += batch?;
        }
        let statuses = std::mem::take(&mut *self.statuses.lock());
        println!("requests, seed {seed}: {cases} cases, answered with {statuses:?}");
        Ok(Found { cases, differences })
    }

    async fn batch(&self, seed: u64, cases: Range<u64>) -> Result<u64, Failure> {
        let runs = cases.map(|case| async move {
            let plan = Plan::generate(seed, case);
            let run = self.send(&plan).await?;
            Ok::<_, Failure>((case, plan, run))
        });
        let runs: Vec<_> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
        self.barrier().await?;
        let mut differences = 0;
        let late = Instant::now() + LATE_RECORD_TIMEOUT;
        for run in runs {
            let (case, plan, run) = run?;
            *self.statuses.lock().entry(run.status).or_default() += 1;
            let late = late.saturating_duration_since(Instant::now());
            for seen in self.judge(&plan, &run, late).await? {
                differences += 1;
                self.tell(seed, case, &plan, &run, seen).await?;
            }
        }
        Ok(differences)
    }

    async fn send(&self, plan: &Plan) -> Result<Run, Failure> {
        let number = self.runs.fetch_add(2, Ordering::Relaxed);
        let session =
            self.sessions.lock().get(&(plan.key, plan.server)).cloned().unwrap_or_default();
        let parts = Parts {
            host: &self.node.address,
            number,
            secret: &self.keys[plan.key].secret,
            open: &self.keys["open"].secret,
            session: &session,
        };
        let bytes = write(plan, parts);
        let several = ["ping", "second"].iter().any(|part| plan.frame.1.contains(part));
        let answer = talk(&self.node.address, &bytes, plan, several).await?;
        Ok(Run { number, status: raw::parse(&answer).status, bytes })
    }

    /// Waits until all that was recorded so far is on the log.
    async fn barrier(&self) -> Result<(), Failure> {
        let tool = format!("barrier-{}", self.runs.fetch_add(2, Ordering::Relaxed));
        self.rig.all_is_recorded(&self.node, "/mcp/h_plain", &self.keys["open"], &tool).await
    }

    /// How many calls of a tool that ran were recorded.
    fn recorded(&self, ran: &str) -> u64 {
        let of = |name: &str| self.rig.usage.of_tool(name).outcomes.len() as u64;
        let names = SERVERS[..4].iter().map(|server| of(&format!("{server}_{ran}")));
        names.sum::<u64>() + of(ran)
    }

    /// What ran of a run and should not have. A record may come for so long.
    async fn judge(&self, plan: &Plan, run: &Run, late: Duration) -> Result<Vec<Seen>, Failure> {
        let mut seen = Vec::new();
        for (tool, times, read) in self.server.ran.take(|ran| is_of(ran, run.number)) {
            let difference = if plan.may_run_nothing() {
                Some(Difference::RanForbidden)
            } else {
                let usage = &self.rig.usage;
                let in_time = usage.wait_until(late, |_| self.recorded(&tool) >= times).await?;
                (!in_time).then_some(Difference::RanNotRecorded)
            };
            seen.extend(difference.map(|difference| Seen { difference, tool, times, read }));
        }
        Ok(seen)
    }

    /// Prints a difference, with the simplest case that shows it.
    async fn tell(
        &self,
        seed: u64,
        case: u64,
        plan: &Plan,
        run: &Run,
        seen: Seen,
    ) -> Result<(), Failure> {
        println!("DIFFERENCE requests --seed {seed} --case {case}: {:?}: {plan}", seen.difference);
        let known = |plan: &Plan, kind: &Difference| {
            self.known.lock().iter().any(|(known, simplest)| known == kind && plan.holds(simplest))
        };
        if known(plan, &seen.difference) {
            return Ok(());
        }
        let (mut plan, mut bytes, mut seen) = (plan.clone(), run.bytes.clone(), seen);
        if self.simplified.fetch_add(1, Ordering::Relaxed) < MAX_SIMPLIFIED {
            'simpler: loop {
                for simpler in plan.simpler() {
                    let run = self.send(&simpler).await?;
                    self.barrier().await?;
                    let found = self.judge(&simpler, &run, SOON).await?;
                    let same = found.into_iter().find(|found| found.difference == seen.difference);
                    if let Some(same) = same {
                        (plan, bytes, seen) = (simpler, run.bytes, same);
                        continue 'simpler;
                    }
                }
                break;
            }
        }
        if known(&plan, &seen.difference) {
            return Ok(());
        }
        self.known.lock().push((seen.difference.clone(), plan.clone()));
        println!(
            "  simplest: {plan}\n  sent: {:?}\n  the server read: {:?}\n  and ran {:?} {} times",
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(&seen.read),
            seen.tool,
            seen.times,
        );
        Ok(())
    }
}

/// Whether a tool that ran is one of a run's: its name begins with the run's and goes on with no digit.
fn is_of(ran: &str, number: u64) -> bool {
    let bare = SERVERS[..4].iter().find_map(|server| ran.strip_prefix(&format!("{server}_")));
    let rest = bare.unwrap_or(ran).strip_prefix(&tool(number));
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Sends the bytes as the case says, and reads what comes back.
async fn talk(address: &str, bytes: &[u8], plan: &Plan, several: bool) -> Result<Vec<u8>, Failure> {
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    let head = raw::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |end| end + 4);
    let position = usize::try_from(plan.position).unwrap_or(0);
    let within = |from: usize, to: usize| from + position % (to - from).max(1);
    // Writing fails where the node has closed already: then what it answered is to be read.
    match plan.cut {
        "half_head" => {
            drop(connection.write_all(&bytes[..within(1, head)]).await);
            drop(connection.shutdown().await);
        }
        "half_body" => {
            drop(connection.write_all(&bytes[..within(head, bytes.len())]).await);
            drop(connection.shutdown().await);
        }
        "reset_behind" => {
            drop(connection.write_all(bytes).await);
            sleep(Duration::from_millis(position as u64 % 4)).await;
            http::reset(connection);
            return Ok(Vec::new());
        }
        "fin_behind" => {
            drop(connection.write_all(bytes).await);
            drop(connection.shutdown().await);
        }
        "slow" => {
            for piece in bytes.chunks(bytes.len() / 6 + 1) {
                drop(connection.write_all(piece).await);
                sleep(Duration::from_millis(3)).await;
            }
        }
        "each_byte" => {
            for byte in bytes {
                drop(connection.write_all(&[*byte]).await);
            }
        }
        _ => drop(connection.write_all(bytes).await),
    }
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let (mut answer, mut piece) = (Vec::new(), [0; 16 * 1024]);
    while let Ok(Ok(length)) = timeout_at(deadline, connection.read(&mut piece)).await {
        answer.extend_from_slice(&piece[..length]);
        if length == 0 || (!several && raw::is_complete(&answer)) {
            break;
        }
    }
    Ok(answer)
}
