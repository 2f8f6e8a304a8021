//! Reads one shard's order from `LOG`, as the serving ledger reads it, up to a place; and folds it in memory.
//!
//! **What "at a moment" means.** The state at T is the fold of every message of the shard that stands before the
//! first one which the stream stored after T. The stream's own time decides, for usage and for the ledger's facts
//! alike, so a moment is a place in the order, whatever any other clock showed.
//!
//! The end is the last message of the shard when the reader was opened: what comes later is not waited for.

use std::time::Duration;

use bytes::Bytes;
use ledger_core::{Changes, Entry, ShardState};
use runtime::nats::{Nats, PublishError, ReadError, Reader, last_on_subject};
use schemas::{Shard, Timestamp, subject};

use crate::shard::{ShardError, read};

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "LOG begins at sequence {first}: older messages have expired, so no state can be folded from its first message. \
         Ask on an archive of the log, or on a log that still has sequence 1"
    )]
    Expired { first: u64 },
    #[error("LOG holds {last} messages: there is no sequence {asked} yet")]
    NotYet { asked: u64, last: u64 },
    #[error("reading LOG")]
    Read(#[source] ReadError),
    #[error("NATS did not answer as it should")]
    Nats(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("shard {shard} of LOG said nothing for {waited:?} before sequence {end}")]
    Silent { shard: u16, end: u64, waited: Duration },
    #[error("a message of the ledger cannot be read at {seq}: {reason}")]
    OwnMessage { seq: u64, reason: String },
}

/// One message of a shard.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub seq: u64,
    /// When the stream stored it.
    pub stored_at: Timestamp,
    pub payload: Bytes,
    pub entry: Entry,
}

/// How far to fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Up to this sequence of `LOG`, itself included.
    Seq(u64),
    /// Up to the first message that was stored after this moment, which is not folded.
    Time(Timestamp),
}

/// One shard's messages, in order.
pub(super) struct ShardLog {
    reader: Reader,
    shard: Shard,
    own: String,
    end: u64,
}

const AT_ONCE: usize = 2_000;
const WAIT: Duration = Duration::from_secs(30);
/// How often a trouble that may pass is waited out.
const TRIES: u32 = 10;

impl ShardLog {
    /// From the log's first message ever.
    ///
    /// # Errors
    /// [`LogError::Expired`] when the log no longer has it.
    pub async fn from_birth(nats: &Nats, shard: Shard) -> Result<Self, LogError> {
        Self::open(nats, shard, 0).await
    }

    /// From the first message that the log still has.
    ///
    /// # Errors
    /// No log, or no answer.
    pub async fn from_what_is_left(nats: &Nats, shard: Shard) -> Result<Self, LogError> {
        Self::open(nats, shard, span(nats).await?.0.saturating_sub(1)).await
    }

    async fn open(nats: &Nats, shard: Shard, after: u64) -> Result<Self, LogError> {
        let (mut end, filters) = (0, read::filters(shard));
        for filter in &filters {
            let last = last_on_subject(&nats.jetstream, subject::LOG, filter).await;
            end = end.max(last.map_err(unanswered)?.map_or(0, |message| message.sequence));
        }
        let reader = Reader::open(nats, subject::LOG, &filters, after).await;
        let reader = reader.map_err(|error| match error {
            ReadError::Expired { first, .. } => LogError::Expired { first },
            other => LogError::Read(other),
        })?;
        Ok(Self { reader, shard, own: subject::ledger(shard), end })
    }

    /// The next messages; empty at the end.
    ///
    /// # Errors
    /// The log has a hole, does not answer, or holds a message of the ledger that cannot be read.
    pub async fn next(&mut self) -> Result<Vec<Logged>, LogError> {
        let mut tries = 0;
        while self.reader.last() < self.end {
            match self.reader.next(AT_ONCE, WAIT).await {
                Ok(messages) if messages.is_empty() => {
                    let (shard, end) = (self.shard.0, self.end);
                    return Err(LogError::Silent { shard, end, waited: WAIT });
                }
                Ok(messages) => {
                    let within = messages.into_iter().filter(|message| message.seq <= self.end);
                    return within.map(|message| self.parse(message)).collect();
                }
                Err(error) if error.is_transient() && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(LogError::Read(error)),
            }
        }
        Ok(Vec::new())
    }

    fn parse(&self, message: runtime::nats::Message) -> Result<Logged, LogError> {
        let stored_at = Timestamp(message.stored_at_ms);
        let payload = message.payload.clone();
        match read::parse(message, &self.own) {
            Ok((seq, entry)) => Ok(Logged { seq, stored_at, payload, entry }),
            Err(ShardError::OwnMessage { seq, reason }) => {
                Err(LogError::OwnMessage { seq, reason })
            }
            Err(other) => Err(LogError::Nats(Box::new(other))),
        }
    }
}

/// A folded state and what it is true of.
#[derive(Debug)]
pub(super) struct Folded {
    pub state: ShardState,
    /// When the stream stored the last message that was folded; `None` = none was.
    pub stored_at: Option<Timestamp>,
}

/// Folds a shard from nothing and shows `visit` each message with what it changed.
///
/// # Errors
/// As [`ShardLog`]; [`LogError::NotYet`] when the log ends before the sequence asked for.
pub(super) async fn fold(
    nats: &Nats,
    shard: Shard,
    until: Until,
    mut visit: impl FnMut(&Logged, Changes),
) -> Result<Folded, LogError> {
    let (_, last) = span(nats).await?;
    if let Until::Seq(asked) = until
        && asked > last
    {
        return Err(LogError::NotYet { asked, last });
    }
    let mut log = ShardLog::from_birth(nats, shard).await?;
    let mut folded = Folded { state: ShardState::new(shard), stored_at: None };
    loop {
        let messages = log.next().await?;
        if messages.is_empty() {
            return Ok(folded);
        }
        for logged in messages {
            let past = match until {
                Until::Seq(last) => logged.seq > last,
                Until::Time(moment) => logged.stored_at > moment,
            };
            if past {
                return Ok(folded);
            }
            let mut changes = Changes::default();
            folded.state.apply(logged.seq, &logged.entry, &mut changes);
            folded.stored_at = Some(logged.stored_at);
            visit(&logged, changes);
        }
    }
}

/// The first and the last sequence that `LOG` holds now.
///
/// # Errors
/// No log, or no answer.
pub(super) async fn span(nats: &Nats) -> Result<(u64, u64), LogError> {
    let stream = nats.jetstream.get_stream(subject::LOG).await;
    let stream = stream.map_err(|error| LogError::Nats(Box::new(error)))?;
    let state = &stream.cached_info().state;
    Ok((state.first_sequence, state.last_sequence))
}

fn unanswered(error: PublishError) -> LogError {
    LogError::Nats(Box::new(error))
}
