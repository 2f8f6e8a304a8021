//! One call of a tool, from the moment it is admitted until it is settled, whatever its client does meanwhile.

use std::sync::Arc;

use axum::{
    http::{Request, StatusCode, response::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use mcp_node_core::{
    Refusal,
    message::{Answer, Message, read},
    sse::{self, Splitter},
};
use schemas::Outcome;
use tokio::time::{Instant, sleep_until};

use super::{
    super::{client::Client, guard::Passage, slot::Slot},
    Answered, HttpUpstream, headers,
    sessions::{InUse, Session},
};
use crate::{
    clock,
    http::{RequestId, answer},
    spool::CannotRecord,
};

/// How long a stream may stay open behind its answer.
const AFTERWARDS: std::time::Duration = std::time::Duration::from_secs(5);

/// One running call.
pub struct Exchange {
    pub upstream: HttpUpstream,
    pub session: Option<Arc<Session>>,
    pub slot: Arc<Slot>,
    pub id: RequestId,
    /// A client that goes away cancels the call.
    pub modern: bool,
    pub client: Client,
    pub passage: Passage,
}

/// How the call goes on after one part of it.
enum Next {
    /// It is settled; nothing more is to be done.
    Done,
    /// The answer did not come this way: it may come on the session's own stream.
    Elsewhere,
}

impl Exchange {
    /// Follows the call to its end.
    pub async fn run(mut self, request: Request<Full<Bytes>>) {
        let _use: Option<InUse> = self.session.as_ref().map(Session::in_use);
        let deadline = Instant::now() + self.upstream.shared.settings.request_patience;
        if let Next::Elsewhere = self.follow(request, deadline).await {
            self.client.end();
            self.wait_elsewhere(deadline).await;
        }
        if let Some(session) = &self.session {
            session.end(&self.id.key, &self.slot);
        }
    }

    async fn follow(&mut self, request: Request<Full<Bytes>>, deadline: Instant) -> Next {
        let upstream = self.upstream.clone();
        let sent = tokio::select! {
            sent = upstream.send_on(request) => sent,
            () = self.client.gone(), if self.modern => return self.fail(Outcome::Cancelled, None).await,
        };
        let response = match sent {
            Ok(response) => response,
            Err(Refusal::UpstreamTimeout) => return self.time_out().await,
            Err(refusal) => {
                self.passage.badly();
                return self.fail(Outcome::UpstreamError, Some(refusal)).await;
            }
        };
        let (head, body) = response.into_parts();
        if !head.status.is_server_error() {
            self.passage.reached();
        }
        if head.status == StatusCode::ACCEPTED {
            return self.accepted().await;
        }
        let events = headers::content_type(&head.headers) == "text/event-stream";
        if events && head.status.is_success() {
            return self.stream(&head, body, deadline).await;
        }
        self.whole(head, body, deadline).await
    }

    /// The server took the call and said nothing. In a session the answer may come on the session's own stream.
    async fn accepted(&mut self) -> Next {
        if self.session.is_none() {
            return self.fail(Outcome::UpstreamError, Some(Refusal::UpstreamInvalid)).await;
        }
        self.passage.well();
        self.client.respond(StatusCode::ACCEPTED.into_response());
        Next::Elsewhere
    }

    /// An answer in one piece.
    async fn whole(&mut self, head: Parts, body: Answered, deadline: Instant) -> Next {
        let upstream = self.upstream.clone();
        let body = tokio::select! {
            body = upstream.whole(body) => body,
            () = sleep_until(deadline) => return self.time_out().await,
            () = self.client.gone(), if self.modern => return self.fail(Outcome::Cancelled, None).await,
        };
        let body = match body {
            Ok(body) => body,
            Err(refusal) => {
                self.passage.badly();
                return self.fail(Outcome::UpstreamError, Some(refusal)).await;
            }
        };
        let ours = |message: &Message<'_>| match message {
            Message::Answer { id: Some(id), .. } => id.key() == self.id.key,
            Message::Answer { id: None, .. } => !head.status.is_success(),
            _ => false,
        };
        if head.status.is_server_error() && !matches!(read(&body), Ok(Message::Answer { .. })) {
            self.passage.badly();
        } else {
            self.passage.well();
        }
        let recorded = match read(&body) {
            Ok(message) if ours(&message) => match message {
                Message::Answer { answer, .. } => self.settle_if_wanted(answer, &body),
                _ => unreachable!("only an answer is ours"),
            },
            // Not MCP: an error of the server's HTTP layer may pass, anything else is no answer.
            _ if head.status.is_client_error() => {
                self.slot.settle(Outcome::UpstreamError, body.len() as u64)
            }
            _ => return self.fail(Outcome::UpstreamError, Some(Refusal::UpstreamInvalid)).await,
        };
        let failure = match recorded {
            Err(_) => Err(Refusal::CannotRecord),
            Ok(()) if head.status.is_success() => Ok(()),
            Ok(()) => self.upstream.check_failure(head.status, &body, self.session.as_ref()),
        };
        let response = match failure {
            Ok(()) => {
                let mut response = Response::new(self.client.told.in_answer(body).into());
                *response.status_mut() = head.status;
                headers::copy_back(&head.headers, response.headers_mut());
                response
            }
            Err(refusal) => answer::refuse(&refusal, Some(&self.id.raw)),
        };
        self.client.respond(response);
        Next::Done
    }

    /// An answer in a stream, perhaps behind other messages.
    async fn stream(&mut self, head: &Parts, mut body: Answered, deadline: Instant) -> Next {
        let mut begun = Response::new(());
        headers::copy_back(&head.headers, begun.headers_mut());
        self.client.begin(begun);
        let mut splitter = Splitter::new(self.upstream.shared.settings.max_answer_bytes);
        let mut until = deadline;
        loop {
            let settled = self.slot.is_settled();
            let chunk = tokio::select! {
                chunk = body.frame() => chunk,
                () = sleep_until(until) => {
                    return if settled { Next::Done } else { self.time_out().await };
                }
                () = self.client.gone(), if self.modern || settled => {
                    return if settled { Next::Done } else { self.fail(Outcome::Cancelled, None).await };
                }
            };
            let Some(Ok(chunk)) = chunk else {
                let rest = splitter.rest();
                if !self.frame(rest).await || self.slot.is_settled() {
                    return Next::Done;
                }
                return self.broke_off(matches!(chunk, Some(Err(_)))).await;
            };
            splitter.push(&chunk.into_data().unwrap_or_default());
            loop {
                match splitter.next_frame() {
                    Ok(Some(frame)) => {
                        if !self.frame(frame).await {
                            return Next::Done;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => {
                        return self
                            .fail(Outcome::UpstreamError, Some(Refusal::UpstreamInvalid))
                            .await;
                    }
                }
            }
            if !settled && self.slot.is_settled() {
                until = Instant::now() + AFTERWARDS;
            }
        }
    }

    /// Forwards a frame; the one that holds the answer only once that is recorded. `false` = it could not be.
    async fn frame(&mut self, frame: Bytes) -> bool {
        let data = sse::data(&frame).unwrap_or_default();
        let mut is_ours = false;
        let recorded = match read(&data) {
            Ok(Message::Answer { id, answer }) => {
                // Who could not read the id answers with an error that has none.
                let nameless = answer == Answer::Error;
                let own = id.as_ref().map_or(nameless, |id| id.key() == self.id.key);
                let other = || self.session.as_ref()?.call(&id.as_ref()?.key());
                is_ours = own;
                match other().filter(|_| !own) {
                    Some(slot) => slot.settle_by(answer, &data),
                    None if own => self.settle_if_wanted(answer, &data),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        };
        if recorded.is_err() {
            let error = answer::error(&Refusal::CannotRecord, Some(&self.id.raw), clock::wall());
            self.client.send(answer::event(&error).into()).await;
            return false;
        }
        drop(data);
        let frame = if is_ours { self.client.told.in_event(frame) } else { frame };
        if self.slot.is_settled() {
            self.passage.well();
        }
        self.client.send(frame).await;
        true
    }

    /// Records the answer; where going away cancels, an answer that nobody waits for is a cancelled call.
    fn settle_if_wanted(&self, answer: Answer<'_>, message: &[u8]) -> Result<(), CannotRecord> {
        if self.modern && self.client.is_gone() {
            return self.slot.settle(Outcome::Cancelled, 0);
        }
        self.slot.settle_by(answer, message)
    }

    /// The stream ended without an answer.
    async fn broke_off(&mut self, broken: bool) -> Next {
        if self.session.is_some() && !self.modern {
            return Next::Elsewhere; // The client may resume it on the session's own stream.
        }
        self.passage.badly();
        tracing::warn!(broken, "The upstream ended a stream without an answer");
        self.fail(Outcome::UpstreamError, Some(Refusal::UpstreamInvalid)).await
    }

    /// Waits for the answer to come another way, for the client to cancel, or for the end of our patience.
    async fn wait_elsewhere(&mut self, deadline: Instant) {
        let slot = self.slot.clone();
        loop {
            let changed = slot.changed.notified();
            if self.slot.is_settled() {
                return;
            }
            if self.slot.is_cancelled() {
                self.fail(Outcome::Cancelled, None).await;
                return;
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(deadline) => {
                    self.time_out().await;
                    return;
                }
            }
        }
    }

    async fn time_out(&mut self) -> Next {
        self.passage.badly();
        self.fail(Outcome::Timeout, Some(Refusal::UpstreamTimeout)).await
    }

    /// Records a call that has no answer, and says so to a client that still listens.
    async fn fail(&mut self, outcome: Outcome, refusal: Option<Refusal>) -> Next {
        let recorded = self.slot.settle(outcome, 0);
        let refusal = if recorded.is_err() { Some(Refusal::CannotRecord) } else { refusal };
        if let Some(refusal) = refusal {
            let error = answer::error(&refusal, Some(&self.id.raw), clock::wall());
            self.client.respond(answer::refuse(&refusal, Some(&self.id.raw)));
            self.client.send(answer::event(&error).into()).await;
        }
        self.client.end();
        Next::Done
    }
}
