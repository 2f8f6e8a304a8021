//! Statements: each ended period is closed once, tied to Stripe's sums and invoice, and corrected by lines of its own.
//!
//! ```text
//! period ends ─▶ due ─ invoice final, reports out of doubt ─▶ frozen ─▶ fact on CONTROL ─▶ closed
//!                                                                                          │ late lines, settled
//!                      invoice item / credit note ◀─ fact ◀─ frozen correction ◀───────────┘
//! ```
//! Each arrow is one step that a kill may follow: what comes next is read from the tables again, and every step that is
//! done twice has one effect (a revision is frozen once, a fact has a subject of its own, a correction a key).
//! Invariants: a closed bill never changes; a line is in one bill; nothing that differs by a unit or a cent is tied.
//! Absent on purpose: finalizing Stripe's invoices, and deciding about what differs.

pub mod close;
pub mod collect;
pub mod correct;
pub mod publish;
pub mod rate;
pub mod tie;

use std::{sync::Arc, time::Duration};

use billing_core::plan::Book;
use futures::{Stream, StreamExt, stream};
use runtime::nats::Nats;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    clock::now,
    fold::{FoldError, chain},
    provider::{Provider, Unread},
    store::{
        StoreError,
        statement::{self, bill, look},
        subscribed,
    },
    stripe::{self, StripeError},
};

/// Statements that are worked on at once, where each is worked on alone.
const AT_ONCE: usize = 8;
/// Statements that are closed together: in one transaction, and by as many facts on their way at once.
const BATCH: usize = 250;
/// Batches that are worked on at once: while one waits for the database, another is rated.
const BATCHES_AT_ONCE: usize = 3;
/// Reads of Stripe's that are on their way at once.
const READS_AT_ONCE: usize = 8;
/// Statements of one round; the next round takes more.
const ROUND: i64 = 2_000;

/// What statements need.
pub struct Statements<P> {
    pub pool: PgPool,
    pub nats: Nats,
    pub stripe: stripe::Client,
    pub provider: Arc<P>,
    pub book: Arc<Book>,
    /// Looks at customers again when time alone changes where they stand.
    pub access: Access,
    /// How often to look for what is due. Unit: milliseconds.
    pub every_ms: u32,
    /// How long the last late line of a period must have been settled before it is corrected. Unit: milliseconds.
    pub quiet_ms: i64,
    /// Told when an invoice was read.
    pub wake: Arc<Notify>,
}

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub opened: u64,
    pub closed: usize,
    pub corrected: usize,
    pub collected: usize,
}

/// Why a step was not done; the next round tries again.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    #[error("PostgreSQL")]
    Store(#[from] StoreError),
    #[error("the provider's sums")]
    Unread(#[from] Unread),
    #[error("Stripe")]
    Stripe(#[from] StripeError),
    #[error("an invoice")]
    Unkept(#[from] crate::work::Unkept),
    #[error("the log")]
    Log(#[from] runtime::nats::PublishError),
    #[error("a look at a customer")]
    Look(#[from] FoldError),
    #[error(transparent)]
    Amount(#[from] schemas::AmountError),
    #[error(transparent)]
    Correction(#[from] billing_core::invoice::CorrectionError),
    /// The log has another statement than the one that is frozen here: a person must look.
    #[error("the statement on CONTROL is another one: {0}")]
    Another(String),
}

impl StatementError {
    /// Whether it may be of one statement alone, so that the others of its batch can go on without it.
    fn is_of_one(&self) -> bool {
        match self {
            Self::Store(error) => !error.is_transient(),
            Self::Log(_) => false,
            Self::Unread(_)
            | Self::Stripe(_)
            | Self::Unkept(_)
            | Self::Look(_)
            | Self::Amount(_)
            | Self::Correction(_)
            | Self::Another(_) => true,
        }
    }
}

/// Says that a step was not done: the next round tries again.
fn put_off(error: &StatementError) -> usize {
    tracing::warn!(error = %chain(error), "A statement waits");
    metrics::counter!("billing_statements_failed_total").increment(1);
    0
}

/// How many were done; what was not is said.
async fn count(steps: impl Stream<Item = Result<usize, StatementError>>) -> usize {
    let did = steps.map(|done| done.unwrap_or_else(|error| put_off(&error)));
    did.fold(0, async |sum, done| sum + done).await
}

impl<P: Provider> Statements<P> {
    /// Works until stopped: whenever an invoice was read, and now and then.
    pub async fn run(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.round().await {
                Ok(done) if done == Done::default() => {}
                Ok(done) => {
                    tracing::info!(?done, "Worked on statements");
                    continue; // A round has an end: there may be more.
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "Statements wait");
                    metrics::counter!("billing_statement_rounds_failed_total").increment(1);
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(u64::from(self.every_ms))) => {}
            }
        }
    }

    /// One round: everything that is due now, and what follows from it.
    ///
    /// # Errors
    /// The database is away. What fails of one statement is logged, and keeps no other from being worked on.
    pub async fn round(&self) -> Result<Done, StatementError> {
        self.look_again().await?;
        let mut done = Done { opened: self.open().await?, ..Done::default() };
        let due = statement::due(&self.pool, now(), ROUND).await?;
        done.closed = self.batches(&due, close::close).await;
        bill::mark_invoiced(&self.pool).await?;
        let late = statement::late(&self.pool, now(), self.quiet_ms, ROUND).await?;
        done.corrected = self.each(late, correct::correct).await;
        // What an earlier round, or a process that was killed, has frozen and not published.
        let unpublished = bill::unpublished(&self.pool, ROUND).await?;
        done.closed += self.batches(&unpublished, publish::publish).await;
        let untied = statement::untied(&self.pool, ROUND).await?;
        self.batches(&untied, tie::again).await;
        done.collected =
            self.each(bill::uncollected(&self.pool, ROUND).await?, collect::collect).await;
        self.show().await?;
        Ok(done)
    }

    /// Does a step for many at a time, some batches at once; gives how many were done.
    async fn batches<'a, T: Sync>(
        &'a self,
        all: &'a [T],
        step: impl AsyncFn(&'a Self, &'a [T]) -> Result<usize, StatementError>,
    ) -> usize {
        let batches =
            stream::iter(all.chunks(BATCH)).map(async |batch| match step(self, batch).await {
                // What one of them cannot do keeps no other from being worked on.
                Err(error) if batch.len() > 1 && error.is_of_one() => {
                    let alone = stream::iter(batch.chunks(1)).map(|one| step(self, one));
                    count(alone.buffer_unordered(AT_ONCE)).await
                }
                done => done.unwrap_or_else(|error| put_off(&error)),
            });
        batches.buffer_unordered(BATCHES_AT_ONCE).fold(0, async |sum, done| sum + done).await
    }

    /// Does a step for each, some at once; gives how many were done.
    async fn each<'a, T: Send>(
        &'a self,
        all: Vec<T>,
        step: impl AsyncFn(&'a Self, T) -> Result<bool, StatementError>,
    ) -> usize {
        let steps = stream::iter(all).map(|one| step(self, one)).buffer_unordered(AT_ONCE);
        count(steps.map(|done| done.map(usize::from))).await
    }

    /// Opens the statements of all periods that have ended.
    async fn open(&self) -> Result<u64, StatementError> {
        let mut opened = 0;
        loop {
            let ended = subscribed::ended(&self.pool, now(), ROUND).await?;
            let periods = ended.iter().filter_map(|of| Some((of, of.period_at(of.stated_to)?)));
            let periods: Vec<_> = periods.collect();
            match statement::open(&self.pool, &periods, now()).await? {
                0 => return Ok(opened),
                some => opened += some,
            }
        }
    }

    async fn show(&self) -> Result<(), StatementError> {
        let apart = look::count_apart(&self.pool).await?;
        for verdict in ["stuck", "summary", "units", "unrated", "no_invoice", "amount"] {
            let count =
                apart.iter().find(|(word, _)| word == verdict).map_or(0, |(_, count)| *count);
            #[expect(
                clippy::cast_precision_loss,
                reason = "a gauge is a float, and shows a count well enough"
            )]
            metrics::gauge!("billing_discrepancies", "verdict" => verdict).set(count as f64);
        }
        Ok(())
    }

    /// Looks again at customers for whom a notice or the end of the grace has come.
    async fn look_again(&self) -> Result<(), StatementError> {
        for customer in crate::store::dunning::due(&self.pool, now(), ROUND).await? {
            self.access.look(&customer, None).await?;
        }
        Ok(())
    }
}
