//! What was recorded, by tool: read from the log, where the ledger reads it.
//!
//! Every case calls tools of its own, so a record belongs to one case. A record that the log holds twice (a publisher
//! that sent it again) counts once, as it does for the ledger: by its position.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use runtime::nats::{Nats, Reader};
use schemas::{
    Epoch, MeterName, NodeId, Outcome, Record, Shard, TenantId, UsageBatch, subject::LOG,
};
use tokio::sync::watch;

use crate::Failure;

/// What was recorded of the calls of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Units of `tool_calls`.
    pub units: u64,
    pub outcomes: Vec<Outcome>,
    /// Calls that were recorded as refused.
    pub refused: u64,
}

#[derive(Default)]
struct Books {
    tools: HashMap<String, Recorded>,
    positions: HashSet<(NodeId, Epoch, Shard, u64)>,
    tenants: HashMap<TenantId, u64>,
    failure: Option<String>,
}

/// The records so far.
#[derive(Clone)]
pub struct Usage {
    books: Arc<Mutex<Books>>,
    news: watch::Receiver<u64>,
}

impl Usage {
    /// Begins to read the log from its first record.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn follow(nats: &Nats) -> Result<Self, Failure> {
        let mut reader = Reader::open(nats, LOG, &["usage.>".to_owned()], 0).await?;
        let books = Arc::new(Mutex::new(Books::default()));
        let (told, news) = watch::channel(0);
        let own = books.clone();
        tokio::spawn(async move {
            loop {
                let messages = match reader.next(1_000, Duration::from_secs(1)).await {
                    Ok(messages) => messages,
                    Err(error) if error.is_transient() => continue,
                    Err(error) => {
                        own.lock().failure = Some(error.to_string());
                        return;
                    }
                };
                for message in &messages {
                    if let Err(error) =
                        serde_json::from_slice(&message.payload).map(|batch| own.lock().take(batch))
                    {
                        own.lock().failure = Some(error.to_string());
                    }
                }
                if told.send(reader.last()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { books, news })
    }

    /// What was recorded of one tool.
    #[must_use]
    pub fn of_tool(&self, tool: &str) -> Recorded {
        self.books.lock().tools.get(tool).cloned().unwrap_or_default()
    }

    /// Forgets a tool that is done with.
    pub fn forget(&self, tool: &str) {
        self.books.lock().tools.remove(tool);
    }

    /// The sequence on the log up to which it was read.
    #[must_use]
    pub fn read_up_to(&self) -> u64 {
        *self.news.borrow()
    }

    /// The units of `tool_calls` that a tenant was counted in all.
    #[must_use]
    pub fn units_of(&self, tenant: TenantId) -> u64 {
        self.books.lock().tenants.get(&tenant).copied().unwrap_or(0)
    }

    /// Waits until a condition holds of what was recorded. `false` = it did not within `timeout`.
    ///
    /// # Errors
    /// The log cannot be read any more.
    pub async fn wait_until(
        &self,
        timeout: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Result<bool, Failure> {
        let mut news = self.news.clone();
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            news.borrow_and_update();
            if let Some(failure) = &self.books.lock().failure {
                return Err(failure.clone().into());
            }
            if holds(self) {
                return Ok(true);
            }
            match tokio::time::timeout_at(deadline, news.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("nobody reads the log any more".into()),
                Err(_) => return Ok(holds(self)),
            }
        }
    }
}

impl Books {
    fn take(&mut self, batch: UsageBatch) {
        let UsageBatch { node, epoch, shard, first_seq, records, .. } = batch;
        for (position, record) in (first_seq..).zip(records) {
            if !self.positions.insert((node.clone(), epoch, shard, position)) {
                continue;
            }
            match record {
                Record::Usage(event) => {
                    let units = event.quantities.get(&MeterName::tool_calls()).map_or(0, |q| q.0);
                    *self.tenants.entry(event.tenant).or_default() += units;
                    let recorded = self.tools.entry(event.tool).or_default();
                    recorded.units += units;
                    recorded.outcomes.push(event.outcome);
                }
                Record::Refused { tool, calls, .. } => {
                    self.tools.entry(tool).or_default().refused += calls.0;
                }
                Record::LeaseClosed { .. } | Record::EpochEnded => {}
            }
        }
    }
}
