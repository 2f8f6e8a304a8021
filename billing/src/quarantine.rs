//! `billing quarantine`: what could not be worked on, as it is kept, and what becomes of it.
//!
//! A replay reads the message from its stream and applies it as its fold would have, with the checkpoint where it is;
//! every fold may be given a message again, so a kill in the middle costs another replay. What cannot be used now
//! either is set aside again, with the reason that holds now. Absent on purpose: changing a message; what is wrong in
//! the log itself is mended by another message there.

use std::fmt::Write as _;

use runtime::nats::{Message, Nats};
use schemas::subject;
use sqlx::PgPool;

use crate::{
    clock::now,
    fold::{Fold, FoldError},
    store::{
        StoreError,
        quarantine::{self, Kept, Resolution},
    },
};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Question {
    /// One line for each message that waits for a person, the oldest first.
    List {
        /// Also those of which a person has decided.
        #[arg(long)]
        all: bool,
    },
    /// One message, whole.
    Show {
        /// Its stream and sequence.
        #[arg(value_name = "STREAM/SEQ", value_parser = place)]
        place: Place,
    },
    /// Reads a message again, after what was wrong has been mended.
    Replay {
        /// Its stream and sequence.
        #[arg(value_name = "STREAM/SEQ", value_parser = place)]
        place: Place,
    },
    /// Lets a message be.
    Discard {
        /// Its stream and sequence.
        #[arg(value_name = "STREAM/SEQ", value_parser = place)]
        place: Place,
        /// Why, in words: it is kept for ever.
        #[arg(long)]
        why: String,
    },
}

/// Where a message stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub stream: String,
    pub seq: u64,
}

fn place(text: &str) -> Result<Place, String> {
    let (stream, seq) = text.split_once('/').ok_or("a stream and a sequence, as `STRIPE/12`")?;
    let known = [subject::CONTROL, subject::STRIPE, subject::LOG].contains(&stream);
    let seq = seq.parse().ok().filter(|seq| *seq > 0);
    match (known, seq) {
        (true, Some(seq)) => Ok(Place { stream: stream.to_owned(), seq }),
        _ => Err("a stream (CONTROL, STRIPE, LOG) and a sequence, as `STRIPE/12`".to_owned()),
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    #[error("{0}")]
    Asked(String),
    #[error("PostgreSQL")]
    Store(#[from] StoreError),
    #[error("the message cannot be read from its stream")]
    Unread(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the message cannot be applied")]
    Fold(#[from] FoldError),
}

/// The folds that messages are replayed into.
pub struct Folds<C, L, S> {
    pub control: C,
    pub log: L,
    /// `None` where no webhooks are taken.
    pub stripe: Option<S>,
}

/// What waits for a person, as a table; with `all`, also what was decided.
///
/// # Errors
/// PostgreSQL.
pub async fn list(pool: &PgPool, all: bool) -> Result<String, QuarantineError> {
    let kept = quarantine::kept(pool, all).await?;
    if kept.is_empty() {
        return Ok("nothing is in quarantine\n".to_owned());
    }
    let mut text = format!("{:<16}{:>8}  {:<20}{:>6}\n", "stream/seq", "age", "reason", "tries");
    for one in &kept {
        let name = format!("{}/{}", one.stream, one.seq);
        let said = one.resolution.as_deref().unwrap_or_default();
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "{name:<16}{:>8}  {:<20}{:>6}  {said}",
            age(now().0 - one.at_ms),
            one.reason,
            one.tries
        );
    }
    Ok(text)
}

/// A message with the reason and its payload.
///
/// # Errors
/// It is not in quarantine, or its stream does not have it.
pub async fn show(pool: &PgPool, nats: &Nats, place: &Place) -> Result<String, QuarantineError> {
    let kept = known(pool, place).await?;
    let message = read(nats, place).await?;
    let mut text = format!(
        "{}/{} on {}, set aside {} ago, read again {} times\nreason   {}: {}\n",
        kept.stream,
        kept.seq,
        message.subject,
        age(now().0 - kept.at_ms),
        kept.tries,
        kept.reason,
        kept.detail
    );
    if let Some(resolution) = &kept.resolution {
        let _ = writeln!(text, "became   {resolution} {}", kept.why);
    }
    let _ = writeln!(text, "payload  {}", String::from_utf8_lossy(&message.payload));
    Ok(text)
}

/// Reads a message again; `None` = it is done with, else why it was set aside again.
///
/// # Errors
/// It is not in quarantine, was decided of, or what it needs does not answer.
pub async fn replay<C: Fold, L: Fold, S: Fold>(
    pool: &PgPool,
    nats: &Nats,
    folds: &Folds<C, L, S>,
    place: &Place,
) -> Result<Option<String>, QuarantineError> {
    let kept = undecided(pool, place).await?;
    let message = read(nats, place).await?;
    match place.stream.as_str() {
        subject::CONTROL => folds.control.apply_again(&message).await?,
        subject::LOG => folds.log.apply_again(&message).await?,
        _ => match &folds.stripe {
            Some(fold) => fold.apply_again(&message).await?,
            None => return Err(QuarantineError::Asked("no webhooks are taken here".to_owned())),
        },
    }
    if quarantine::resolve(pool, &kept, &Resolution::Replayed, now()).await? {
        tracing::info!(stream = kept.stream, stream.seq = kept.seq, "Replayed a message");
        return Ok(None);
    }
    let kept = known(pool, place).await?;
    Ok(Some(format!("{}: {}", kept.reason, kept.detail)))
}

/// Lets a message be.
///
/// # Errors
/// It is not in quarantine, was decided of, or no reason is given.
pub async fn discard(pool: &PgPool, place: &Place, why: &str) -> Result<(), QuarantineError> {
    if why.trim().is_empty() {
        return Err(QuarantineError::Asked("--why says why, in words".to_owned()));
    }
    let kept = undecided(pool, place).await?;
    let resolution = Resolution::Discarded { why: why.trim().to_owned() };
    if quarantine::resolve(pool, &kept, &resolution, now()).await? {
        return Ok(());
    }
    Err(QuarantineError::Asked("it was read again meanwhile: look at it anew".to_owned()))
}

async fn known(pool: &PgPool, place: &Place) -> Result<Kept, QuarantineError> {
    let Place { stream, seq } = place;
    quarantine::at(pool, stream, *seq)
        .await?
        .ok_or_else(|| QuarantineError::Asked(format!("{stream}/{seq} is not in quarantine")))
}

async fn undecided(pool: &PgPool, place: &Place) -> Result<Kept, QuarantineError> {
    let kept = known(pool, place).await?;
    match &kept.resolution {
        None => Ok(kept),
        Some(word) => Err(QuarantineError::Asked(format!("it was {word} before"))),
    }
}

async fn read(nats: &Nats, place: &Place) -> Result<Message, QuarantineError> {
    let unread = |error: Box<dyn std::error::Error + Send + Sync>| QuarantineError::Unread(error);
    let stream = nats
        .jetstream
        .get_stream_no_info(&place.stream)
        .await
        .map_err(|error| unread(Box::new(error)))?;
    let found = stream.get_raw_message(place.seq).await.map_err(|error| unread(Box::new(error)))?;
    let stored_at_ms = i64::try_from(found.time.unix_timestamp_nanos() / 1_000_000);
    Ok(Message {
        seq: found.sequence,
        subject: found.subject.to_string(),
        stored_at_ms: stored_at_ms.unwrap_or_default(),
        headers: Some(found.headers),
        payload: found.payload,
    })
}

/// A time as people say it: the largest unit that fits.
fn age(ms: i64) -> String {
    match ms / 1000 {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7_200 => format!("{} min", seconds / 60),
        seconds if seconds < 172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_stream_of_ours_and_a_sequence() {
        assert_eq!(place("STRIPE/12"), Ok(Place { stream: "STRIPE".to_owned(), seq: 12 }));
        for wrong in ["STRIPE", "STRIPE/", "STRIPE/0", "STRIPE/-1", "OTHER/1", "12", ""] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ages_are_told_in_one_unit() {
        let told = [0, 119_000, 120_000, 7_200_000, 172_800_000].map(age);
        assert_eq!(told, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
    }
}
