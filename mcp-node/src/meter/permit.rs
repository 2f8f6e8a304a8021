//! Leave for one call, from admission to its outcome.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mcp_node_core::{Now, Unit, billable, lease_book::Hint};
use schemas::{KeyId, KeyState, Outcome, Record, Timestamp, UsageEvent};

use super::{Call, Shared};
use crate::{keys::Known, spool::CannotRecord};

/// One admitted call. Dropped without an outcome it counts as cancelled, which is free.
#[must_use = "a permit that is dropped counts as a cancelled call"]
pub struct Permit {
    shared: Arc<Shared>,
    known: Arc<Known>,
    state: Arc<KeyState>,
    unit: Option<Unit>,
    /// It counts among the calls that run, for the key's rate.
    rated: bool,
    hint: Option<Hint>,
    at: Timestamp,
    began: Instant,
    method: &'static str,
    tool: String,
    bytes_in: u64,
    connection: u64,
    request: String,
}

impl Permit {
    pub(super) fn new(
        shared: &Arc<Shared>,
        known: &Arc<Known>,
        state: &Arc<KeyState>,
        unit: Unit,
        call: Call<'_>,
        now: Now,
        rated: bool,
    ) -> Self {
        shared.in_flight.fetch_add(1, Ordering::AcqRel);
        Self {
            shared: shared.clone(),
            known: known.clone(),
            state: state.clone(),
            hint: unit.hint,
            at: unit.at(now.wall),
            unit: Some(unit),
            rated,
            began: Instant::now(),
            method: call.method,
            tool: call.tool.to_owned(),
            bytes_in: call.bytes_in,
            connection: call.origin.connection,
            request: call.origin.request.to_owned(),
        }
    }

    /// What is left of the caller's quota, if it is limited.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        self.hint
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
        self.settle_once(outcome, bytes_out)
    }

    fn settle_once(&mut self, outcome: Outcome, bytes_out: u64) -> Result<(), CannotRecord> {
        let Some(unit) = self.unit.take() else { return Ok(()) };
        let (quantities, duration) = (billable::quantities(outcome), self.began.elapsed());
        let event = Record::Usage(UsageEvent {
            at: self.at,
            tenant: self.state.tenant,
            project: self.state.project,
            key: self.state.key,
            lease: Some(unit.lease),
            method: self.method.to_owned(),
            tool: self.tool.clone(),
            outcome,
            quantities: quantities.clone(),
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            bytes_in: self.bytes_in,
            bytes_out,
        });
        let recorded = self.shared.spool.append(self.state.shard, &event);
        // Recorded first, settled then: the closing of the lease must stand behind all its events.
        let counted = if recorded.is_ok() { quantities } else { BTreeMap::new() };
        if self.rated {
            self.known.rate.lock().done();
        }
        let mut actions = Vec::new();
        self.known.book.lock().settle(unit, &counted, &mut actions);
        self.shared.perform(&self.known, actions);
        self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.shared.settled.notify_waiters();
        let outcome = if recorded.is_ok() { name(outcome) } else { "not_recorded" };
        self.log(outcome, duration);
        metrics::counter!("mcp_calls_total", "outcome" => outcome).increment(1);
        recorded
    }
}

impl Permit {
    /// One line a call. Those that went well are many, and told only to who asks for them.
    fn log(&self, status: &'static str, duration: Duration) {
        let organization = self.shared.labels.organization.as_deref();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    tenant = %self.state.tenant,
                    organization,
                    connectionId = self.connection,
                    tool = self.tool,
                    requestId = self.request,
                    duration = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
                    status,
                    "Call"
                )
            };
        }
        if status == "success" { line!(debug) } else { line!(info) }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Err(error) = self.settle_once(Outcome::Cancelled, 0) {
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
