//! Folding a stream: read behind the checkpoint, apply a batch with its checkpoint, go on; from any failure on anew.
//!
//! Invariants: a batch is applied from the checkpoint that the database holds, so a kill anywhere is a redo; what may
//! help itself is tried for ever with growing pauses; what cannot stops this fold, loudly, and nothing else.

use std::{future::Future, time::Duration};

use billing_core::backoff::Backoff;
use runtime::{
    health::Health,
    nats::{Message, Nats, ReadError, Reader},
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::store::{
    StoreError,
    checkpoint::{self, Projection},
};

/// The most messages of one batch.
const BATCH: usize = 256;
/// How long one read waits when nothing comes.
const WAIT: Duration = Duration::from_secs(5);
const BACKOFF: Backoff = Backoff { first_ms: 100, longest_ms: 15_000 };

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something else that may pass.
    #[error("{0}")]
    Later(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The stream or the state is not what it must be: a person must look.
    #[error("{0}")]
    Stop(String),
}

impl From<sqlx::Error> for FoldError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl FoldError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Read(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
            Self::Later(..) => true,
            Self::Stop(_) => false,
        }
    }
}

/// A fold of one stream.
pub trait Fold: Send + Sync {
    /// Its name in logs, metrics and `/ready`.
    const NAME: &'static str;
    const PROJECTION: Projection;
    const STREAM: &'static str;
    /// The subjects it reads; none = all.
    const FILTERS: &'static [&'static str];

    /// Applies a batch and moves the checkpoint to its last message, both or neither. Batches may come again.
    fn apply(&self, batch: &[Message]) -> impl Future<Output = Result<(), FoldError>> + Send;

    /// Applies a message of quarantine that the checkpoint has passed, and leaves the checkpoint where it is. A message
    /// that cannot be used is set aside again.
    fn apply_again(&self, message: &Message) -> impl Future<Output = Result<(), FoldError>> + Send {
        async { self.apply(std::slice::from_ref(message)).await }
    }
}

/// Folds until stopped. Returns early only when a person must look; `/ready` says so then.
pub async fn run<F: Fold>(
    fold: &F,
    nats: &Nats,
    pool: &PgPool,
    health: &Health,
    stop: CancellationToken,
) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let Err(error) = follow(fold, nats, pool, &mut failures, &stop).await else { return };
        if !error.is_transient() {
            tracing::error!(fold = F::NAME, error = %chain(&error), "The fold stops: a person must look");
            metrics::gauge!("billing_fold_stopped", "fold" => F::NAME).set(1.0);
            health.wait_for(F::NAME, format!("stopped: {error}"));
            return;
        }
        failures += 1;
        let pause = BACKOFF.pause_ms(failures, crate::random());
        tracing::warn!(fold = F::NAME, failures, pause_ms = pause, error = %chain(&error), "The fold begins anew");
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())) => {}
        }
    }
}

async fn follow<F: Fold>(
    fold: &F,
    nats: &Nats,
    pool: &PgPool,
    failures: &mut u32,
    stop: &CancellationToken,
) -> Result<(), FoldError> {
    let (after, born) = checkpoint::read(pool, F::PROJECTION).await?;
    let filters: Vec<String> = F::FILTERS.iter().map(ToString::to_string).collect();
    let mut reader = Reader::open(nats, F::STREAM, &filters, after).await?;
    match born {
        Some(born) if born != reader.created_ms() => {
            let (stream, found) = (F::STREAM, reader.created_ms());
            return Err(FoldError::Stop(format!(
                "stream {stream} was made at {found}, not at {born}: it is another"
            )));
        }
        Some(_) => {}
        None => checkpoint::set_birth(pool, F::PROJECTION, reader.created_ms()).await?,
    }
    loop {
        let batch = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            batch = reader.next(BATCH, WAIT) => batch?,
        };
        if let Some(last) = batch.last() {
            fold.apply(&batch).await?;
            tracing::debug!(
                fold = F::NAME,
                stream.seq = last.seq,
                messages = batch.len(),
                "Folded"
            );
        }
        *failures = 0;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a gauge is a float, and shows a backlog well enough"
        )]
        metrics::gauge!("billing_fold_lag_messages", "fold" => F::NAME)
            .set(reader.pending() as f64);
    }
}

/// An error with its causes, for one log line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
