//! One request to a server over Streamable HTTP, as the steps that its answer comes in.
//!
//! Every event of its stream that holds something is looked at: what is not certainly a message of the server's own is
//! the answer, or ends the stream. Absent on purpose: recording and delivering (`call::Driver`).

use std::{borrow::Cow, sync::Arc};

use axum::{
    http::{HeaderValue, Request, StatusCode, header::CONTENT_TYPE, response::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::Full;
use mcp_node_core::{
    Refusal, billable,
    message::{Answer, IdKey},
    reply::{self, AnswerTo, ServerMessage, classify},
    sse,
};
use schemas::Outcome;

use super::{
    super::breaker::BreakerPermit,
    HttpUpstream, NoResponse, ResponseBody, headers,
    link::Events,
    sessions::{InUse, Session},
};
use crate::{
    call::{AnswerForm, DeliveryDecision, End, InFlightCall, Source, Step},
    wire::{RequestId, frames::is_events},
};

/// One running request.
pub struct Exchange {
    upstream: HttpUpstream,
    session: Option<Arc<Session>>,
    id: RequestId,
    /// The call that it is, if it is one.
    call: Option<Arc<InFlightCall>>,
    passage: BreakerPermit,
    state: State,
    _use: Option<InUse>,
    /// A client of the era without sessions: nothing comes another way.
    modern: bool,
    /// The answer has come on the stream: there is no second one.
    answered: bool,
}

enum State {
    Unsent(Option<Request<Full<Bytes>>>),
    Streaming(Events),
    Over,
}

impl Exchange {
    pub fn new(
        upstream: &HttpUpstream,
        session: Option<Arc<Session>>,
        id: RequestId,
        call: Option<Arc<InFlightCall>>,
        passage: BreakerPermit,
        request: Request<Full<Bytes>>,
        modern: bool,
    ) -> Self {
        let held = session.as_ref().map(Session::in_use);
        let state = State::Unsent(Some(request));
        Self {
            upstream: upstream.clone(),
            session,
            id,
            call,
            passage,
            state,
            _use: held,
            modern,
            answered: false,
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Step {
        let response = match self.upstream.send_on(request).await {
            Ok(response) => response,
            Err(why) => {
                why.tell(&mut self.passage);
                let timeout = why == NoResponse::Timeout;
                let outcome = if timeout { Outcome::Timeout } else { Outcome::UpstreamError };
                return Step::Failed(outcome, why.into());
            }
        };
        let (head, body) = response.into_parts();
        if !head.status.is_server_error() {
            self.passage.reached();
        }
        if head.status == StatusCode::ACCEPTED {
            return self.accepted();
        }
        if let Err(refusal) = headers::check_readable(&head.headers) {
            self.passage.well();
            return Step::Failed(Outcome::UpstreamError, refusal);
        }
        if is_events(&head.headers) && head.status.is_success() {
            let mut begun = Response::new(());
            headers::copy_back(&head.headers, begun.headers_mut());
            self.state = State::Streaming(self.upstream.events(body));
            return Step::Open(begun);
        }
        self.whole(head, body).await
    }

    /// The server took the request and said nothing. In a session the answer may come on the session's own stream.
    fn accepted(&mut self) -> Step {
        self.passage.well();
        if self.session.is_none() || self.modern {
            return Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid);
        }
        Step::Elsewhere(Some(StatusCode::ACCEPTED.into_response()))
    }

    /// An answer in one piece.
    async fn whole(&mut self, head: Parts, body: ResponseBody) -> Step {
        let body = match self.upstream.whole(body).await {
            Ok(body) => body,
            Err(refusal) => {
                // It began to answer: what broke off may be due to what it was asked.
                self.passage.reached();
                return Step::Failed(Outcome::UpstreamError, refusal);
            }
        };
        let body = without_mark(body);
        let reply = classify(&body, &self.id.key);
        let is_mcp = matches!(reply, ServerMessage::Answer { .. });
        if head.status.is_server_error() && !is_mcp {
            self.passage.failed();
        } else {
            self.passage.well();
        }
        let failure = |upstream: &HttpUpstream, session: Option<&Arc<Session>>| {
            let checked = upstream.check_failure(head.status, &body, session);
            checked.err().map(|refusal| Step::Failed(Outcome::UpstreamError, refusal))
        };
        let (to, answer, envelope) = match reply {
            ServerMessage::Answer {
                to: to @ (AnswerTo::Call | AnswerTo::CallRespelled | AnswerTo::Nobody),
                answer,
                envelope,
            } => (to, answer, envelope),
            // Not MCP: an error of the server's HTTP layer passes if it says anything.
            _ if head.status.is_client_error()
                && !body.trim_ascii().is_empty()
                && reply::certainly_has_no_result(&body) =>
            {
                if let Some(failed) = failure(&self.upstream, self.session.as_ref()) {
                    return failed;
                }
                return Step::Passed(self.response(&head, body.clone()));
            }
            _ => {
                let refusal =
                    match self.upstream.check_failure(head.status, &body, self.session.as_ref()) {
                        Err(refusal) => refusal,
                        Ok(()) => Refusal::UpstreamInvalid,
                    };
                return Step::Failed(Outcome::UpstreamError, refusal);
            }
        };
        if !head.status.is_success() {
            if let Some(failed) = failure(&self.upstream, self.session.as_ref()) {
                return failed;
            }
            // A client takes nothing but an error from an answer that failed.
            if answer != Answer::Error {
                return Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid);
            }
        }
        let outcome = self.outcome(answer);
        let mut begun = Response::new(());
        // Clients read no answer under another type, nor with some of the statuses of success.
        *begun.status_mut() = if head.status.is_success() { StatusCode::OK } else { head.status };
        headers::copy_back(&head.headers, begun.headers_mut());
        begun.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // An error behind a status of failure stays as it is.
        let to = if head.status.is_success() { to } else { AnswerTo::Call };
        let message = self.addressed(&to, body);
        Step::Answer { outcome, message, envelope, form: AnswerForm::Body(begun) }
    }

    fn outcome(&self, answer: Answer<'_>) -> Outcome {
        if self.modern {
            billable::outcome(answer)
        } else {
            billable::outcome_with_sessions(answer)
        }
    }

    /// An error that names no request, with the id of this one: what comes here answers nothing else.
    fn addressed(&self, to: &AnswerTo, message: Bytes) -> Bytes {
        let named = || reply::addressed(&message, &self.id.raw).map(Bytes::from);
        (*to == AnswerTo::Nobody).then(named).flatten().unwrap_or(message)
    }

    fn response(&self, head: &Parts, body: Bytes) -> Response {
        let mut response = Response::new(body.into());
        *response.status_mut() = head.status;
        headers::copy_back(&head.headers, response.headers_mut());
        response
    }

    /// The next frame of the stream.
    async fn frame(&mut self) -> Step {
        let State::Streaming(events) = &mut self.state else { return Step::End };
        let frame = match events.next_frame().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return self.broke_off(),
            Err(refusal) => {
                self.state = State::Over;
                return Step::Failed(Outcome::UpstreamError, refusal);
            }
        };
        let step = self.read_frame(frame);
        self.passage.reached();
        if matches!(step, Step::Answer { .. }) {
            self.passage.well();
        }
        step
    }

    fn read_frame(&mut self, frame: Bytes) -> Step {
        let Some(data) = sse::data(&frame).filter(|data| !data.trim_ascii().is_empty()) else {
            return Step::Frame(sse::normal(frame)); // It holds nothing.
        };
        if !sse::is_message(&frame) {
            // Clients of MCP pass over it; one that does not must not find an answer in it.
            return Step::Frame(sse::without_data(&frame).into());
        }
        match classify(&data, &self.id.key) {
            ServerMessage::Message => {
                drop(data);
                Step::Frame(sse::normal(frame))
            }
            ServerMessage::NoMessage => Step::Frame(sse::without_data(&frame).into()),
            ServerMessage::Answer { to: AnswerTo::Other(_), .. } | ServerMessage::Unclear
                if self.answered =>
            {
                Step::End
            }
            ServerMessage::Answer {
                to: AnswerTo::Call | AnswerTo::CallRespelled | AnswerTo::Nobody,
                ..
            } if self.answered => Step::Frame(sse::without_data(&frame).into()),
            ServerMessage::Answer {
                to: to @ (AnswerTo::Call | AnswerTo::CallRespelled | AnswerTo::Nobody),
                answer,
                envelope,
            } => {
                self.answered = true;
                let outcome = self.outcome(answer);
                let message = match data {
                    Cow::Borrowed(line) => frame.slice_ref(line),
                    Cow::Owned(lines) => lines.into(),
                };
                let message = self.addressed(&to, message);
                Step::Answer { outcome, message, envelope, form: AnswerForm::Frame(frame) }
            }
            ServerMessage::Answer { to: AnswerTo::Other(id), answer, .. } => {
                match self.of_another(&id, answer, &data) {
                    Ok(DeliveryDecision::Deliver) => {
                        drop(data);
                        Step::Frame(sse::normal(frame))
                    }
                    Ok(DeliveryDecision::Again | DeliveryDecision::Withhold) => {
                        self.cut("an answer to nobody")
                    }
                    Err(refusal) => Step::Failed(Outcome::UpstreamError, refusal),
                }
            }
            ServerMessage::Unclear => self.cut("a message that cannot be read"),
        }
    }

    /// An answer to another request of the session.
    fn of_another(
        &self,
        id: &IdKey,
        answer: Answer<'_>,
        data: &[u8],
    ) -> Result<DeliveryDecision, Refusal> {
        match &self.session {
            Some(session) => session.answered(id, answer, data),
            None => Ok(DeliveryDecision::Withhold),
        }
    }

    fn cut(&mut self, why: &'static str) -> Step {
        metrics::counter!("mcp_answers_withheld_total").increment(1);
        tracing::warn!(
            why,
            "Stream of the upstream cut: it may hold an answer that is not counted"
        );
        self.passage.well(); // It is there; what it says is another matter.
        self.state = State::Over;
        Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid)
    }

    /// The stream has ended.
    fn broke_off(&mut self) -> Step {
        let State::Streaming(events) = std::mem::replace(&mut self.state, State::Over) else {
            return Step::End;
        };
        let is_settled = self.call.as_ref().is_none_or(|call| call.is_settled());
        if is_settled {
            return Step::End;
        }
        if self.session.is_some() && !self.modern {
            return Step::Elsewhere(None); // The client may resume it on the session's own stream.
        }
        if !events.has_come() {
            self.passage.failed();
        }
        tracing::warn!("Stream of the upstream ended without an answer");
        Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid)
    }
}

impl Source for Exchange {
    async fn next(&mut self) -> Step {
        match &mut self.state {
            State::Unsent(request) => match request.take() {
                Some(request) => self.send(request).await,
                None => Step::End,
            },
            State::Streaming(_) => self.frame().await,
            State::Over => std::future::pending().await,
        }
    }

    fn has_reached_server(&self) -> bool {
        !matches!(self.state, State::Unsent(Some(_)))
    }

    async fn close(self, end: End) {
        if let (Some(session), Some(call)) = (&self.session, &self.call) {
            session.end(&self.id.key, call);
        }
        if end == End::Answered {
            return;
        }
        tracing::debug!(?end, "A request has no answer");
    }
}

/// Without the byte order mark that some servers put before JSON, and some clients cannot read.
pub(super) fn without_mark(body: Bytes) -> Bytes {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if body.starts_with(MARK) { body.slice(MARK.len()..) } else { body }
}
