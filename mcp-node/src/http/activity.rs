//! What one connection is doing: written by its socket and its requests, read by the watchdog of [`super::connection`].
//!
//! Nothing here arms a timer. The watchdog asks for a [`ConnectionAction`], sleeps until the moment that it names, and asks
//! again, so that a request costs two looks at the clock and no more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a request's head to its last; also from the start of a connection to its first head.
    pub head: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub idle: Duration,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionAction {
    /// Nothing before this moment.
    Wait(Instant),
    /// It has been idle for too long: it may be closed in order.
    Idle,
    /// A head did not come in time: it is cut.
    SlowHead,
}

/// What a connection is doing. Moments are milliseconds since it was opened, plus one; 0 = never.
pub struct Activity {
    opened: Instant,
    /// When the first byte of a head came whose last has not come yet.
    head_began: AtomicU64,
    /// When the last answer ended, or went on to leave.
    idle_since: AtomicU64,
    /// A request is being served; HTTP/1.1 has one at a time.
    running: AtomicBool,
    /// Something of the answer to it has left.
    responding: AtomicBool,
    /// That request is cancelled if its client goes away, so that an end of what it sends must be looked into.
    cancellable: AtomicBool,
    /// It may be sent an interim response.
    interim: AtomicBool,
    /// The client sends no more, and its stream of events has not yet shown whether it still reads.
    stream_doubt: AtomicBool,
    /// It is time to find that out again where no answer has begun.
    doubt_again: AtomicBool,
}

impl Activity {
    pub fn new() -> Self {
        Self {
            opened: Instant::now(),
            head_began: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            running: AtomicBool::new(false),
            responding: AtomicBool::new(false),
            cancellable: AtomicBool::new(false),
            interim: AtomicBool::new(false),
            stream_doubt: AtomicBool::new(false),
            doubt_again: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn moment(&self, stamp: u64) -> Instant {
        self.opened + Duration::from_millis(stamp.saturating_sub(1))
    }

    /// Bytes of the client came.
    pub fn received(&self) {
        if !self.running.load(Relaxed) && self.head_began.load(Relaxed) == 0 {
            self.head_began.store(self.now(), Relaxed);
        }
    }

    /// Bytes left; `interim` = they are an interim response.
    pub fn sent(&self, interim: bool) {
        if !self.running.load(Relaxed) {
            self.idle_since.store(self.now(), Relaxed);
        } else if !interim {
            self.responding.store(true, Relaxed);
        }
    }

    /// A whole head came; the request runs until what is returned is dropped.
    pub fn begin(self: &Arc<Self>, cancellable: bool, interim: bool) -> Running {
        self.cancellable.store(cancellable, Relaxed);
        self.interim.store(interim, Relaxed);
        self.responding.store(false, Relaxed);
        self.head_began.store(0, Relaxed);
        self.running.store(true, Relaxed);
        Running(self.clone())
    }

    pub fn is_running(&self) -> bool {
        self.running.load(Relaxed)
    }

    pub fn is_responding(&self) -> bool {
        self.responding.load(Relaxed)
    }

    pub fn is_cancellable(&self) -> bool {
        self.cancellable.load(Relaxed)
    }

    pub fn takes_interim(&self) -> bool {
        self.interim.load(Relaxed)
    }

    /// The client sends no more; whether it still reads is to be found out.
    pub fn doubt(&self) {
        self.stream_doubt.store(true, Relaxed);
    }

    /// Whoever sends no more may have gone since.
    pub fn doubt_again(&self) {
        self.doubt_again.store(true, Relaxed);
    }

    /// Whether it is time to find out again; says so once.
    pub fn take_doubt(&self) -> bool {
        self.doubt_again.swap(false, Relaxed)
    }

    /// Whether a stream of events should say something now, to find out whether it is read.
    pub fn is_in_doubt(&self) -> bool {
        self.stream_doubt.load(Relaxed)
    }

    /// The stream has said something.
    pub fn tested(&self) {
        self.stream_doubt.store(false, Relaxed);
    }

    /// What is to be done at this moment.
    pub fn verdict(&self, timeouts: Timeouts, now: Instant) -> ConnectionAction {
        // No head can have begun and be too slow before this.
        let next = now + timeouts.head;
        if self.running.load(Relaxed) {
            return ConnectionAction::Wait(next.min(now + timeouts.idle));
        }
        let (head, idle) = (self.head_began.load(Relaxed), self.idle_since.load(Relaxed));
        let (end, verdict) = match (head, idle) {
            (0, 0) => (self.opened + timeouts.head, ConnectionAction::SlowHead),
            (0, idle) => (self.moment(idle) + timeouts.idle, ConnectionAction::Idle),
            (head, _) => (self.moment(head) + timeouts.head, ConnectionAction::SlowHead),
        };
        if now >= end { verdict } else { ConnectionAction::Wait(end.min(next)) }
    }
}

/// A request that is being served, until it is dropped.
pub struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.running.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts =
        Timeouts { head: Duration::from_secs(10), idle: Duration::from_secs(90) };

    #[track_caller]
    fn check(activity: &Activity, after: u64, expected: Option<ConnectionAction>) {
        let verdict = activity.verdict(TIMEOUTS, activity.opened + Duration::from_secs(after));
        match expected {
            Some(expected) => assert_eq!(verdict, expected, "after {after} s"),
            None => assert!(
                matches!(verdict, ConnectionAction::Wait(_)),
                "after {after} s: {verdict:?}"
            ),
        }
    }

    #[test]
    fn a_head_has_its_own_time_and_idleness_another() {
        let activity = Arc::new(Activity::new());
        check(&activity, 9, None);
        check(&activity, 11, Some(ConnectionAction::SlowHead));
        activity.received();
        check(&activity, 11, Some(ConnectionAction::SlowHead));
        let running = activity.begin(false, true);
        check(&activity, 1_000, None);
        activity.received(); // The body, or a pipelined head: not read before its turn.
        drop(running);
        check(&activity, 89, None);
        check(&activity, 91, Some(ConnectionAction::Idle));
        activity.received();
        check(&activity, 9, None);
        check(&activity, 11, Some(ConnectionAction::SlowHead));
    }

    #[test]
    fn the_watchdog_never_sleeps_past_a_head_that_may_begin() {
        let activity = Arc::new(Activity::new());
        drop(activity.begin(false, true));
        let now = activity.opened + Duration::from_secs(20);
        assert_eq!(activity.verdict(TIMEOUTS, now), ConnectionAction::Wait(now + TIMEOUTS.head));
        let now = activity.opened + Duration::from_secs(85);
        let ConnectionAction::Wait(until) = activity.verdict(TIMEOUTS, now) else {
            panic!("too early")
        };
        assert!(until <= activity.opened + Duration::from_secs(91), "exactly at its end");
    }
}
