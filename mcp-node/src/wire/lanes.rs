//! Threads that serve connections, one a core, each with a runtime of its own: a lane.
//!
//! A connection stays on its lane, and so does all that its calls begin, the way to the server included: no call is
//! handed from one thread to another, which costs more than most of what is done for it. Each new connection goes to
//! the lane that has fewest. Absent on purpose: moving work between lanes.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the lane that this thread is, from 0; `None` = it is none.
#[must_use]
pub fn current() -> Option<usize> {
    CURRENT.get()
}

/// How many lanes a process has that has any: one for each core that it may use.
#[must_use]
pub fn max() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

struct Lane {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// The lanes of a process. What still runs on them ends when they are dropped.
pub struct WorkerThreads {
    lanes: Vec<Lane>,
    stop: CancellationToken,
}

impl WorkerThreads {
    /// No lanes: connections are served by the runtime that takes them.
    #[must_use]
    pub fn none() -> Self {
        Self { lanes: Vec::new(), stop: CancellationToken::new() }
    }

    /// Starts a lane for each core.
    ///
    /// # Errors
    /// The system gives no thread, or no way to wait for connections.
    pub fn start() -> io::Result<Self> {
        let stop = CancellationToken::new();
        let lanes = (0..max()).map(|number| Lane::start(number, stop.clone()));
        Ok(Self { lanes: lanes.collect::<io::Result<_>>()?, stop: stop.clone() })
    }

    /// Serves a connection on the lane that has fewest.
    pub fn spawn(&self, open: &TaskTracker, serve: impl Future<Output = ()> + Send + 'static) {
        let connections = |lane: &&Lane| lane.connections.load(Ordering::Relaxed);
        let Some(lane) = self.lanes.iter().min_by_key(connections) else {
            open.spawn(serve);
            return;
        };
        let counted = Counted::new(&lane.connections);
        let serve = async move {
            let _counted = counted;
            serve.await;
        };
        open.spawn_on(serve, &lane.runtime);
    }
}

impl Lane {
    fn start(number: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let run = move || {
            CURRENT.set(Some(number));
            runtime.block_on(stop.cancelled());
        };
        let thread = std::thread::Builder::new().name(format!("lane-{number}")).spawn(run)?;
        Ok(Self { runtime: handle, connections: Arc::default(), thread: Some(thread) })
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.lanes.iter_mut().filter_map(|lane| lane.thread.take()) {
            drop(thread.join()); // A lane that panicked has ended, too.
        }
    }
}

/// A connection of a lane, as long as it is.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::sync::{mpsc, watch};

    use super::*;

    /// Serves so many connections at once; how many of them were on which lane.
    async fn served(lanes: &WorkerThreads, connections: usize) -> BTreeMap<Option<usize>, usize> {
        let (open, (done, ended)) = (TaskTracker::new(), watch::channel(false));
        let (say, mut said) = mpsc::unbounded_channel();
        for _ in 0..connections {
            let (say, mut ended) = (say.clone(), ended.clone());
            lanes.spawn(&open, async move {
                // What a call begins stays where it was begun.
                let lane = tokio::spawn(async { current() }).await.unwrap();
                say.send(lane).unwrap();
                drop(ended.wait_for(|ended| *ended).await);
            });
        }
        let mut by_lane = BTreeMap::new();
        for _ in 0..connections {
            *by_lane.entry(said.recv().await.unwrap()).or_default() += 1;
        }
        done.send(true).unwrap();
        open.close();
        open.wait().await;
        by_lane
    }

    #[tokio::test]
    async fn connections_are_spread_and_stay_where_they_are() {
        let lanes = WorkerThreads::start().unwrap();
        for _ in 0..2 {
            // The second time shows that those that have ended are not counted any more.
            let by_lane = served(&lanes, 3 * max()).await;
            let expected = (0..max()).map(|lane| (Some(lane), 3)).collect();
            assert_eq!(by_lane, expected);
        }
        tokio::task::spawn_blocking(move || drop(lanes)).await.unwrap();
    }

    #[tokio::test]
    async fn without_lanes_they_are_served_where_they_were_taken() {
        assert_eq!(served(&WorkerThreads::none(), 3).await, BTreeMap::from([(None, 3)]));
    }
}
