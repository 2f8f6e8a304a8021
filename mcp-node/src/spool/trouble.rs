//! Why a spool takes no records: for now, since its disk is full, or for good.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use schemas::Timestamp;

use crate::clock;

/// What keeps the spool from taking records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The disk has no room; it passes.
    NoRoom { since: Timestamp, why: String },
    /// Nothing that was written can be believed any more, until the next start has read it.
    Broken { since: Timestamp, why: String },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom { since, why } => write!(f, "no room on the disk since {since}: {why}"),
            Self::Broken { since, why } => {
                write!(f, "broken since {since}, until the next start: {why}")
            }
        }
    }
}

/// The trouble that a spool is in.
#[derive(Default)]
pub(super) struct Troubles {
    any: AtomicBool,
    now: Mutex<Option<Trouble>>,
    /// Since when more waits for the ledger than may.
    full: Mutex<Option<Timestamp>>,
}

impl Troubles {
    /// Whether records are refused.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What it is.
    pub fn now(&self) -> Option<Trouble> {
        self.now.lock().clone()
    }

    /// Whether it may pass.
    pub fn may_pass(&self) -> bool {
        matches!(*self.now.lock(), Some(Trouble::NoRoom { .. }))
    }

    /// The disk has no room.
    pub fn no_room(&self, why: String) {
        let mut now = self.now.lock();
        if now.is_none() {
            tracing::error!(
                why,
                "The disk of the spool is full: no calls are served until it has room"
            );
            metrics::gauge!("mcp_spool_no_room").set(1);
            *now = Some(Trouble::NoRoom { since: clock::wall(), why });
            self.any.store(true, Ordering::Release);
        }
    }

    /// It cannot go on before the next start.
    pub fn broken(&self, why: String) {
        let mut now = self.now.lock();
        if !matches!(*now, Some(Trouble::Broken { .. })) {
            tracing::error!(why, "The spool is broken: no more calls are served");
            metrics::gauge!("mcp_spool_broken").set(1);
            *now = Some(Trouble::Broken { since: clock::wall(), why });
            self.any.store(true, Ordering::Release);
        }
    }

    /// There is room again.
    pub fn passed(&self) {
        let mut now = self.now.lock();
        if let Some(Trouble::NoRoom { since, .. }) = &*now {
            tracing::info!(%since, "The disk of the spool has room again: calls are served");
            metrics::gauge!("mcp_spool_no_room").set(0);
            *now = None;
            self.any.store(false, Ordering::Release);
        }
    }

    /// Notes whether more waits for the ledger than may; since when, if so.
    pub fn full(&self, is_full: bool) -> Option<Timestamp> {
        let mut full = self.full.lock();
        *full = is_full.then(|| full.unwrap_or_else(clock::wall));
        *full
    }
}
