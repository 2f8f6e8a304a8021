//! Tasks that this node saw being made, so that the first delivered result of each counts, and only that.
//!
//! A task that this node did not see (another node did, or this one before it was started again) counts when its
//! result is first delivered here: a client asks for a result until it has it, and then no more. A key with too many
//! tasks whose results were not counted has its next ones counted when they are made, or a quota would not bound what
//! a server is made to do. Bounded: those that nobody asked for in the longest time are forgotten when there are too many.
//! Absent on purpose: the state of tasks (the server's), and polls (free).

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lru::LruCache;
use mcp_node_core::{
    Refusal,
    task::{self, Delivery},
};
use parking_lot::Mutex;
use schemas::{KeyId, Outcome};

use crate::{
    keys::KeyEntry,
    meter::{Call, Meter, Origin},
    traces::RequestTrace,
};

/// The most tasks that are remembered.
const MAX_TASKS: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// One task.
struct Task {
    /// The tool that made it; empty = nobody here knows.
    tool: String,
    /// Whether its result was counted. Locked while it is, so that two polls do not count it twice.
    counted: tokio::sync::Mutex<bool>,
    /// It is one of those whose results its key has not been counted yet.
    open: AtomicBool,
}

impl Task {
    fn of_unknown_tool() -> Self {
        Self { tool: String::new(), counted: tokio::sync::Mutex::default(), open: false.into() }
    }
}

/// The tasks of one server.
#[derive(Default)]
pub struct Tasks {
    table: Mutex<Table>,
}

struct Table {
    by_id: LruCache<(KeyId, String), Arc<Task>>,
    /// How many are open of each key that has some.
    open: HashMap<KeyId, u32>,
}

impl Default for Table {
    fn default() -> Self {
        Self { by_id: LruCache::unbounded(), open: HashMap::new() }
    }
}

impl Table {
    fn entry(&mut self, key: KeyId, id: String, tool: &str) -> Arc<Task> {
        if self.by_id.len() >= MAX_TASKS.get()
            && !self.by_id.contains(&(key, id.clone()))
            && let Some(((key, _), forgotten)) = self.by_id.pop_lru()
        {
            self.close(key, &forgotten);
        }
        let task = || Arc::new(Task { tool: tool.to_owned(), ..Task::of_unknown_tool() });
        self.by_id.get_or_insert((key, id), task).clone()
    }

    fn close(&mut self, key: KeyId, task: &Task) {
        if !task.open.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Entry::Occupied(mut open) = self.open.entry(key) {
            *open.get_mut() = open.get().saturating_sub(1);
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// A request whose answers may deliver the result of a task.
pub struct TaskPoll {
    pub tasks: Arc<Tasks>,
    pub meter: Meter,
    pub caller: Arc<KeyEntry>,
    pub method: &'static str,
    /// The task that it asks for, if it asks for one.
    pub id: Option<String>,
    /// Size of the request's body. Unit: bytes.
    pub bytes_in: u64,
    pub connection: u64,
    /// The request's id, as it was written.
    pub request: String,
    pub server: Option<Arc<str>>,
    /// The client's address; `None` = nobody knows.
    pub client: Option<IpAddr>,
    pub traced: RequestTrace,
}

impl Tasks {
    /// `answer`, to a call of `tool`, made a task. Whether it must be counted now: of its key `max` tasks are open.
    pub fn made(&self, key: KeyId, tool: &str, answer: &[u8], max: u32) -> bool {
        let Some(id) = task::created(answer) else {
            tracing::warn!("A server made a task without an id: it counts now");
            return true;
        };
        let mut table = self.table.lock();
        let task = table.entry(key, id, tool);
        let open = table.open.entry(key).or_default();
        if *open < max {
            // An id that a server uses again, of a task that was counted, holds no place: nothing would give it back.
            let is_new = task.counted.try_lock().is_ok_and(|counted| !*counted);
            if is_new && !task.open.swap(true, Ordering::Relaxed) {
                *open += 1;
            }
            return false;
        }
        if *open == 0 {
            table.open.remove(&key);
        }
        // A poll that counts it at this moment counts its result: then it is not new.
        let Ok(mut counted) = task.counted.try_lock() else { return false };
        !std::mem::replace(&mut *counted, true)
    }

    /// The task of this id, which is used now.
    fn entry(&self, key: KeyId, id: String) -> Arc<Task> {
        self.table.lock().entry(key, id, "")
    }

    /// The task of this id has failed, if it is one that is known.
    fn failed(&self, key: KeyId, id: String) {
        let mut table = self.table.lock();
        if let Some(task) = table.by_id.get(&(key, id)).cloned() {
            table.close(key, &task);
        }
    }
}

impl TaskPoll {
    /// Counts what `message` delivers, if it is the result of a task that was not counted yet. After this, and only
    /// after this, it may go to the client.
    ///
    /// # Errors
    /// The quota is spent, it could not be recorded, or nobody knows what a client would read in it: the message must
    /// not be delivered. A later poll may be.
    pub async fn count(&self, message: &[u8]) -> Result<(), Refusal> {
        let named = match task::delivery(self.method, message) {
            Delivery::Nothing => return Ok(()),
            Delivery::Result { task } => task,
            Delivery::Failed { task } => {
                if let Some(id) = task.or_else(|| self.id.clone()) {
                    self.tasks.failed(self.caller.state().key, id);
                }
                return Ok(());
            }
            Delivery::Unclear => return Err(Refusal::UpstreamInvalid),
        };
        let task = match named.or_else(|| self.id.clone()) {
            Some(id) => self.tasks.entry(self.caller.state().key, id),
            None => Arc::new(Task::of_unknown_tool()), // Nobody names it: each delivery is one.
        };
        let mut counted = task.counted.lock().await;
        if *counted {
            return Ok(());
        }
        if task.tool.is_empty() {
            metrics::counter!("mcp_tasks_unknown_total").increment(1);
        }
        let origin = Origin {
            connection: self.connection,
            client: self.client,
            request: &self.request,
            server: self.server.as_deref(),
            traced: Some(&self.traced),
        };
        let call = Call { method: self.method, tool: &task.tool, bytes_in: self.bytes_in, origin };
        let permit = self.meter.admit(&self.caller, call).await?;
        let at = task::result_at(self.method, message);
        permit.settle_by(Outcome::Success, message, at).map_err(|_| Refusal::CannotRecord)?;
        *counted = true;
        self.tasks.table.lock().close(self.caller.state().key, &task);
        Ok(())
    }
}
