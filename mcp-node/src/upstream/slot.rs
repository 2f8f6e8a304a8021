//! One admitted call while its answer is on the way.
//!
//! The answer of a resumed stream can come another way than the one that the call went: whoever sees it first
//! settles, under the lock, so nobody forwards an answer before it is recorded, and nobody records it twice.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use mcp_node_core::{billable, message::Answer, metering::ResultAt};
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
    Settled(Result<(), CannotRecord>),
}

/// A call that is settled once.
pub struct Slot {
    state: Mutex<Option<State>>,
    tasks: Arc<Tasks>,
    /// The client has said that it does not want the answer any more.
    cancelled: AtomicBool,
    /// It was settled, or cancelled.
    pub changed: Notify,
}

impl Slot {
    pub fn new(permit: Permit, tasks: &Arc<Tasks>) -> Self {
        let (state, tasks) = (Mutex::new(Some(State::Open(permit))), tasks.clone());
        Self { state, tasks, cancelled: AtomicBool::new(false), changed: Notify::new() }
    }

    /// Records the outcome, unless it was recorded before.
    ///
    /// # Errors
    /// It could not be recorded, now or before: the answer must not be delivered.
    pub fn settle(&self, outcome: Outcome, bytes_out: u64) -> Result<(), CannotRecord> {
        self.settle_open(|permit| permit.settle(outcome, bytes_out))
    }

    fn settle_open(
        &self,
        settle: impl FnOnce(Permit) -> Result<(), CannotRecord>,
    ) -> Result<(), CannotRecord> {
        let mut state = self.state.lock();
        let result = match state.take() {
            Some(State::Open(permit)) => settle(permit),
            Some(State::Settled(result)) => result,
            None => Ok(()),
        };
        *state = Some(State::Settled(result.clone()));
        drop(state);
        self.changed.notify_waiters();
        result
    }

    /// As [`Slot::settle`], by what the answer says; `message` = all of it.
    pub fn settle_by(&self, answer: Answer<'_>, message: &[u8]) -> Result<(), CannotRecord> {
        let outcome = billable::outcome(answer);
        if outcome == Outcome::TaskCreated
            && let Some(State::Open(permit)) = &*self.state.lock()
        {
            self.tasks.made(permit.key(), permit.tool(), message);
        }
        self.settle_open(|permit| permit.settle_by(outcome, message, ResultAt::Answer))
    }

    pub fn is_settled(&self) -> bool {
        !matches!(*self.state.lock(), Some(State::Open(_)))
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
