//! The outbox: sends what is due, one report of a lane at a time, written ahead; may be killed at any point.
//!
//! The rules are in `billing_core::report`; here is the order of writes and sends that makes them true. Each step is
//! guarded by the state it found, so a second outbox by mistake costs a request, never a second effect.
//! Absent on purpose: what a report says (see `collect`) and what an answer means (see `provider`).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use billing_core::report::{
    Action, BACKOFF, Outcome, Progress, State, conclude, idempotency_key, next, read_back,
    write_ahead,
};
use sqlx::PgPool;
use tokio::{
    sync::Notify,
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::now,
    fold::chain,
    pace::Pace,
    provider::{Provider, Told},
    store::{
        StoreError,
        report::{
            Report,
            outbox::{self, Lane},
        },
    },
};

/// How long to sleep when nothing is due and nobody wakes us.
const LOOK: Duration = Duration::from_millis(500);
/// The most reports of one lane in a row, when others wait.
const TURN: usize = 32;
/// How many lanes are read for each that may be on its way: finding them costs a look at every lane there is, so with
/// thousands of them a look for each one that ends would be all that is ever done.
const READ_AHEAD: usize = 16;
/// How long to leave the database alone after it failed.
const PAUSE: Duration = Duration::from_secs(1);

/// The outbox.
pub struct Outbox<P> {
    pub pool: PgPool,
    pub provider: Arc<P>,
    pub pace: Pace,
    /// Reports on their way at once.
    pub in_flight: usize,
    /// Told when there may be something new.
    pub wake: Arc<Notify>,
}

impl<P: Provider> Outbox<P> {
    /// Sends until stopped; what is on its way then is waited for.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut busy = HashMap::new();
        let mut ahead = VecDeque::new();
        while !stop.is_cancelled() {
            let room = self.in_flight.saturating_sub(tasks.len());
            let mut pause = LOOK;
            if room > 0 && ahead.is_empty() {
                match self.read(&busy).await {
                    Ok(due) => ahead.extend(due),
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "The outbox cannot read what is due");
                        pause = PAUSE;
                    }
                }
            }
            for report in ahead.drain(..room.min(ahead.len())) {
                self.start(report, &mut busy, &mut tasks, &stop);
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = tasks.join_next_with_id() => release(&mut busy, done),
                () = self.wake.notified(), if room > 0 => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        while let Some(done) = tasks.join_next_with_id().await {
            release(&mut busy, done);
        }
    }

    /// The first reports of lanes that are not busy and due.
    async fn read(&self, busy: &HashMap<Id, Lane>) -> Result<Vec<Report>, StoreError> {
        let shut: Vec<Lane> = busy.values().cloned().collect();
        outbox::due(&self.pool, &shut, now(), self.in_flight * READ_AHEAD).await
    }

    /// Lets a lane have its turn. Its report may have moved since it was read: then its first step is not done.
    fn start(
        self: &Arc<Self>,
        report: Report,
        busy: &mut HashMap<Id, Lane>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let lane: Lane = (report.row.customer.clone(), report.row.meter.to_string());
        let (this, of, stop) = (Arc::clone(self), lane.clone(), stop.clone());
        let task = tasks.spawn(async move {
            if let Err(error) = this.turn(report, &of, &stop).await {
                // The row stands where it stood, or in doubt: both are gone on from.
                tracing::warn!(lane = ?of, error = %chain(&error), "A lane waits");
                tokio::time::sleep(PAUSE).await;
            }
        });
        busy.insert(task.id(), lane);
    }

    /// Some reports of one lane, one after the other; then it is another lane's turn.
    async fn turn(
        &self,
        first: Report,
        lane: &Lane,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut report = Some(first);
        for _ in 0..TURN {
            let Some(at_hand) = report.filter(|_| !stop.is_cancelled()) else { break };
            if !self.advance(&at_hand).await? {
                break;
            }
            report = outbox::head(&self.pool, lane, now()).await?;
        }
        Ok(())
    }

    /// One step of one report; `false` = another outbox has it.
    async fn advance(&self, report: &Report) -> Result<bool, StoreError> {
        match next(&report.row, &report.progress, now()) {
            Action::Rest => Ok(false),
            Action::Wait(until) => {
                let waiting = Progress { due_at: until, ..report.progress.clone() };
                self.step(report, &waiting, None).await
            }
            Action::Carry => {
                let carried = Progress { state: State::Carried, ..report.progress.clone() };
                self.step(report, &carried, Some("older than 34 days before it could be sent"))
                    .await
            }
            Action::Send => self.send(report).await,
            Action::ReadBack => self.read_back(report).await,
        }
    }

    async fn send(&self, report: &Report) -> Result<bool, StoreError> {
        self.pace.wait().await;
        let before = &report.progress;
        let sent = write_ahead(before, now());
        if !outbox::step(&self.pool, &report.row, before, &sent, None, now()).await? {
            return Ok(false);
        }
        let key = idempotency_key(&report.identifier, before);
        let told = self.provider.tell(&report.row, &report.identifier, &key).await;
        let after =
            conclude(before, &sent, &report.identifier, &told.outcome, now(), crate::random());
        say(report, &after, &told);
        outbox::step(&self.pool, &report.row, &sent, &after, Some(&told.said), now()).await
    }

    async fn read_back(&self, report: &Report) -> Result<bool, StoreError> {
        let row = &report.row;
        let told = match self.provider.hour_total(&row.customer, &row.meter, row.hour).await {
            Ok(told) => told,
            Err(unread) if unread.transient => {
                let pause = BACKOFF.pause_ms(report.progress.attempts, crate::random());
                let due_at = now().plus_ms(pause.max(unread.retry_after_ms.unwrap_or(0)));
                tracing::warn!(report.id = report.identifier, error = %chain(&unread), "The books cannot be read yet");
                return self
                    .step(report, &Progress { due_at, ..report.progress.clone() }, None)
                    .await;
            }
            Err(unread) => {
                let disputed = Progress { state: State::Disputed, ..report.progress.clone() };
                return self.step(report, &disputed, Some(&chain(&unread))).await;
            }
        };
        let books = outbox::books(&self.pool, row, told).await?;
        let after = read_back(row, &report.progress, books, now());
        let said = format!(
            "the provider holds {} of this hour, {} by our books",
            books.told.0, books.accepted.0
        );
        tracing::warn!(report.id = report.identifier, state = ?after.state, said, "Settled a doubt by the provider's books");
        self.step(report, &after, Some(&said)).await
    }

    async fn step(
        &self,
        report: &Report,
        to: &Progress,
        said: Option<&str>,
    ) -> Result<bool, StoreError> {
        if matches!(to.state, State::Disputed | State::Carried) && to.state != report.progress.state
        {
            tracing::error!(report.id = report.identifier, tenant.id = %report.row.tenant, state = ?to.state, said,
                "A report needs a person");
        }
        outbox::step(&self.pool, &report.row, &report.progress, to, said, now()).await
    }
}

fn release(busy: &mut HashMap<Id, Lane>, done: Result<(Id, ()), JoinError>) {
    let id = match done {
        Ok((id, ())) => id,
        Err(error) => {
            // Its report is in doubt at worst, and is gone on from as after a kill.
            tracing::error!(%error, "A sender broke");
            error.id()
        }
    };
    busy.remove(&id);
}

fn say(report: &Report, after: &Progress, told: &Told) {
    let outcome = match &told.outcome {
        Outcome::Accepted => "accepted",
        Outcome::Duplicate { .. } if after.state == State::Accepted => "known",
        Outcome::Duplicate { .. } => "foreign_duplicate",
        Outcome::Refused => "refused",
        Outcome::NotExecuted { .. } => "not_executed",
        Outcome::ServerError { .. } => "server_error",
        Outcome::Unknown => "unknown",
    };
    metrics::counter!("billing_reports_total", "outcome" => outcome).increment(1);
    let (id, tenant, said) = (&report.identifier, report.row.tenant, &told.said);
    match after.state {
        State::Accepted => {
            tracing::debug!(report.id = id, tenant.id = %tenant, outcome, "Reported");
        }
        State::Rejected => {
            tracing::error!(report.id = id, tenant.id = %tenant, outcome, said, "A report needs a person");
        }
        _ => {
            tracing::warn!(report.id = id, tenant.id = %tenant, outcome, said, "A report will be tried again");
        }
    }
}
