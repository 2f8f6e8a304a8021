//! One admitted call while its answer is on the way, settled once.
//!
//! The answer of a call whose stream broke off can come another way than the one that the call went: whoever sees it
//! first settles, under the lock, so nobody forwards an answer before it is recorded, and nobody records it twice. A
//! later answer passes only if it is the one that was recorded, byte for byte: any other was paid for by nobody.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use mcp_node_core::metering::ResultAt;
use parking_lot::Mutex;
use schemas::Outcome;
use tokio::sync::Notify;

use super::tasks::Tasks;
use crate::{meter::Permit, spool::CannotRecord};

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every one is open, for nearly all of its life"
)]
enum State {
    Open(Permit),
    /// `answer` = the digest of the answer that was recorded, if there is one and it may come again.
    Settled {
        recorded: Result<(), CannotRecord>,
        answer: Option<u64>,
    },
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryDecision {
    /// It is recorded: it may leave.
    Deliver,
    /// It was recorded before, byte for byte: it may leave where a client asks for what it has missed.
    Again,
    /// The call was settled without it, or nobody knows what it is: it must not leave.
    Withhold,
}

/// A call that is settled once.
pub struct InFlightCall {
    state: Mutex<Option<State>>,
    tasks: Arc<Tasks>,
    /// Its answer may come on another stream, now or again later.
    resumable: bool,
    /// The client has said that it does not want the answer any more.
    cancelled: AtomicBool,
    /// It was settled, or cancelled.
    pub changed: Notify,
}

impl InFlightCall {
    pub fn new(permit: Permit, tasks: &Arc<Tasks>, resumable: bool) -> Self {
        let (state, tasks) = (Mutex::new(Some(State::Open(permit))), tasks.clone());
        let cancelled = AtomicBool::new(false);
        Self { state, tasks, resumable, cancelled, changed: Notify::new() }
    }

    /// Records the outcome of a call without an answer, unless one was recorded before.
    ///
    /// # Errors
    /// It could not be recorded, now or before: nothing must be delivered.
    pub fn settle(&self, outcome: Outcome, bytes_out: u64) -> Result<(), CannotRecord> {
        self.settle_open(|permit| permit.settle(outcome, bytes_out))
    }

    /// As [`InFlightCall::settle`], of a call that its client cancelled; `at_server` = the server may have begun with it.
    ///
    /// # Errors
    /// It could not be recorded, now or before.
    pub fn cancelled(&self, at_server: bool) -> Result<(), CannotRecord> {
        self.settle_open(|permit| permit.settle_cancelled(at_server))
    }

    fn settle_open(
        &self,
        settle: impl FnOnce(Permit) -> Result<(), CannotRecord>,
    ) -> Result<(), CannotRecord> {
        let mut state = self.state.lock();
        let (recorded, answer) = match state.take() {
            Some(State::Open(permit)) => (settle(permit), None),
            Some(State::Settled { recorded, answer }) => (recorded, answer),
            None => (Ok(()), None),
        };
        *state = Some(State::Settled { recorded: recorded.clone(), answer });
        drop(state);
        self.changed.notify_waiters();
        recorded
    }

    /// Records the outcome that an answer says; `message` = all of it. An answer that is unclear is recorded as a failure
    /// of the server and withheld: a client might take it for a success.
    ///
    /// # Errors
    /// It could not be recorded, now or before: the answer must not be delivered.
    pub fn settle_as(
        &self,
        outcome: Outcome,
        message: &[u8],
    ) -> Result<DeliveryDecision, CannotRecord> {
        let is_clear = outcome != Outcome::UpstreamError;
        let digest = self.resumable.then(|| digest(message));
        let mut state = self.state.lock();
        let mut counts_now = false;
        match &*state {
            Some(State::Open(permit)) if outcome == Outcome::TaskCreated => {
                let (tool, max) = (permit.tool(), permit.max_open_tasks());
                counts_now = self.tasks.made(permit.key(), tool, message, max);
            }
            Some(State::Settled { recorded, answer }) => {
                recorded.clone()?;
                let same = digest.is_some() && digest == *answer;
                return Ok(if same { DeliveryDecision::Again } else { DeliveryDecision::Withhold });
            }
            _ => {}
        }
        let Some(State::Open(permit)) = state.take() else { return Ok(DeliveryDecision::Withhold) };
        let recorded = if counts_now {
            permit.settle_task_now(message)
        } else {
            permit.settle_by(outcome, message, ResultAt::Answer)
        };
        let answer = digest.filter(|_| is_clear);
        *state = Some(State::Settled { recorded: recorded.clone(), answer });
        drop(state);
        self.changed.notify_waiters();
        recorded?;
        Ok(if is_clear { DeliveryDecision::Deliver } else { DeliveryDecision::Withhold })
    }

    pub fn is_settled(&self) -> bool {
        !matches!(*self.state.lock(), Some(State::Open(_)))
    }

    /// The digest of the answer that was recorded and may come again.
    pub fn recorded_answer(&self) -> Option<u64> {
        match &*self.state.lock() {
            Some(State::Settled { recorded: Ok(()), answer }) => *answer,
            _ => None,
        }
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A digest of an answer that nobody outside this process can foresee.
pub fn digest(message: &[u8]) -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    KEYS.get_or_init(RandomState::new).hash_one(message)
}
