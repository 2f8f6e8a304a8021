//! Leave for one call, from admission to its outcome.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mcp_node_core::{
    Now, Unit,
    lease_book::Hint,
    metering::{MeasuredCall, Plan, ResultAt},
    quota_note::QuotaNote,
};
use schemas::{KeyId, KeyState, MeterName, Outcome, Quantity, Record, Timestamp, UsageEvent};

use super::{Call, Shared, bounds::TakenBounds, rules::Rules};
use crate::{keys::KeyEntry, spool::CannotRecord, traces::RequestTrace};

/// What a call is settled by.
#[derive(Clone, Copy)]
enum Settled<'a> {
    By(&'a [u8], ResultAt),
    WithoutAnswer,
    CancelledAtServer,
    /// By what was set aside for it, whatever its outcome.
    AsReserved(&'a [u8]),
}

/// One admitted call. Dropped without an outcome it counts as cancelled, which is free.
#[must_use = "a permit that is dropped counts as a cancelled call"]
pub struct Permit {
    shared: Arc<Shared>,
    known: Arc<KeyEntry>,
    state: Arc<KeyState>,
    /// What it takes of a lease; absent = it needs nothing of one.
    unit: Option<Unit>,
    /// It is not settled yet.
    open: bool,
    rules: Arc<Rules>,
    plan: Arc<Plan>,
    /// What it takes of the bounds on calls.
    taken: TakenBounds,
    note: QuotaNote,
    at: Timestamp,
    began: Instant,
    method: &'static str,
    tool: String,
    bytes_in: u64,
    connection: u64,
    client: Option<IpAddr>,
    request: String,
    server: Option<String>,
    traced: RequestTrace,
}

impl Permit {
    #[expect(clippy::too_many_arguments, reason = "one caller, which has just got them all")]
    pub(super) fn new(
        shared: &Arc<Shared>,
        known: &Arc<KeyEntry>,
        state: &Arc<KeyState>,
        mut unit: Option<Unit>,
        call: Call<'_>,
        now: Now,
        rules: &Arc<Rules>,
        plan: &Arc<Plan>,
        taken: TakenBounds,
    ) -> Self {
        shared.in_flight.fetch_add(1, Ordering::AcqRel);
        Self {
            shared: shared.clone(),
            known: known.clone(),
            state: state.clone(),
            note: unit.as_mut().map_or_else(QuotaNote::default, |unit| QuotaNote {
                hint: unit.hint,
                others: std::mem::take(&mut unit.others),
                notices: unit.notices.take(),
            }),
            at: unit.as_ref().map_or(now.wall, |unit| unit.at(now.wall)),
            unit,
            open: true,
            rules: rules.clone(),
            plan: plan.clone(),
            taken,
            began: Instant::now(),
            method: call.method,
            tool: call.tool.to_owned(),
            bytes_in: call.bytes_in,
            connection: call.origin.connection,
            client: call.origin.client,
            request: call.origin.request.to_owned(),
            server: call.origin.server.map(str::to_owned),
            traced: call.origin.traced.cloned().unwrap_or_default(),
        }
    }

    /// What is left of the caller's quota, if it is limited.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        self.note.hint
    }

    /// What the caller is told of its quotas.
    #[must_use]
    pub fn note(&self) -> QuotaNote {
        self.note.clone()
    }

    /// Whether the answer's `_meta` says it too.
    #[must_use]
    pub fn tells_in_meta(&self) -> bool {
        self.rules.settings.quota_meta
    }

    /// Whose call it is.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.state.key
    }

    /// The tool that is called.
    #[must_use]
    pub fn tool(&self) -> &str {
        &self.tool
    }

    /// Records how the call ended. After this, and only after this, the answer may go to the client.
    ///
    /// `bytes_out` = size of the answer's body.
    ///
    /// # Errors
    /// It could not be recorded: the answer must not be delivered.
    pub fn settle(mut self, outcome: Outcome, bytes_out: u64) -> Result<(), CannotRecord> {
        self.settle_once(outcome, bytes_out, Settled::WithoutAnswer)
    }

    /// As [`Permit::settle`], of a call that its client cancelled; `at_server` = the server may have begun with it: then it
    /// counts for what the meters' settings say.
    ///
    /// # Errors
    /// It could not be recorded.
    pub fn settle_cancelled(mut self, at_server: bool) -> Result<(), CannotRecord> {
        let how = if at_server { Settled::CancelledAtServer } else { Settled::WithoutAnswer };
        self.settle_once(Outcome::Cancelled, 0, how)
    }

    /// As [`Permit::settle`], with the answer: meters may be read from the result in it, which lies at `at`.
    ///
    /// # Errors
    /// It could not be recorded: the answer must not be delivered.
    pub fn settle_by(
        mut self,
        outcome: Outcome,
        answer: &[u8],
        at: ResultAt,
    ) -> Result<(), CannotRecord> {
        self.settle_once(outcome, answer.len() as u64, Settled::By(answer, at))
    }

    /// Records that the call made a task, and counts it now by what was set aside: its key has too many whose results
    /// were not counted.
    ///
    /// # Errors
    /// It could not be recorded: the answer must not be delivered.
    pub fn settle_task_now(mut self, answer: &[u8]) -> Result<(), CannotRecord> {
        self.settle_once(Outcome::TaskCreated, answer.len() as u64, Settled::AsReserved(answer))
    }

    /// The most tasks of one key whose results were not counted yet.
    #[must_use]
    pub fn max_open_tasks(&self) -> u32 {
        self.rules.settings.max_open_tasks
    }

    fn settle_once(
        &mut self,
        outcome: Outcome,
        bytes_out: u64,
        how: Settled<'_>,
    ) -> Result<(), CannotRecord> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let duration = self.began.elapsed();
        let answer = match how {
            Settled::By(answer, at) => Some((answer, at)),
            Settled::AsReserved(answer) => Some((answer, ResultAt::Answer)),
            Settled::WithoutAnswer | Settled::CancelledAtServer => None,
        };
        let measured = MeasuredCall { answer, bytes_in: self.bytes_in, bytes_out, duration };
        let quantities = match how {
            Settled::CancelledAtServer => self.cover(self.plan.count_cancelled()),
            Settled::AsReserved(_) => self.cover(self.plan.count_reserved()),
            _ => self.measure(outcome, &measured),
        };
        let event = UsageEvent {
            at: self.at,
            tenant: self.state.tenant,
            project: self.state.project,
            key: self.state.key,
            lease: self.unit.as_ref().map(|unit| unit.lease),
            method: self.method.to_owned(),
            tool: self.tool.clone(),
            outcome,
            quantities,
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            bytes_in: self.bytes_in,
            bytes_out,
            server: self.server.take(),
            trace: self.traced.trace(),
        };
        let record = Record::Usage(event);
        let recorded = self.shared.spool.append(self.state.shard, &record);
        // Recorded first, settled then: the closing of the lease must stand behind all its events.
        let counted = match record {
            Record::Usage(event) if recorded.is_ok() => event.quantities,
            _ => BTreeMap::new(),
        };
        let units = counted.iter().map(|(meter, units)| (meter.as_str(), units.0));
        self.traced.ended(outcome, name(outcome), units);
        self.rules.bounds.done(&self.known, self.taken);
        if let Some(unit) = self.unit.take() {
            let mut actions = Vec::new();
            self.known.book.lock().settle(unit, &counted, &mut actions);
            self.shared.perform(&self.known, actions);
        }
        self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.shared.settled.notify_waiters();
        let outcome = if recorded.is_ok() { name(outcome) } else { "not_recorded" };
        self.log(outcome, duration);
        metrics::counter!("mcp_calls_total", "outcome" => outcome).increment(1);
        recorded
    }
}

impl Permit {
    /// What the call counts for, as far as its lease bears it.
    fn measure(
        &mut self,
        outcome: Outcome,
        measured: &MeasuredCall<'_>,
    ) -> BTreeMap<MeterName, Quantity> {
        let (counted, problems) = self.plan.count(outcome, measured);
        for (meter, problem) in problems {
            self.report(meter.as_str(), problem.as_str(), 0);
        }
        self.cover(counted)
    }

    /// As much of it as the call's lease bears.
    fn cover(
        &mut self,
        mut counted: BTreeMap<MeterName, Quantity>,
    ) -> BTreeMap<MeterName, Quantity> {
        if self.plan.measures()
            && let Some(unit) = &mut self.unit
        {
            let struck = self.known.book.lock().cover(unit, &mut counted);
            if struck > 0 {
                self.report("", "over_reserve", struck);
            }
        }
        counted
    }

    /// Says that a meter counts less than it should: all of it in a metric, one line a second.
    fn report(&self, meter: &str, problem: &'static str, units: u64) {
        metrics::counter!("mcp_meter_problems_total", "problem" => problem).increment(1);
        metrics::counter!("mcp_meter_units_not_counted_total").increment(units);
        let now_ms = self.shared.clock.now().mono_ms;
        let told_ms = self.shared.told_of_meters_ms.load(Ordering::Relaxed);
        if told_ms == 0 || now_ms.saturating_sub(told_ms) >= 1_000 {
            self.shared.told_of_meters_ms.store(now_ms.max(1), Ordering::Relaxed);
            tracing::warn!(tool = self.tool, meter, problem, units, "A meter cannot be counted");
        }
    }

    /// One line a call. Those that went well are many, and told only to who asks for them.
    fn log(&self, status: &'static str, duration: Duration) {
        let organization = self.shared.labels.organization.as_deref();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    tenant = %self.state.tenant,
                    project = %self.state.project,
                    key = %self.state.key,
                    organization,
                    client = self.client.map(tracing::field::display),
                    connectionId = self.connection,
                    tool = self.tool,
                    requestId = self.request,
                    duration = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
                    status,
                    "{} finished", self.method
                )
            };
        }
        if status == "success" { line!(debug) } else { line!(info) }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Err(error) = self.settle_once(Outcome::Cancelled, 0, Settled::WithoutAnswer) {
            tracing::warn!(%error, "A cancelled call was not recorded");
        }
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::ToolError => "tool_error",
        Outcome::ProtocolError => "protocol_error",
        Outcome::InputRequired => "input_required",
        Outcome::TaskCreated => "task_created",
        Outcome::UpstreamError => "upstream_error",
        Outcome::Timeout => "timeout",
        Outcome::Cancelled => "cancelled",
    }
}
