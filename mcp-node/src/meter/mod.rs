//! The embeddable middle of the node: who calls, may they, and what came of it. HTTP and MCP are around it.
//!
//! ```text
//! let caller = meter.authenticate(secret)?;           // in memory
//! let permit = meter.admit(&caller, call).await?;     // takes one unit; waits only for a key's first lease
//! let answer = upstream(..).await;
//! permit.settle(outcome, bytes_out)?;                 // recorded on disk; then the answer may go out
//! ```
//! Invariants: a call that was answered as a success has been recorded first; a permit settles exactly once, as
//! cancelled if it is dropped; nothing is admitted that could not be recorded.

mod admit;
mod bounds;
mod permit;
mod plans;
mod refusals;
mod rules;
mod settings;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_node_core::{Action, Refusal, gate, message::LONGEST_NAME};
use parking_lot::{Mutex, RwLock};
use schemas::{KeyId, KeyState, LeaseAnswer, Record, Shard, secret::is_well_formed};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::{permit::Permit, settings::MeterSettings};
use self::{refusals::Refusals, rules::Rules};
use crate::{
    ask::{Askers, LeaseAnswerHandler, QueuedLeaseAsk},
    clock::Clock,
    keys::{KeyEntry, Keys},
    labels::Labels,
    reach::{LEASE_TIMEOUT, MissingPart, Reachability},
    spool::{CannotRecord, Spool},
    traces::RequestTrace,
};

/// So many calls of one key wait at most for what others hold, or for a ledger that does not answer.
const MAX_WAITING: u32 = 64;
/// So many wait at most for an answer that is on its way, as for a key's first lease.
const MAX_WAITING_FOR_ANSWER: u32 = 1_024;
/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(200);

/// One call that wants to be admitted.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The MCP method, `tools/call` where a tool is called.
    pub method: &'static str,
    /// The tool's name. Range: at most 512 bytes; empty = the result of a task whose tool nobody here knows.
    pub tool: &'a str,
    /// Size of the request's body. Unit: bytes.
    pub bytes_in: u64,
    pub origin: Origin<'a>,
}

/// Where a call came from and where it goes, for its log line and its record.
#[derive(Clone, Copy, Default)]
pub struct Origin<'a> {
    /// The number of the client's connection; 0 = nobody knows.
    pub connection: u64,
    /// The client's address; `None` = nobody knows.
    pub client: Option<IpAddr>,
    /// The request's id, as it was written.
    pub request: &'a str,
    /// Which of the node's servers it is for; `None` = its only one.
    pub server: Option<&'a str>,
    /// Where it lies in a trace; `None` = nobody knows.
    pub traced: Option<&'a RequestTrace>,
}

/// A handle to the node's one meter.
#[derive(Clone)]
pub struct Meter {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub keys: Keys,
    pub spool: Arc<Spool>,
    pub clock: Clock,
    pub askers: Askers,
    pub reach: Reachability,
    pub refusals: Refusals,
    rules: RwLock<Arc<Rules>>,
    /// When a meter that could not be read was last told of. Unit: milliseconds.
    pub told_of_meters_ms: AtomicU64,
    pub in_flight: AtomicU64,
    pub settled: Notify,
    ticking: Mutex<Vec<Arc<KeyEntry>>>,
    draining: AtomicBool,
    pub labels: Labels,
    /// Raised when the node must stop: its epoch has ended elsewhere, or another process is this node.
    pub fenced: CancellationToken,
}

impl Meter {
    pub(crate) fn new(
        spool: Arc<Spool>,
        askers: Askers,
        reach: Reachability,
        fenced: CancellationToken,
        labels: Labels,
        settings: MeterSettings,
    ) -> Self {
        let shared = Shared {
            keys: Keys::default(),
            spool,
            clock: Clock::default(),
            askers,
            reach,
            refusals: Refusals::default(),
            rules: RwLock::new(Arc::new(Rules::new(settings))),
            told_of_meters_ms: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            settled: Notify::new(),
            ticking: Mutex::default(),
            draining: AtomicBool::new(false),
            labels,
            fenced,
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Finds the key of a secret and checks that it may talk to this node at all.
    ///
    /// # Errors
    /// See [`gate::check_key`]; an unknown key is refused as a revoked one.
    pub fn authenticate(&self, secret: &str) -> Result<Arc<KeyEntry>, Refusal> {
        let Some(known) = self.shared.keys.find(secret) else {
            let why = if is_well_formed(secret) { "unknown" } else { "malformed" };
            metrics::counter!("mcp_secrets_refused_total", "why" => why).increment(1);
            return Err(Refusal::Unauthorized);
        };
        self.checked(known)
    }

    /// Finds a key by its id, for a caller that has proved to be its holder in another way than by its secret.
    ///
    /// # Errors
    /// As for [`Meter::authenticate`].
    pub fn authenticate_key(&self, key: KeyId) -> Result<Arc<KeyEntry>, Refusal> {
        let known = self.shared.keys.best(key, self.shared.clock.now().wall);
        self.checked(known.ok_or(Refusal::Unauthorized)?)
    }

    fn checked(&self, known: Arc<KeyEntry>) -> Result<Arc<KeyEntry>, Refusal> {
        let state = known.state();
        match gate::check_key(&state, self.shared.clock.now().wall) {
            Ok(()) => Ok(known),
            Err(refusal) => {
                self.shared.note_refused(&state, "", &refusal);
                Err(refusal)
            }
        }
    }

    /// Admits one call of a tool, or says why not. A refusal is recorded.
    ///
    /// In the common case this takes a unit of a lease in memory. A key without a lease waits for one, at most 2 s.
    ///
    /// # Errors
    /// The key's state or list of tools forbids it, its quota is spent, or no lease could be had.
    pub async fn admit(&self, known: &Arc<KeyEntry>, call: Call<'_>) -> Result<Permit, Refusal> {
        let admitted = self.try_admit(known, call).await;
        if let Err(refusal) = &admitted {
            if *refusal == Refusal::LedgerUnreachable {
                self.shared.reach.refused(known.state().shard);
            }
            self.shared.note_refused(&known.state(), call.tool, refusal);
        }
        admitted
    }

    async fn try_admit(&self, known: &Arc<KeyEntry>, call: Call<'_>) -> Result<Permit, Refusal> {
        if call.tool.len() > LONGEST_NAME {
            return Err(Refusal::InvalidParams("The tool's name is too long."));
        }
        let rules = self.shared.rules();
        let plan = rules.plans.of(call.tool);
        let (mut deadline, mut waiting) = (None, None);
        loop {
            let changed = known.changed.notified();
            let state = known.state();
            // What waits has taken nothing: no unit, no rate, no place among the calls that run.
            let (why, wait) = match self.shared.try_take(known, &state, call, &rules, &plan)? {
                Ok(permit) => return Ok(permit),
                Err(waits) => waits,
            };
            if waiting.is_none() {
                waiting = known.start_waiting(self.shared.max_waiting(&state, &why));
            }
            let now = Instant::now();
            let deadline = *deadline.get_or_insert(now + LEASE_TIMEOUT);
            let wake = wait.map_or(deadline, |wait| now + wait);
            if waiting.is_none() || wake > deadline || now >= deadline {
                return Err(why);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Records that a call was refused by a rule that the meter does not know.
    pub fn refused(&self, known: &KeyEntry, tool: &str, refusal: &Refusal) {
        self.shared.note_refused(&known.state(), tool, refusal);
    }

    /// Whether a call that may not come now is told so by a result that failed.
    #[must_use]
    pub fn refuses_by_results(&self) -> bool {
        self.shared.rules().settings.refuse_by_results
    }

    /// Counts, bounds and tells otherwise from now on. Calls that run end by the rules that they began under; what the
    /// bounds have counted so far begins anew.
    pub fn change(&self, settings: MeterSettings) {
        if self.shared.rules().settings != settings {
            *self.shared.rules.write() = Arc::new(Rules::new(settings));
        }
    }

    /// Who runs this node.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.shared.labels
    }

    /// What keeps the node from serving calls, in words; `None` = nothing.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let draining = self.shared.draining.load(Ordering::Relaxed);
        draining.then(|| "stopping".to_owned()).or_else(|| self.shared.spool.trouble())
    }

    /// What the node needs and has not got: parts of it, why, and whether calls are served all the same.
    #[must_use]
    pub fn missing(&self) -> Vec<MissingPart> {
        let mut missing = self.shared.reach.missing(|| self.shared.has_lease());
        let spool = self.trouble();
        missing.extend(spool.map(|reason| MissingPart { part: "spool", reason, is_served: false }));
        missing
    }

    /// Refuses new calls from now on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Whether no call is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shared.in_flight.load(Ordering::Acquire) == 0
    }

    /// Waits until no call is in flight, at most `timeout`; says whether that is so.
    pub async fn idle(&self, timeout: Duration) -> bool {
        let idle = async {
            loop {
                let settled = self.shared.settled.notified();
                if self.is_idle() {
                    return;
                }
                settled.await;
            }
        };
        tokio::time::timeout(timeout, idle).await.is_ok()
    }

    /// The last words of a node that has drained: closes all leases and ends the epoch in the spool.
    ///
    /// # Errors
    /// The spool refused; the next start ends this epoch then.
    pub fn close(&self) -> Result<(), CannotRecord> {
        self.shared.keys.for_each(|known| {
            let mut actions = Vec::new();
            known.book.lock().close_all(&mut actions);
            self.shared.perform(known, actions);
        });
        self.shared.refusals.flush(&self.shared.spool);
        self.shared.spool.end_epoch(&self.shared.askers.asked())
    }

    /// Looks after leases and refusals until `stop`.
    pub(crate) async fn tick(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0u64;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.shared.tick_leases();
            count += 1;
            if count.is_multiple_of(5) {
                self.shared.refusals.flush(&self.shared.spool);
                self.shared.rules().bounds.sweep(self.shared.clock.now().mono_ms);
                self.shared.measure();
            }
        }
    }
}

impl LeaseAnswerHandler for Shared {
    fn answered(self: &Arc<Self>, known: &Arc<KeyEntry>, answer: LeaseAnswer) {
        let (now, mut actions) = (self.clock.now(), Vec::new());
        match answer {
            LeaseAnswer::Granted(lease) => known.book.lock().granted(now, &lease, &mut actions),
            LeaseAnswer::Refused { lease, why } => {
                known.book.lock().refused(now, lease, why, &mut actions);
            }
        }
        self.perform(known, actions);
        known.changed.notify_waiters();
    }

    fn reached(&self, shard: Shard, is_answered: bool) {
        if is_answered {
            self.reach.answered(shard);
        } else {
            self.reach.failed(shard);
        }
    }
}

impl Shared {
    /// The rules as of now.
    fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }

    /// Carries out what a key's leases ask for.
    pub(crate) fn perform(self: &Arc<Self>, known: &Arc<KeyEntry>, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Ask(ask) => {
                    self.start_ticking(known);
                    self.askers
                        .ask(known.state().shard, QueuedLeaseAsk { ask, known: known.clone() });
                }
                Action::Close { lease, spent } => {
                    let state = known.state();
                    let closed = Record::LeaseClosed { lease, tenant: state.tenant, spent };
                    if let Err(error) = self.spool.append(state.shard, &closed) {
                        // The end of this epoch settles the lease by what the ledger has counted.
                        tracing::warn!(%lease, %error, "Cannot record that a lease is closed");
                    }
                }
                Action::Stop => {
                    tracing::error!("The ledger holds this epoch for ended: stopping");
                    self.fenced.cancel();
                }
            }
        }
    }

    /// The ledger wants back what this key can spare here.
    pub(crate) fn recall(self: &Arc<Self>, key: KeyId) {
        let now = self.clock.now();
        for known in self.keys.of(key) {
            let mut actions = Vec::new();
            known.book.lock().recalled(now, &mut actions);
            self.perform(&known, actions);
        }
    }

    /// Whether any key has a lease that calls can be served from.
    fn has_lease(&self) -> bool {
        let (now, mut found) = (self.clock.now(), false);
        self.keys.for_each(|known| found = found || known.book.lock().can_serve(now));
        found
    }

    /// How many calls of a key may wait at most, to be served after all when `why` is over.
    fn max_waiting(&self, state: &KeyState, why: &Refusal) -> u32 {
        match why {
            Refusal::LedgerUnreachable if !self.reach.is_failing(state.shard) => {
                MAX_WAITING_FOR_ANSWER
            }
            _ => MAX_WAITING,
        }
    }

    fn start_ticking(&self, known: &Arc<KeyEntry>) {
        if !std::mem::replace(&mut *known.ticking.lock(), true) {
            self.ticking.lock().push(known.clone());
        }
    }

    fn tick_leases(self: &Arc<Self>) {
        let now = self.clock.now();
        let looked_after: Vec<Arc<KeyEntry>> = std::mem::take(&mut *self.ticking.lock());
        let kept = looked_after.into_iter().filter(|known| {
            let mut actions = Vec::new();
            let mut ticking = known.ticking.lock();
            {
                let mut book = known.book.lock();
                book.tick(now, &mut actions);
                // An ask that comes now finds `false` and puts the key back.
                *ticking = !book.is_idle();
            }
            let keep = *ticking;
            drop(ticking);
            self.perform(known, actions);
            keep
        });
        let kept: Vec<Arc<KeyEntry>> = kept.collect();
        self.ticking.lock().extend(kept);
    }

    pub(crate) fn note_refused(&self, state: &Arc<KeyState>, tool: &str, refusal: &Refusal) {
        metrics::counter!("mcp_refused_total", "reason" => refusal.reason()).increment(1);
        if let Some(reason) = refusal.recorded_as() {
            self.refusals.note(state, tool, reason);
        }
    }

    fn measure(&self) {
        self.reach.measure();
        metrics::gauge!("mcp_keys").set(self.keys.len() as f64);
        metrics::gauge!("mcp_calls_in_flight").set(self.in_flight.load(Ordering::Relaxed) as f64);
        metrics::gauge!("mcp_spool_bytes").set(self.spool.bytes() as f64);
        metrics::gauge!("mcp_keys_with_leases").set(self.ticking.lock().len() as f64);
    }
}
