//! The one loop that follows a request to its end: what comes is recorded first, and delivered then.
//!
//! Invariants, each to be read in [`Driver::run`] and [`Driver::answer`]:
//! 1. an answer leaves only after [`PendingRecord::record`] has returned, and only if it says so;
//! 2. what is settled without an answer (a timeout, a cancellation, a failure) delivers none: the client hears why;
//! 3. every admitted call is settled once, whatever its client, its server and its streams do.
//!
//! Absent on purpose: protocols. A [`Source`] knows its own, and says when the answer is there.

use std::{borrow::Cow, sync::Arc};

use axum::{body::Body, http::StatusCode, response::Response};
use bytes::Bytes;
use mcp_node_core::{
    Refusal,
    reply::{self, Envelope},
    sse,
};
use schemas::Outcome;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{ClientEnd, DeliveryDecision, InFlightCall, TaskPoll, Tasks};
use crate::{
    clock,
    meter::Permit,
    wire::{RequestId, answer},
};

/// How long a stream may stay open behind its answer.
const AFTERWARDS: std::time::Duration = std::time::Duration::from_secs(5);

/// What comes for a request, step by step.
pub enum Step {
    /// The answer will come in a stream that begins with this head.
    Open(Response<()>),
    /// A frame of the server's stream that holds no answer to a call; it goes on as it is.
    Frame(Bytes),
    /// A message that is certainly no answer, of a server that has no streams of events.
    Message(Bytes),
    /// The answer; `message` = all of it as the server wrote it, to be measured. `envelope` is of what the client is told.
    Answer { outcome: Outcome, message: Bytes, envelope: Envelope, form: AnswerForm },
    /// An answer of the server's HTTP layer that is none to the call, and is the client's business; it is free.
    Passed(Response),
    /// There is no answer: how that is recorded, and what the client hears.
    Failed(Outcome, Refusal),
    /// As `Failed`, but the client hears this error (a JSON-RPC message) of somebody else.
    Declined(Bytes),
    /// The answer comes on another stream, if at all; the client is answered so, if it has no answer yet.
    Elsewhere(Option<Response>),
    /// Nothing comes any more behind the answer.
    End,
}

/// How an answer reaches the client.
pub enum AnswerForm {
    /// As the body of this head.
    Body(Response<()>),
    /// As the data of this frame, in normal form: clients differ in what ends a line, and an event.
    Frame(Bytes),
    /// As this message, with this status, or as an event where a stream has begun.
    Message(StatusCode, Bytes),
}

/// How a request is recorded that is refused while it runs.
#[must_use]
pub fn outcome_of(refusal: &Refusal) -> Outcome {
    match refusal {
        Refusal::UpstreamTimeout => Outcome::Timeout,
        _ => Outcome::UpstreamError,
    }
}

/// Why a request is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Answered,
    /// The client does not want it any more.
    Cancelled,
    TimedOut,
    Failed(Refusal),
}

/// The way to a server for one request.
pub trait Source: Send {
    /// What comes next. It may be dropped at any time, and is then asked for nothing more but [`Source::close`].
    fn next(&mut self) -> impl Future<Output = Step> + Send;

    /// Whether the server may have begun to work on it.
    fn has_reached_server(&self) -> bool;

    /// The request is over, for this reason; the server is told if it must be.
    fn close(self, end: End) -> impl Future<Output = ()> + Send;
}

/// What must be recorded before an answer leaves.
pub enum PendingRecord {
    Nothing,
    Call(Arc<InFlightCall>),
    /// The result of a task, if the answer delivers one.
    Task(TaskPoll),
}

impl PendingRecord {
    /// What a request owes that was admitted with `permit`, or may deliver the result of a task.
    pub fn new(permit: Option<Permit>, poll: Option<TaskPoll>, tasks: &Arc<Tasks>) -> Self {
        match (permit, poll) {
            (Some(permit), _) => Self::Call(Arc::new(InFlightCall::new(permit, tasks, false))),
            (None, Some(poll)) => Self::Task(poll),
            (None, None) => Self::Nothing,
        }
    }

    fn is_settled(&self) -> bool {
        match self {
            Self::Call(call) => call.is_settled(),
            Self::Nothing | Self::Task(_) => false,
        }
    }

    /// Records that there is no answer.
    fn settle(&self, outcome: Outcome) -> Result<(), Refusal> {
        match self {
            Self::Call(call) => call.settle(outcome, 0).map_err(|_| Refusal::CannotRecord),
            Self::Nothing | Self::Task(_) => Ok(()),
        }
    }

    /// Records that the client does not want an answer.
    fn cancel(&self, at_server: bool) -> Result<(), Refusal> {
        match self {
            Self::Call(call) => call.cancelled(at_server).map_err(|_| Refusal::CannotRecord),
            Self::Nothing | Self::Task(_) => Ok(()),
        }
    }

    /// Records what a message delivers; says whether it may leave.
    async fn record(&self, outcome: Outcome, message: &[u8]) -> Result<DeliveryDecision, Refusal> {
        match self {
            Self::Call(call) => call.settle_as(outcome, message).map_err(|_| Refusal::CannotRecord),
            Self::Task(poll) => poll.count(message).await.map(|()| DeliveryDecision::Deliver),
            Self::Nothing => Ok(DeliveryDecision::Deliver),
        }
    }
}

/// One running request.
pub struct Driver<S> {
    pub owed: PendingRecord,
    pub id: RequestId,
    pub client: ClientEnd,
    pub source: S,
    /// A client that goes away cancels the request.
    pub gone_cancels: bool,
    /// The client has said that it does not want the answer.
    pub cancelled: CancellationToken,
    pub deadline: Instant,
}

impl<S: Source> Driver<S> {
    /// Follows the request to its end.
    pub async fn run(mut self) {
        let end = self.follow().await;
        self.client.end();
        self.source.close(end).await;
    }

    async fn follow(&mut self) -> End {
        let mut answered: Option<Instant> = None;
        loop {
            let until = answered.unwrap_or(self.deadline);
            // A call may have been answered on another stream.
            let is_over = answered.is_some() || self.owed.is_settled();
            let step = tokio::select! {
                step = self.source.next() => step,
                () = self.client.gone(), if self.gone_cancels || is_over => {
                    return if is_over { End::Answered } else { self.cancel() };
                }
                () = self.cancelled.cancelled(), if !is_over => return self.cancel(),
                () = sleep_until(until) => {
                    return if is_over { End::Answered } else { self.time_out().await };
                }
            };
            let delivered = match step {
                Step::Open(head) => {
                    self.client.begin(head);
                    Ok(false)
                }
                Step::Frame(frame) => self.frame(frame).await.map(|()| false),
                Step::Message(message) => {
                    self.client.message(&message).await;
                    Ok(false)
                }
                Step::Answer { outcome, message, envelope, form } => {
                    // Only behind a frame of a stream can something come yet; nobody else is asked again.
                    let is_last = !matches!(form, AnswerForm::Frame(_));
                    let told = self.answer(outcome, message, envelope, form).await;
                    if is_last && told.is_ok() {
                        return End::Answered;
                    }
                    told.map(|()| true)
                }
                Step::Passed(response) => {
                    return self.pass(response).await;
                }
                Step::Failed(outcome, refusal) => return self.fail(outcome, refusal).await,
                Step::Declined(error) => return self.decline(error).await,
                Step::Elsewhere(response) => {
                    if let Some(response) = response {
                        self.client.respond(response);
                    }
                    self.client.end();
                    return self.wait_elsewhere().await;
                }
                Step::End => return End::Answered,
            };
            match delivered {
                Ok(is_answer) => {
                    if is_answer && answered.is_none() {
                        answered = Some(Instant::now() + AFTERWARDS);
                    }
                }
                Err(refusal) => {
                    self.client.refuse(&refusal, &self.id).await;
                    return End::Failed(refusal);
                }
            }
        }
    }

    /// A frame behind or before the answer; one that delivers the result of a task is counted first.
    async fn frame(&mut self, frame: Bytes) -> Result<(), Refusal> {
        if let (PendingRecord::Task(poll), Some(data)) = (&self.owed, sse::data(&frame)) {
            poll.count(&data).await?;
        }
        self.client.send(frame).await;
        Ok(())
    }

    /// The answer: recorded first, told then.
    async fn answer(
        &mut self,
        outcome: Outcome,
        message: Bytes,
        envelope: Envelope,
        form: AnswerForm,
    ) -> Result<(), Refusal> {
        // Where going away cancels, an answer that nobody waits for is the answer to a cancelled call.
        if self.gone_cancels && self.client.is_gone() {
            return self.owed.cancel(true);
        }
        let told = match &form {
            AnswerForm::Message(_, told) => told,
            AnswerForm::Body(_) | AnswerForm::Frame(_) => &message,
        };
        let told = match reply::for_every_client(told, envelope, &self.id.raw) {
            Ok(Cow::Borrowed(_)) => told.clone(),
            Ok(Cow::Owned(rewritten)) => rewritten.into(),
            Err(error) => {
                tracing::warn!(%error, "Answer of the upstream withheld");
                self.owed.settle(Outcome::UpstreamError)?;
                return Err(Refusal::UpstreamInvalid);
            }
        };
        match self.owed.record(outcome, &message).await? {
            DeliveryDecision::Deliver => {}
            DeliveryDecision::Again | DeliveryDecision::Withhold => {
                return Err(Refusal::UpstreamInvalid);
            }
        }
        let told = self.client.hints.in_answer(told);
        match form {
            AnswerForm::Body(head) => self.client.respond(head.map(|()| Body::from(told))),
            AnswerForm::Frame(frame) => {
                self.client.send(sse::with_message(frame, &told)).await;
            }
            AnswerForm::Message(status, _) => self.client.answer(status, told).await,
        }
        Ok(())
    }

    async fn pass(&mut self, response: Response) -> End {
        if let Err(refusal) = self.owed.settle(Outcome::UpstreamError) {
            self.client.refuse(&refusal, &self.id).await;
            return End::Failed(refusal);
        }
        self.client.respond(response);
        End::Answered
    }

    /// Records a request that has no answer, and says so to a client that still listens.
    async fn fail(&mut self, outcome: Outcome, refusal: Refusal) -> End {
        let refusal = self.owed.settle(outcome).err().unwrap_or(refusal);
        self.client.refuse(&refusal, &self.id).await;
        End::Failed(refusal)
    }

    async fn decline(&mut self, error: Bytes) -> End {
        match self.owed.settle(Outcome::ProtocolError) {
            Ok(()) => self.client.answer(StatusCode::OK, error).await,
            Err(refusal) => self.client.refuse(&refusal, &self.id).await,
        }
        End::Answered
    }

    async fn time_out(&mut self) -> End {
        self.fail(Outcome::Timeout, Refusal::UpstreamTimeout).await;
        End::TimedOut
    }

    /// The client does not want the answer; it is told nothing more.
    fn cancel(&mut self) -> End {
        match self.owed.cancel(self.source.has_reached_server()) {
            Ok(()) => End::Cancelled,
            Err(refusal) => End::Failed(refusal),
        }
    }

    /// Waits for the answer to come another way, for the client to cancel, or for the deadline.
    async fn wait_elsewhere(&mut self) -> End {
        let PendingRecord::Call(call) = &self.owed else { return End::Answered };
        let call = call.clone();
        loop {
            let changed = call.changed.notified();
            if call.is_settled() {
                return End::Answered;
            }
            if call.is_cancelled() {
                return self.cancel();
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(self.deadline) => return self.time_out().await,
            }
        }
    }
}

impl ClientEnd {
    /// Sends a message as an event; a stream begins if none has.
    pub async fn message(&mut self, message: &[u8]) {
        self.begin_events();
        self.send(answer::event(message).into()).await;
    }

    /// The last word, as an event where a stream has begun.
    pub async fn answer(&mut self, status: StatusCode, message: Bytes) {
        if self.has_begun() {
            self.send(answer::event(&message).into()).await;
            self.end();
        } else {
            self.respond(answer::json(status, message));
        }
    }

    /// The last word is a refusal.
    pub async fn refuse(&mut self, refusal: &Refusal, id: &RequestId) {
        if self.has_begun() {
            let error = answer::error(refusal, Some(&id.raw), clock::wall());
            self.send(answer::event(&error).into()).await;
            self.end();
        } else {
            self.respond(answer::refuse(refusal, Some(&id.raw)));
        }
    }

    fn begin_events(&mut self) {
        if !self.has_begun() {
            let (head, _) = answer::events(Body::empty()).into_parts();
            self.begin(Response::from_parts(head, ()));
        }
    }
}
