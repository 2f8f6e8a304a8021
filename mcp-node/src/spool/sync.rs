//! Makes what was written durable, in groups: at most 50 ms or 4,096 records later.
//!
//! Nobody waits for it: a call is answered once its record is in the page cache, which survives the death of the
//! process; what a power cut can take is this window. After one failed fsync nothing can be believed any more (the
//! kernel may have dropped the pages), so the spool is broken for good and the node serves no more.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::segment::Segment;

const WINDOW: Duration = Duration::from_millis(50);
const GROUP: u64 = 4_096;

#[derive(Default)]
struct Pending {
    segments: Vec<Arc<Segment>>,
    records: u64,
    stop: bool,
}

/// What waits for its fsync.
#[derive(Default)]
pub(super) struct Syncer {
    pending: Mutex<Pending>,
    wake: Condvar,
}

impl Syncer {
    /// A record was written to this segment.
    pub fn wrote(&self, segment: &Arc<Segment>) {
        let mut pending = self.pending.lock();
        if pending.segments.last().is_none_or(|last| last.index != segment.index) {
            pending.segments.push(segment.clone());
        }
        pending.records += 1;
        if pending.records == 1 || pending.records == GROUP {
            self.wake.notify_one();
        }
    }

    /// Makes everything durable now.
    pub fn sync_now(&self) -> std::io::Result<()> {
        let segments = {
            let mut pending = self.pending.lock();
            pending.records = 0;
            std::mem::take(&mut pending.segments)
        };
        segments.iter().try_for_each(|segment| segment.file.sync_data())
    }

    /// Ends [`Syncer::run`], after a last sync.
    pub fn stop(&self) {
        self.pending.lock().stop = true;
        self.wake.notify_one();
    }

    /// Syncs group after group until told to stop or until one fails. Runs on a thread of its own.
    pub fn run(&self, broken: impl Fn(&std::io::Error)) {
        loop {
            let mut pending = self.pending.lock();
            while pending.records == 0 && !pending.stop {
                self.wake.wait(&mut pending);
            }
            if pending.records < GROUP && !pending.stop {
                self.wake.wait_for(&mut pending, WINDOW);
            }
            let stop = pending.stop;
            drop(pending);
            if let Err(error) = self.sync_now() {
                broken(&error);
                return;
            }
            if stop {
                return;
            }
        }
    }
}
