//! Makes what was written durable, in groups: at most 50 ms or 4,096 records later.
//!
//! Nobody waits for it: a call is answered once its record is in the page cache, which survives the death of the
//! process; what a power cut can take is this window. After a failed fsync nothing that it should have made durable
//! can be believed (the kernel may have dropped the pages): see `file` for what is done about it.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::{SpoolError, segment::Segment};

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

    /// Makes everything durable now. What could not be made so knows it itself.
    ///
    /// # Errors
    /// The first of those.
    pub fn sync_now(&self) -> Result<(), SpoolError> {
        let segments = {
            let mut pending = self.pending.lock();
            pending.records = 0;
            std::mem::take(&mut pending.segments)
        };
        let sync = |segment: &Arc<Segment>| {
            segment.file.sync().map_err(|e| SpoolError::io(&segment.path, e)).err()
        };
        segments.iter().filter_map(sync).reduce(|first, _| first).map_or(Ok(()), Err)
    }

    /// Ends the waiting of [`Syncer::wait`] for good.
    pub fn stop(&self) {
        self.pending.lock().stop = true;
        self.wake.notify_one();
    }

    /// Waits for a group of records, or until `timeout`; says whether it was told to stop.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let mut pending = self.pending.lock();
        while pending.records == 0 && !pending.stop {
            match timeout {
                Some(timeout) if self.wake.wait_for(&mut pending, timeout).timed_out() => break,
                Some(_) => {}
                None => self.wake.wait(&mut pending),
            }
        }
        if (1..GROUP).contains(&pending.records) && !pending.stop {
            self.wake.wait_for(&mut pending, WINDOW);
        }
        pending.stop
    }
}
