//! Tasks that this node saw being made, so that the first delivered result of each counts, and only that.
//!
//! A task that this node did not see (another node did, or this one before it was started again) counts when its
//! result is first delivered here: a client asks for a result until it has it, and then no more. Bounded: the oldest
//! are forgotten when there are too many. Absent on purpose: the state of tasks (the server's), and polls (free).

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use mcp_node_core::{Refusal, task};
use parking_lot::Mutex;
use schemas::{KeyId, Outcome};

use crate::{
    keys::Known,
    meter::{Call, Meter, Origin},
    traces::Traced,
};

/// The most tasks that are remembered.
const MOST: usize = 65_536;

/// One task.
struct Task {
    /// The tool that made it; empty = nobody here knows.
    tool: String,
    /// Whether its result was counted. Locked while it is, so that two polls do not count it twice.
    counted: tokio::sync::Mutex<bool>,
}

type Place = (KeyId, String);

#[derive(Default)]
struct Entries {
    by_id: HashMap<Place, Arc<Task>>,
    order: VecDeque<Place>,
}

/// The tasks of one server.
#[derive(Default)]
pub struct Tasks {
    entries: Mutex<Entries>,
}

/// A request whose answers may deliver the result of a task.
pub struct Asked {
    pub tasks: Arc<Tasks>,
    pub meter: Meter,
    pub caller: Arc<Known>,
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
    pub traced: Traced,
}

impl Tasks {
    /// `answer`, to a call of `tool`, made a task.
    pub fn made(&self, key: KeyId, tool: &str, answer: &[u8]) {
        match task::created(answer) {
            Some(id) => drop(self.entries.lock().entry((key, id), tool)),
            None => tracing::warn!("A server made a task without an id: it counts for no tool"),
        }
    }
}

impl Entries {
    fn entry(&mut self, place: Place, tool: &str) -> Arc<Task> {
        if let Some(task) = self.by_id.get(&place) {
            return task.clone();
        }
        if self.order.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        let task = Arc::new(Task { tool: tool.to_owned(), counted: Default::default() });
        self.order.push_back(place.clone());
        self.by_id.insert(place, task.clone());
        task
    }
}

impl Asked {
    /// Counts what `message` delivers, if it is the result of a task that was not counted yet. After this, and only
    /// after this, it may go to the client.
    ///
    /// # Errors
    /// The quota is spent, or it could not be recorded: the message must not be delivered. A later poll may be.
    pub async fn count(&self, message: &[u8]) -> Result<(), Refusal> {
        let Some(named) = task::delivers(self.method, message) else { return Ok(()) };
        let Some(id) = named.or_else(|| self.id.clone()) else { return Ok(()) };
        let place = (self.caller.state().key, id);
        let task = self.tasks.entries.lock().entry(place, "");
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
