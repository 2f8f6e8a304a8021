//! Tasks that this node saw being made, so that the first delivered result of each counts, and only that.
//!
//! A task that this node did not see (another node did, or this one before it was started again) counts when its
//! result is first delivered here: a client asks for a result until it has it, and then no more. Bounded: those that
//! nobody asked for in the longest time are forgotten when there are too many. Absent on purpose: the state of tasks (the server's), and polls (free).

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc};

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
}

impl Task {
    fn of_unknown_tool() -> Self {
        Self { tool: String::new(), counted: tokio::sync::Mutex::default() }
    }
}

/// The tasks of one server.
pub struct Tasks {
    by_id: Mutex<LruCache<(KeyId, String), Arc<Task>>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { by_id: Mutex::new(LruCache::unbounded()) }
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
    /// `answer`, to a call of `tool`, made a task.
    pub fn made(&self, key: KeyId, tool: &str, answer: &[u8]) {
        match task::created(answer) {
            Some(id) => drop(self.entry(key, id, tool)),
            None => tracing::warn!("A server made a task without an id: it counts for no tool"),
        }
    }

    /// The task of this id, which is used now.
    fn entry(&self, key: KeyId, id: String, tool: &str) -> Arc<Task> {
        let mut by_id = self.by_id.lock();
        if by_id.len() >= MAX_TASKS.get() && !by_id.contains(&(key, id.clone())) {
            by_id.pop_lru();
        }
        let task = || Arc::new(Task { tool: tool.to_owned(), ..Task::of_unknown_tool() });
        by_id.get_or_insert((key, id), task).clone()
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
            Delivery::Unclear => return Err(Refusal::UpstreamInvalid),
        };
        let task = match named.or_else(|| self.id.clone()) {
            Some(id) => self.tasks.entry(self.caller.state().key, id, ""),
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
        Ok(())
    }
}
