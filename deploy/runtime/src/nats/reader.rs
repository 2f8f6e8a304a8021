//! Reads a stream in order from a sequence on, and stops rather than step over a hole.
//!
//! An ephemeral pull consumer without acknowledgements; where we are is the caller's checkpoint alone. After
//! any trouble the consumer is made anew behind the last message handed out, so nothing is skipped or repeated.

use std::{collections::VecDeque, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    },
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::Nats;

/// One message of a stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its sequence in the stream.
    pub seq: u64,
    pub subject: String,
    /// When the stream stored it. Unit: milliseconds since 1970.
    pub stored_at_ms: i64,
    pub headers: Option<HeaderMap>,
    pub payload: Bytes,
}

/// Why reading cannot go on. All but `Nats` mean that the log or the checkpoint is not what it was: a person must look.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(
        "stream {stream} ends at {last}, behind the checkpoint {checkpoint}: it lost messages or was made anew"
    )]
    Behind { stream: String, last: u64, checkpoint: u64 },
    #[error(
        "stream {stream} begins at {first}, past the checkpoint {checkpoint}: messages expired before they were read"
    )]
    Expired { stream: String, first: u64, checkpoint: u64 },
    #[error("stream {stream} has a hole: {found} follows {last}")]
    Hole { stream: String, last: u64, found: u64 },
    #[error("NATS did not answer as it should")]
    Nats(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ReadError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Nats(_))
    }
}

fn nats(error: impl std::error::Error + Send + Sync + 'static) -> ReadError {
    ReadError::Nats(Box::new(error))
}

/// Reads one stream, all of it or some subjects.
pub struct Reader {
    jetstream: Context,
    connections: watch::Receiver<u64>,
    stream: String,
    filters: Vec<String>,
    last: u64,
    open: Option<Open>,
    created_ms: i64,
}

struct Open {
    consumer: PullConsumer,
    pull: Option<pull::Batch>,
    delivered: u64,
    pending: u64,
    /// What the running pull has brought: messages, and bytes of payload.
    brought: (u64, u64),
}

/// The bytes that one pull asks for, about: a server that has 64 MiB waiting for one connection closes it as too slow,
/// and all readers of a process share its connection.
const PULL_BYTES: u64 = 1 << 20;
/// The fewest and the most messages of one pull. The fewest is also the first, before their size is known: with
/// messages of the largest size, all readers of a process together must stay far below what closes the connection, or
/// they would open it and lose it again for ever.
const PULL_MESSAGES: (u64, u64) = (2, 4_000);

/// How many messages a pull asks for, by the size of those that the one before brought.
fn pull_messages((messages, bytes): (u64, u64)) -> usize {
    let (fewest, max) = PULL_MESSAGES;
    let fit = match messages {
        0 => fewest,
        some => PULL_BYTES / (bytes / some).max(1),
    };
    usize::try_from(fit.clamp(fewest, max)).unwrap_or(usize::MAX)
}

/// How long one pull stays open at the server when nothing comes: also how long a consumer that is gone goes unnoticed
/// when the connection is not. No heartbeats: async-nats 0.51 forgets to wake its reader after one, so that a message
/// behind it would wait.
const PULL: Duration = Duration::from_secs(5);

impl Reader {
    /// A reader behind the message `after` (0 = from the beginning); no filters = the whole stream.
    ///
    /// # Errors
    /// The stream ends before `after`, or no longer has `after + 1`.
    pub async fn open(
        nats: &Nats,
        stream: &str,
        filters: &[String],
        after: u64,
    ) -> Result<Self, ReadError> {
        let mut reader = Self {
            jetstream: nats.jetstream.clone(),
            connections: nats.connections.clone(),
            stream: stream.to_owned(),
            filters: filters.to_vec(),
            last: after,
            open: None,
            created_ms: 0,
        };
        reader.reopen().await?;
        Ok(reader)
    }

    /// The sequence of the last message handed out.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many messages wait behind the last one handed out, as of that message.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.pending)
    }

    /// When the stream was made. Unit: milliseconds since 1970. A stream made anew shows another time.
    #[must_use]
    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// The next messages, at least one and at most `max`, in order; empty when none came within `wait`.
    ///
    /// What is there is handed out at once: a single message does not wait for company. Safe to drop and call again.
    ///
    /// # Errors
    /// See [`ReadError`]. After a transient error the next call opens the stream anew.
    pub async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Message>, ReadError> {
        let result = self.read(max, wait).await;
        if result.is_err() {
            self.open = None;
        }
        result
    }

    async fn read(&mut self, max: usize, wait: Duration) -> Result<Vec<Message>, ReadError> {
        let deadline = tokio::time::Instant::now() + wait;
        if self.connections.has_changed().unwrap_or(false) {
            self.open = None; // The consumer lives in the server's memory: it may be gone.
        }
        if self.open.is_none() {
            self.reopen().await?;
        }
        let mut connections = self.connections.clone();
        let mut found = VecDeque::new();
        while found.is_empty() {
            let first = tokio::select! {
                first = self.pull_one() => first?,
                _ = connections.changed() => { self.reopen().await?; continue }
                () = tokio::time::sleep_until(deadline) => return Ok(Vec::new()),
            };
            found.extend(first);
        }
        while found.len() < max {
            match self.pull_ready() {
                Ok(Some(message)) => found.push_back(message),
                Ok(None) => break,
                Err(error) => {
                    // What was taken is handed out first; the next call opens anew behind it and meets the error again.
                    tracing::debug!(error = &error as &dyn std::error::Error, "A read ended early");
                    self.open = None;
                    break;
                }
            }
        }
        Ok(found.into())
    }

    /// The next message of the pull, opening one when there is none; `None` = that pull has ended.
    async fn pull_one(&mut self) -> Result<Option<Message>, ReadError> {
        let Some(open) = self.open.as_mut() else { return Ok(None) };
        if open.pull.is_none() {
            let max = pull_messages(std::mem::take(&mut open.brought));
            let pull = open.consumer.batch().max_messages(max).expires(PULL);
            open.pull = Some(pull.messages().await.map_err(nats)?);
        }
        let Some(pull) = open.pull.as_mut() else { return Ok(None) };
        match pull.next().await {
            Some(message) => self.take(message).map(Some),
            None => {
                if let Some(open) = self.open.as_mut() {
                    open.pull = None;
                }
                Ok(None)
            }
        }
    }

    /// A message that has arrived already, if there is one.
    fn pull_ready(&mut self) -> Result<Option<Message>, ReadError> {
        let Some(pull) = self.open.as_mut().and_then(|open| open.pull.as_mut()) else {
            return Ok(None);
        };
        match pull.next().now_or_never() {
            Some(Some(message)) => self.take(message).map(Some),
            Some(None) => {
                if let Some(open) = self.open.as_mut() {
                    open.pull = None;
                }
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn take(
        &mut self,
        message: Result<jetstream::Message, async_nats::Error>,
    ) -> Result<Message, ReadError> {
        let message = message.map_err(ReadError::Nats)?;
        let info = message.info().map_err(ReadError::Nats)?;
        let (seq, delivery, pending) = (info.stream_sequence, info.consumer_sequence, info.pending);
        let stored_at_ms =
            i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let open = self
            .open
            .as_mut()
            .ok_or_else(|| ReadError::Nats("a message without a consumer".into()))?;
        if delivery != open.delivered + 1 {
            // A delivery was lost on the way: the next call reads it again.
            return Err(ReadError::Nats(
                format!("delivery {delivery} follows {}", open.delivered).into(),
            ));
        }
        if self.filters.is_empty() && seq != self.last + 1 {
            return Err(ReadError::Hole {
                stream: self.stream.clone(),
                last: self.last,
                found: seq,
            });
        }
        open.delivered = delivery;
        open.brought.0 += 1;
        open.brought.1 += message.payload.len() as u64;
        open.pending = pending;
        self.last = seq;
        let async_nats::Message { subject, payload, headers, .. } = message.message;
        Ok(Message { seq, subject: subject.into_string(), stored_at_ms, headers, payload })
    }

    async fn reopen(&mut self) -> Result<(), ReadError> {
        self.connections.mark_unchanged();
        let stream = self.jetstream.get_stream(&self.stream).await.map_err(nats)?;
        let info = stream.cached_info();
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        self.created_ms =
            i64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        if last < self.last {
            return Err(ReadError::Behind {
                stream: self.stream.clone(),
                last,
                checkpoint: self.last,
            });
        }
        if first > self.last + 1 {
            return Err(ReadError::Expired {
                stream: self.stream.clone(),
                first,
                checkpoint: self.last,
            });
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.last + 1 },
            ack_policy: AckPolicy::None,
            filter_subjects: self.filters.clone(),
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(300),
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(nats)?;
        self.open = Some(Open { consumer, pull: None, delivered: 0, pending: 0, brought: (0, 0) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_never_asks_for_more_than_a_connection_may_have_waiting() {
        assert_eq!(pull_messages((0, 0)), 2, "their size is not known yet");
        assert_eq!(pull_messages((100, 100 * 500)), 2_097, "small ones");
        assert_eq!(pull_messages((100, 100)), 4_000, "tiny ones");
        assert_eq!(pull_messages((100, 100 << 20)), 2, "the largest");
        for size in [1, 300, 20_000, 400_000] {
            let asked = pull_messages((1_000, 1_000 * size)) as u64;
            assert!(asked * size <= (1 << 20).max(2 * size), "{asked} of {size} bytes");
        }
    }
}
