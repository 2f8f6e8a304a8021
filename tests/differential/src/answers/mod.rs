//! Generated answers → node → official clients: *seen by a client as a success ⇔ counted exactly once*.

pub mod clients;
mod events;
pub mod judge;
pub(crate) mod message;
pub mod plan;
mod script;
mod server;
mod sloppy;
pub mod spellings;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::{
    clients::{Clients, Report, Saw},
    judge::{Difference, judge},
    plan::Plan,
    server::Server,
};
use crate::{
    Failure, Found,
    rig::{Key, KeyRules, NodeProcess, RECORD_TIMEOUT, Rig},
    usage::Recorded,
};

const SERVERS: [&str; 3] = ["old", "plain", "new"];
/// A batch is judged when a call that was made behind it is on the log.
const BATCH: u64 = 200;
/// Batches that run at the same time: while the last cases of one time out, the next one runs.
const BATCHES: usize = 12;
/// How long a client waits for an answer, and how long when a case is run again by itself.
const TIMEOUT: Duration = Duration::from_millis(1_500);
const LONG_TIMEOUT: Duration = Duration::from_secs(6);
/// How many calls of our own client run at once.
const AT_ONCE: usize = 48;
/// After so many differences no more are made simpler.
const MAX_SIMPLIFIED: u64 = 300;

/// The test's parts.
pub struct Answers<'a> {
    rig: &'a Rig,
    server: Server,
    node: NodeProcess,
    clients: Clients,
    key: Key,
    /// For calls of our own client.
    places: Semaphore,
    runs: AtomicU64,
    simplified: AtomicU64,
    /// The simplest cases that were printed.
    known: Mutex<Vec<(Difference, Plan)>>,
    saw: Mutex<BTreeMap<String, u64>>,
}

/// One run of one case.
struct Run {
    report: Report,
    recorded: Recorded,
    sent: Vec<u8>,
}

impl<'a> Answers<'a> {
    /// Starts server, node and clients.
    ///
    /// # Errors
    /// A part does not come up.
    pub async fn start(rig: &'a Rig) -> Result<Self, Failure> {
        let server = Server::start().await?;
        let address = server.address;
        let entries = SERVERS.map(|name| {
            format!("[[upstream]]\nname = \"{name}\"\nurl = \"http://{address}/{name}\"\n")
        });
        let file = format!("aggregate = true\n{}", entries.concat());
        // The breaker belongs to the test of fairness: here every case must reach the server.
        let env = [
            ("MCP_BREAKER_FAILURES", "0"),
            ("MCP_REQUEST_TIMEOUT", "4000"),
            ("MCP_MAX_SESSIONS", "1000000"),
        ];
        let node = rig.node("node-answers", &file, &env).await?;
        let key = rig.key(1, KeyRules::default()).await?;
        rig.wait_for_key(&node, &key).await?;
        let clients = Clients::start(&rig.folder.part("clients")?, &key.secret).await?;
        Ok(Self {
            rig,
            server,
            node,
            clients,
            key,
            places: Semaphore::new(AT_ONCE),
            runs: 0.into(),
            simplified: 0.into(),
            known: Mutex::default(),
            saw: Mutex::default(),
        })
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
        let (log, tenant) = (self.rig.usage.units_of(self.key.tenant), self.key.tenant);
        let deadline = tokio::time::Instant::now() + RECORD_TIMEOUT;
        while self.rig.counted_by_ledger(tenant).await? < log
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let ledger = self.rig.counted_by_ledger(tenant).await?;
        if ledger != self.rig.usage.units_of(tenant) {
            println!("DIFFERENCE answers: the log has {log} units, the ledger {ledger}");
            differences += 1;
        }
        let saw = std::mem::take(&mut *self.saw.lock());
        println!("answers, seed {seed}: {cases} cases, seen by the clients: {saw:#?}");
        let unconnected = saw.get("Unconnected").copied().unwrap_or(0);
        if unconnected * 100 > cases {
            return Err(format!("{unconnected} of {cases} cases could not connect").into());
        }
        Ok(Found { cases, differences })
    }

    async fn batch(&self, seed: u64, cases: std::ops::Range<u64>) -> Result<u64, Failure> {
        let runs = cases.map(|case| async move {
            let plan = Plan::generate(seed, case);
            let began = self.call(&plan, TIMEOUT).await?;
            Ok::<_, Failure>((case, plan, began))
        });
        let called: Vec<_> = futures::future::join_all(runs).await;
        self.barrier().await?;
        let mut differences = 0;
        for called in called {
            let (case, plan, (tool, report)) = called?;
            let run = self.take(&plan, &tool, report);
            self.note(&plan, run.report.saw);
            if run.report.saw == Saw::Unconnected {
                println!("answers, seed {seed}, case {case}: not connected: {}", run.report.detail);
            }
            if let Some(difference) = judge(&run.report, &run.recorded)
                && self.confirm(difference, &plan).await?
            {
                differences += 1;
                self.tell(seed, case, difference, &plan, &run).await?;
            }
        }
        Ok(differences)
    }

    fn note(&self, plan: &Plan, saw: Saw) {
        let mut counts = self.saw.lock();
        *counts.entry(format!("{saw:?}")).or_default() += 1;
        if saw == Saw::Success {
            let way = format!("{saw:?} of {} at {}", plan.client, plan.target);
            *counts.entry(way).or_default() += 1;
        }
    }

    /// The names of a case's tool: at the server, and as the client calls it.
    fn names(&self, plan: &Plan, tool: &str) -> (String, String) {
        let called = if plan.target == "all" {
            let place = usize::try_from(plan.position).unwrap_or(0) % SERVERS.len();
            format!("{}_{tool}", SERVERS[place])
        } else {
            tool.to_owned()
        };
        (tool.to_owned(), called)
    }

    /// Lets the client of a plan make its call. Returns the tool's name at the server.
    async fn call(&self, plan: &Plan, timeout: Duration) -> Result<(String, Report), Failure> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let (tool, called) = self.names(plan, &format!("t{number}"));
        self.server.plan(&tool, plan.clone());
        let path = if plan.target == "all" { String::new() } else { format!("/{}", plan.target) };
        let url = format!("http://{}/mcp{path}", self.node.address);
        let report = if plan.client == "sloppy" {
            self.call_sloppily(plan, &called, number).await?
        } else {
            self.clients.run(plan.client, &url, &called, timeout).await?
        };
        Ok((tool, report))
    }

    /// A call of our own client. It may leave before its answer, so what it did not see says nothing.
    async fn call_sloppily(&self, plan: &Plan, called: &str, case: u64) -> Result<Report, Failure> {
        let _place = self.places.acquire().await?;
        let (node, secret) = (self.node.address.parse()?, &self.key.secret);
        let results = sloppy::call(plan, node, secret, called, case).await?;
        let saw = if results.is_empty() { Saw::GaveUp } else { Saw::Success };
        let detail = results.first().map(|result| result.chars().take(300).collect());
        Ok(Report { case, saw, answers: 1, detail: detail.unwrap_or_default() })
    }

    /// Waits until all that was recorded so far is on the log.
    async fn barrier(&self) -> Result<(), Failure> {
        let tool = format!("barrier-{}", self.runs.fetch_add(1, Ordering::Relaxed));
        self.rig.all_is_recorded(&self.node, "/mcp/plain", &self.key, &tool).await
    }

    fn take(&self, plan: &Plan, tool: &str, report: Report) -> Run {
        let (_, called) = self.names(plan, tool);
        let recorded = self.rig.usage.of_tool(&called);
        self.rig.usage.forget(&called);
        Run { report, recorded, sent: self.server.forget(tool) }
    }

    /// Runs a plan by itself, with more time.
    async fn alone(&self, plan: &Plan) -> Result<(Option<Difference>, Run), Failure> {
        let (tool, report) = self.call(plan, LONG_TIMEOUT).await?;
        self.barrier().await?;
        let run = self.take(plan, &tool, report);
        Ok((judge(&run.report, &run.recorded), run))
    }

    /// Whether a difference is more than a client that was too busy to listen.
    async fn confirm(&self, difference: Difference, plan: &Plan) -> Result<bool, Failure> {
        if difference.is_certain() {
            return Ok(true);
        }
        for _ in 0..2 {
            if self.alone(plan).await?.0 == Some(difference) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Prints a difference, with the simplest case that shows it.
    async fn tell(
        &self,
        seed: u64,
        case: u64,
        difference: Difference,
        plan: &Plan,
        run: &Run,
    ) -> Result<(), Failure> {
        println!("DIFFERENCE answers --seed {seed} --case {case}: {difference:?}: {plan}");
        let known = |plan: &Plan| {
            let known = self.known.lock();
            known.iter().any(|(kind, simplest)| *kind == difference && plan.holds(simplest))
        };
        if known(plan) {
            return Ok(());
        }
        let (mut plan, mut simplest) = (plan.clone(), None);
        if self.simplified.fetch_add(1, Ordering::Relaxed) < MAX_SIMPLIFIED {
            'simpler: loop {
                for simpler in plan.simpler() {
                    let (found, run) = self.alone(&simpler).await?;
                    if found == Some(difference) {
                        (plan, simplest) = (simpler, Some(run));
                        continue 'simpler;
                    }
                }
                break;
            }
        }
        if known(&plan) {
            return Ok(());
        }
        self.known.lock().push((difference, plan.clone()));
        let run = simplest.as_ref().unwrap_or(run);
        let sent: String = String::from_utf8_lossy(&run.sent).chars().take(900).collect();
        println!(
            "  simplest: {plan}\n  the server sent: {sent:?}\n  the client saw: {:?}, {} answers, {}\n  recorded: {} units, {:?}",
            run.report.saw,
            run.report.answers,
            run.report.detail,
            run.recorded.units,
            run.recorded.outcomes,
        );
        Ok(())
    }
}
