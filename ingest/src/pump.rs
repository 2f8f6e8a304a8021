//! Reads the log and hands batches to the writer: at the head at once or after a short pause, behind it in large ones.

use std::{collections::VecDeque, time::Duration};

use runtime::{
    health::Health,
    nats::{Message, Nats, ReadError, Reader},
};
use schemas::subject;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    IngestError,
    batch::{Batch, Builder},
};

/// The reading half of the process.
pub struct Pump {
    pub nats: Nats,
    pub reader: Reader,
    pub builder: Builder,
    pub batches: mpsc::Sender<Batch>,
    /// Batches are at least this far apart unless full.
    pub flush: Duration,
    /// What the stream's rows are numbered for, and when that stream was made.
    pub src: u16,
    pub created_ms: i64,
    pub health: Health,
}

const READ: usize = 2_000;
/// How long one call of the reader waits. Short, since a pull's heartbeat can swallow the wake-up for the message that
/// follows it (async-nats 0.51: `Batch::poll_next` answers `Pending` after one without asking to be woken): the next
/// call sees that message.
const WAIT: Duration = Duration::from_millis(100);

impl Pump {
    /// Reads until told to stop.
    ///
    /// # Errors
    /// The log is not what it was: another stream, lost messages, a hole.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), IngestError> {
        let mut inbox: VecDeque<Message> = VecDeque::new();
        let mut last = self.reader.last();
        let mut due = Instant::now();
        loop {
            while inbox.front().is_some_and(|message| !self.builder.must_cut_before(message)) {
                if let Some(message) = inbox.pop_front() {
                    self.builder.push(&message);
                }
            }
            let cut = !inbox.is_empty();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                permit = ready(self.batches.clone(), due, cut), if !self.builder.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) }; // The writer has ended and says why.
                    if let Some(batch) = self.builder.take() {
                        permit.send(batch);
                    }
                    due = Instant::now() + self.flush;
                }
                found = self.reader.next(READ, WAIT), if !cut => {
                    inbox.extend(self.check(found, &mut last).await?);
                }
            }
        }
    }

    /// Takes what was read if it follows what was read before.
    async fn check(
        &mut self,
        found: Result<Vec<Message>, ReadError>,
        last: &mut u64,
    ) -> Result<Vec<Message>, IngestError> {
        let found = match found {
            Ok(found) => found,
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "Reading the log failed: reading it again"
                );
                self.health.wait_for("log", "NATS does not answer as it should");
                tokio::time::sleep(Duration::from_millis(200)).await;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        if self.reader.created_ms() != self.created_ms {
            let found_ms = self.reader.created_ms();
            return Err(IngestError::OtherStream {
                src: self.src,
                known_ms: self.created_ms,
                found_ms,
            });
        }
        let first = found.first().map_or(self.reader.last() + 1, |message| message.seq);
        if first != *last + 1 {
            // Whatever was handed out and lost on the way is read again; a hole in the stream itself stays.
            tracing::warn!(last, first, "Messages are missing: reading again");
            self.reader = Reader::open(&self.nats, subject::LOG, &[], *last).await?;
            return Ok(Vec::new());
        }
        if let Some(message) = found.last() {
            *last = message.seq;
            self.health.ready("log");
            metrics::gauge!("ingest_log_pending_messages").set(self.reader.pending() as f64);
        }
        Ok(found)
    }
}

/// A place for a batch: as soon as there is one when it must be cut, else not before the pause is over.
async fn ready(
    batches: mpsc::Sender<Batch>,
    due: Instant,
    cut: bool,
) -> Result<mpsc::OwnedPermit<Batch>, mpsc::error::SendError<()>> {
    if !cut {
        tokio::time::sleep_until(due).await;
    }
    batches.reserve_owned().await
}
