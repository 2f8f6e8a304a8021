//! Decisions onto `CONTROL`, and the directory that follows it.
//!
//! A write appends one message, on condition that the last one on its subject is the one the decision was made
//! from; then it waits until its own message is applied, so whoever writes reads what they wrote. A lost answer
//! is settled by reading the subject's last message and looking the decision up by its id. Absent on purpose: any
//! other store. What is known is a fold of the log, rebuilt at every start.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use runtime::{
    health::Health,
    nats::{Message, Nats, PublishError, ReadError, Reader, last_on_subject, publish_expecting},
};
use schemas::{Decision, DecisionId, Timestamp, fact::VERSION, subject};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    directory::{
        Directory,
        command::{Command, wish},
        decide::{Verdict, decide, facts_of},
    },
    error::ApiError,
};

/// Who the decisions of this process are by.
const BY: &str = "operator";
/// How often a decision is made anew when others decide on the same subject at once.
const TRIES: u32 = 8;
/// How long one call of the reader waits. Short, since a pull's heartbeat can swallow the wake-up for the message that
/// follows it (async-nats 0.51: `Batch::poll_next` answers `Pending` after one without asking to be woken): the next
/// call sees that message.
const WAIT: Duration = Duration::from_millis(100);
/// How long an answer waits for the directory to apply what was just stored.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The one way to `CONTROL` in this process.
#[derive(Clone)]
pub struct Control {
    nats: Nats,
    directory: Arc<RwLock<Directory>>,
    applied: watch::Receiver<u64>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// This decision was stored now.
    Decided(Decision),
    /// The same command had been decided before under the same idempotency key; this is that decision.
    Before(Decision),
    /// It was so already.
    AlreadySo,
}

/// The task that keeps the directory.
pub struct Follower {
    nats: Nats,
    reader: Reader,
    directory: Arc<RwLock<Directory>>,
    applied: watch::Sender<u64>,
    health: Health,
}

impl Control {
    /// Reads `CONTROL` from its beginning to its present end.
    ///
    /// # Errors
    /// The stream is not there, has lost messages, or NATS does not answer.
    pub async fn open(nats: Nats, health: Health) -> Result<(Self, Follower), ReadError> {
        let reader = Reader::open(&nats, subject::CONTROL, &[], 0).await?;
        let end = last_sequence(&nats, subject::CONTROL).await?;
        let directory = Arc::new(RwLock::new(Directory::default()));
        let (told, applied) = watch::channel(0);
        let control = Self { nats: nats.clone(), directory: Arc::clone(&directory), applied };
        let mut follower = Follower { nats, reader, directory, applied: told, health };
        while follower.last() < end {
            follower.step().await?;
        }
        tracing::info!(messages = end, "The directory is built");
        Ok((control, follower))
    }

    /// What is known now.
    pub fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read()
    }

    /// Decides a command and stores the decision under `id`, or finds that it was.
    ///
    /// # Errors
    /// The command is refused; `id` was used for another command; others decide on the same subject all the time;
    /// or it is not known whether it was stored, and asking again with the same id will tell.
    pub async fn execute(
        &self,
        id: DecisionId,
        command: &Command,
        now: Timestamp,
    ) -> Result<Done, ApiError> {
        let mut unknown = None;
        for _ in 0..TRIES {
            if let Some(seq) = self.seq_of(id) {
                return self.found(id, seq, command).await;
            }
            let verdict = decide(&self.directory(), command, now)?;
            let Verdict::Append { tenant, subject, expected, facts } = verdict else {
                return Ok(Done::AlreadySo);
            };
            let decision = Decision {
                v: VERSION,
                decision: id,
                at: now,
                by: BY.to_owned(),
                tenant,
                shard: None,
                facts,
            };
            let payload = Bytes::from(serde_json::to_vec(&decision).map_err(ApiError::bug)?);
            let sent =
                publish_expecting(&self.nats.jetstream, subject.clone(), None, payload, expected);
            match sent.await {
                Ok(seq) => {
                    self.until_applied(seq).await;
                    return Ok(Done::Decided(decision));
                }
                Err(PublishError::TooLarge) => return Err(ApiError::TooLarge),
                // Whatever was sent under this expectation is stored by now, or never will be.
                Err(PublishError::WrongSequence) => unknown = None,
                Err(PublishError::Unknown(source)) => unknown = Some(source),
            }
            if self.is_stored(&subject, &decision).await? {
                return Ok(Done::Decided(decision));
            }
        }
        Err(unknown.map_or(ApiError::Contested, ApiError::UnknownOutcome))
    }

    /// Catches up with a subject's last message and says whether `decision`, as it is, was stored after all.
    async fn is_stored(&self, subject: &str, decision: &Decision) -> Result<bool, ApiError> {
        let last = last_on_subject(&self.nats.jetstream, subject::CONTROL, subject).await;
        let Some(last) = last.map_err(ApiError::unknown_outcome)? else { return Ok(false) };
        self.until_applied(last.sequence).await;
        match self.seq_of(decision.decision) {
            Some(seq) => Ok(self.read(seq).await? == *decision),
            None => Ok(false),
        }
    }

    /// The answer to a command whose decision is stored already.
    async fn found(&self, id: DecisionId, seq: u64, command: &Command) -> Result<Done, ApiError> {
        let before = self.read(seq).await?;
        let wanted = facts_of(&self.directory(), command);
        let same = wanted.is_ok_and(|(_, facts)| wish(&facts) == wish(&before.facts));
        tracing::info!(decision = %id, same, "A command came again");
        if same { Ok(Done::Before(before)) } else { Err(ApiError::KeyReused) }
    }

    async fn read(&self, seq: u64) -> Result<Decision, ApiError> {
        let stream = self.nats.jetstream.get_stream_no_info(subject::CONTROL).await;
        let stream = stream.map_err(ApiError::unknown_outcome)?;
        let message = stream.get_raw_message(seq).await.map_err(ApiError::unknown_outcome)?;
        serde_json::from_slice(&message.payload).map_err(ApiError::bug)
    }

    fn seq_of(&self, id: DecisionId) -> Option<u64> {
        self.directory().seq_of(id)
    }

    /// Waits until the message at `seq` is applied. What is stored is stored: a slow reader is no failure.
    async fn until_applied(&self, seq: u64) {
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| *applied >= seq);
        if tokio::time::timeout(APPLY_TIMEOUT, reached).await.is_err() {
            tracing::warn!(stream.seq = seq, "A decision is stored but not applied here yet");
        }
    }
}

impl Follower {
    /// Applies what comes until told to stop.
    ///
    /// # Errors
    /// The stream is not what it was.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ReadError> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                stepped = self.step() => match stepped {
                    Err(error) if !error.is_transient() => return Err(error),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "Reading CONTROL failed: again");
                        self.health.wait_for("control", "NATS does not answer as it should");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Ok(()) => {}
                },
            }
        }
    }

    /// The last message that is applied.
    fn last(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Applies what there is, or waits a moment for more.
    async fn step(&mut self) -> Result<(), ReadError> {
        let last = self.last();
        let found = self.reader.next(2_000, WAIT).await?;
        let first = found.first().map_or(self.reader.last() + 1, |message| message.seq);
        if first != last + 1 {
            tracing::warn!(last, first, "Messages of CONTROL are missing: reading again");
            self.reader = Reader::open(&self.nats, subject::CONTROL, &[], last).await?;
            return Ok(());
        }
        for message in &found {
            apply(&self.directory, message);
        }
        self.health.ready("control");
        if let Some(message) = found.last() {
            self.applied.send_replace(message.seq);
        }
        Ok(())
    }
}

fn apply(directory: &RwLock<Directory>, message: &Message) {
    let decision = serde_json::from_slice::<Decision>(&message.payload);
    let reason = match decision {
        Ok(decision) if decision.v == VERSION => {
            directory.write().apply(message.seq, &message.subject, &decision);
            return;
        }
        Ok(decision) => format!("version {} where {VERSION} is known", decision.v),
        Err(error) => error.to_string(),
    };
    metrics::counter!("admin_unreadable_decisions_total").increment(1);
    tracing::error!(
        stream.seq = message.seq,
        subject = message.subject,
        reason,
        "A decision cannot be read"
    );
    directory.write().apply_unreadable(message.seq, message.subject.clone(), reason);
}

/// The last sequence of a stream, as its leader says it.
///
/// # Errors
/// NATS did not answer as it should.
pub async fn last_sequence(nats: &Nats, stream: &str) -> Result<u64, ReadError> {
    let found = nats
        .jetstream
        .get_stream(stream)
        .await
        .map_err(|error| ReadError::Nats(Box::new(error)))?;
    Ok(found.cached_info().state.last_sequence)
}
