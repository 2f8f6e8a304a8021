//! One request of a client of 2026-07-28 at a server of the old era (or a child), as the steps of its answer.
//!
//! It has a conversation with the server to itself. What the server asks in the middle becomes the answer
//! (`input_required`), and the call waits until the client comes back with what was asked for. Absent on purpose: what
//! is recorded and how it leaves (`call::Driver`).

use std::sync::Arc;

use axum::http::StatusCode;
use bytes::Bytes;
use mcp_node_core::{
    Refusal,
    message::{Message, read},
    reply::Envelope,
    splice,
};
use schemas::{KeyId, Outcome};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Era, messages,
    messages::{addressed, answer as answered, cancelled, no_such_method, params, renewed},
    parked::{PendingInput, PendingInputs, Question},
    pool::{Pool, Pooled},
};
use crate::{
    call::{AnswerForm, End, Source, Step, client::FRAMES, outcome_of},
    request::{Kind, Post},
    upstream::AnswerPiece,
    wire::RequestId,
};

/// What a server of the old era may ask in the middle of a call, and a client of the new era answers.
const QUESTIONS: [&str; 3] = ["elicitation/create", "sampling/createMessage", "roots/list"];

/// One request.
pub struct LegacyCall {
    pool: Arc<Pool>,
    lot: PendingInputs,
    era: Era,
    deadline: Instant,
    post: Post,
    /// The id that the client gave.
    id: RequestId,
    method: String,
    key: KeyId,
    /// By what name this request of the client wants to hear of its progress.
    client_token: Option<String>,
    /// The client wants to hear what the server logs.
    logs: bool,
    begun: Option<RunningRequest>,
}

/// A request that the server works on.
struct RunningRequest {
    conversation: Pooled,
    pieces: mpsc::Receiver<AnswerPiece>,
    /// Its id at the server.
    wire: RequestId,
    /// By what name the server tells of its progress: a call that goes on after a question keeps the first.
    token: Option<String>,
}

/// How a request begins.
enum StartResult {
    RunningRequest(Box<RunningRequest>),
    /// What it waits for has not come yet: the client is asked again.
    AskedAgain(Bytes),
}

impl LegacyCall {
    pub fn new(
        pool: &Arc<Pool>,
        lot: &PendingInputs,
        era: Era,
        deadline: Instant,
        post: Post,
    ) -> Option<Self> {
        let Kind::Request { id, method, .. } = post.kind.clone() else { return None };
        Some(Self {
            pool: pool.clone(),
            lot: lot.clone(),
            era,
            deadline,
            id,
            method,
            key: post.inbound.caller.state().key,
            client_token: messages::progress_token(&post.body),
            logs: wants_logs(&post.body),
            post,
            begun: None,
        })
    }

    /// Begins the request, or goes on with one that waited.
    async fn begin(&self) -> Result<StartResult, Refusal> {
        let params = messages::params(&self.post.body).unwrap_or_default();
        let state = messages::text(&params, "requestState").filter(|_| self.era == Era::Old);
        if let Some(state) = state {
            let parked = self.lot.take(&state, self.key)?;
            let responses = messages::object(&params, "inputResponses");
            let Some(answers) = parked.answers(responses.as_ref()) else {
                let request = parked.request(&state).to_string();
                self.lot.put_back(state, parked);
                return Ok(StartResult::AskedAgain(messages::answer(&self.id.raw, &request)));
            };
            for answer in answers {
                parked.conversation.link().tell(answer).await?;
            }
            let PendingInput { conversation, pieces, wire, token, .. } = parked;
            let begun = RunningRequest { conversation, pieces, wire, token };
            return Ok(StartResult::RunningRequest(Box::new(begun)));
        }
        // A session that the server has forgotten is begun anew, once: it cannot have run the request.
        for _ in 0..2 {
            if let Some(begun) = self.ask().await? {
                return Ok(StartResult::RunningRequest(Box::new(begun)));
            }
        }
        Err(Refusal::UpstreamInvalid)
    }

    /// Asks in a conversation of the pool; `None` = the server does not know it any more.
    async fn ask(&self) -> Result<Option<RunningRequest>, Refusal> {
        let Kind::Request { method, target, .. } = &self.post.kind else { return Ok(None) };
        let conversation = self.pool.conversation(&self.post, self.era).await?;
        let wire = conversation.next_id();
        let body = splice::with_id(&self.post.body, &wire.raw);
        let body = body.and_then(|body| match self.era {
            Era::Old => messages::aged(&body),
            Era::New => Some(body),
        });
        let body = body.ok_or(messages::TWICE)?;
        let new = (self.era == Era::New).then_some((method.as_str(), target.as_deref()));
        let link = conversation.link().within(&self.post.traced);
        let mut pieces = link.ask(&wire, body.into(), new, self.deadline).await?;
        // The first piece says whether the session is there.
        match pieces.recv().await {
            Some(AnswerPiece::Refused(Refusal::SessionNotFound)) => Ok(None),
            Some(first) => {
                let token = self.client_token.clone();
                Ok(Some(RunningRequest {
                    pieces: before(first, pieces),
                    conversation,
                    wire,
                    token,
                }))
            }
            None => Err(Refusal::UpstreamUnreachable),
        }
    }

    /// Answers what a server asks of any client.
    async fn reply(&self, id: &str, method: &str) {
        let said = match method {
            "ping" => answered(id, "{}"),
            _ => no_such_method(id).into(),
        };
        if let Some(begun) = &self.begun {
            drop(begun.conversation.link().tell(said).await); // If it is gone, its pieces say so.
        }
    }

    /// What becomes of a message of the server; `None` = it is not the client's business.
    async fn take_message(&mut self, line: Bytes) -> Option<Step> {
        match read(&line) {
            Ok(Message::Request { id, method, .. }) if self.era_of_server() == Era::Old => {
                let (id, method) = (id.raw.to_owned(), method.into_owned());
                if QUESTIONS.contains(&method.as_str()) {
                    return Some(self.park(id, method, &line));
                }
                self.reply(&id, &method).await;
                None
            }
            Ok(Message::Notification { method, .. })
                if self.logs || method != "notifications/message" =>
            {
                let progress = method == "notifications/progress";
                let line = if progress { self.renamed(line) } else { Some(line) };
                line.map(Step::Message)
            }
            _ => None, // In the new era servers ask nothing.
        }
    }

    fn era_of_server(&self) -> Era {
        self.begun.as_ref().map_or(self.era, |begun| begun.conversation.era())
    }

    /// A notice of progress by the name that the client knows; `None` = it did not ask for any.
    fn renamed(&self, line: Bytes) -> Option<Bytes> {
        let token = self.client_token.as_deref()?;
        if self.begun.as_ref().and_then(|begun| begun.token.as_deref()) == Some(token) {
            return Some(line);
        }
        splice::with_token(&line, token).map(Bytes::from)
    }

    /// The server asks something: the client gets the question as a result, and the call waits.
    fn park(&mut self, id: String, method: String, line: &Bytes) -> Step {
        let Some(RunningRequest { conversation, pieces, wire, token }) = self.begun.take() else {
            return Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid);
        };
        let params = params(line).and_then(|params| serde_json::to_string(&params).ok());
        let question = Question { id, method, params: params.unwrap_or_else(|| "{}".to_owned()) };
        let (key, questions) = (self.key, vec![question]);
        let parked = PendingInput { key, conversation, pieces, wire, token, questions };
        let mut request = parked.request("");
        match self.lot.park(parked) {
            Ok(state) => {
                request["requestState"] = state.into();
                let told = answered(&self.id.raw, &request.to_string());
                self.asks_for_input(line.clone(), told)
            }
            Err(refusal) => Step::Failed(Outcome::UpstreamError, refusal),
        }
    }

    fn asks_for_input(&self, message: Bytes, told: Bytes) -> Step {
        let form = AnswerForm::Message(StatusCode::OK, told);
        Step::Answer {
            outcome: Outcome::InputRequired,
            message,
            envelope: Envelope::Unchecked,
            form,
        }
    }

    /// The server has answered.
    fn answer(&self, message: Bytes, outcome: Outcome) -> Step {
        let is_old = self.era_of_server() == Era::Old;
        if is_old && outcome == Outcome::TaskCreated {
            // A client of the new era would take it for a result: it is none, and nothing is counted for it.
            return Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid);
        }
        let Some(mut told) = addressed(&message, &self.id.raw) else {
            return Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid);
        };
        if is_old {
            told = renewed(told, &self.method);
        }
        let status = match splice::code(&told) {
            Some(-32601) => StatusCode::NOT_FOUND,
            Some(-32022..=-32020) => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        };
        Step::Answer {
            outcome,
            message,
            envelope: Envelope::Unchecked,
            form: AnswerForm::Message(status, told),
        }
    }
}

impl Source for LegacyCall {
    async fn next(&mut self) -> Step {
        if self.begun.is_none() {
            match self.begin().await {
                Ok(StartResult::RunningRequest(begun)) => self.begun = Some(*begun),
                Ok(StartResult::AskedAgain(told)) => {
                    return self.asks_for_input(told.clone(), told);
                }
                Err(refusal) => return Step::Failed(outcome_of(&refusal), refusal),
            }
        }
        loop {
            let Some(begun) = &mut self.begun else { return Step::End };
            match begun.pieces.recv().await {
                Some(AnswerPiece::Message(line)) => {
                    if let Some(step) = self.take_message(line).await {
                        return step;
                    }
                }
                Some(AnswerPiece::Answer(line, outcome)) => return self.answer(line, outcome),
                Some(AnswerPiece::Refused(refusal)) => {
                    return Step::Failed(outcome_of(&refusal), refusal);
                }
                None => return Step::Failed(Outcome::UpstreamError, Refusal::UpstreamUnreachable),
            }
        }
    }

    fn has_reached_server(&self) -> bool {
        true
    }

    /// The conversation is used again only behind an answer: without one the answer may still come.
    async fn close(self, end: End) {
        let Some(begun) = self.begun else { return };
        match end {
            End::Answered => begun.conversation.give_back(),
            End::Failed(Refusal::UpstreamUnreachable) => {}
            _ => drop(begun.conversation.link().tell(cancelled(&begun.wire.raw)).await), // It may be gone.
        }
    }
}

/// The pieces, with one before them.
fn before(
    first: AnswerPiece,
    mut rest: mpsc::Receiver<AnswerPiece>,
) -> mpsc::Receiver<AnswerPiece> {
    let (to, pieces) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(piece) = next {
            if to.send(piece).await.is_err() {
                return;
            }
            next = tokio::select! {
                piece = rest.recv() => piece,
                () = to.closed() => return,
            };
        }
    });
    pieces
}

fn wants_logs(body: &[u8]) -> bool {
    let params = messages::params(body);
    let meta = params.as_ref().and_then(|params| messages::object(params, "_meta"));
    meta.is_some_and(|meta| meta.contains_key(messages::META_LOG_LEVEL))
}
