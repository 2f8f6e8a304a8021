//! One request of a client of the old era at a server of 2026-07-28, through as many rounds as the server needs.
//!
//! What the server needs before it can answer (`input_required`) is asked of the client in the middle of its call. All
//! rounds are one call. Absent on purpose: what is recorded and how it leaves (`call::Driver`).

use std::{collections::VecDeque, sync::Arc};

use axum::http::StatusCode;
use bytes::Bytes;
use mcp_node_core::{
    Refusal, billable,
    message::{Answer, Message, read},
    reply::Envelope,
    splice,
};
use schemas::Outcome;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    super::{
        link::Link,
        messages::{self, addressed},
    },
    session::Session,
};
use crate::{
    call::{AnswerForm, End, Source, Step, outcome_of},
    upstream::AnswerPiece,
    wire::RequestId,
};

/// No call needs more rounds than this; a server that asks for ever must not hold one for ever.
const MAX_ROUNDS: u32 = 32;

/// One request.
pub struct ModernCall {
    pub session: Arc<Session>,
    /// The session's way to the server, for this caller.
    pub link: Link,
    pub body: Bytes,
    pub id: RequestId,
    pub method: String,
    pub target: Option<String>,
    pub deadline: Instant,
    state: State,
    rounds: u32,
}

enum State {
    /// The server is to be asked, with more params than the client gave.
    Round(String),
    /// The server works on it, under this id.
    Asked(RequestId, mpsc::Receiver<AnswerPiece>),
    /// The client is asked what the server needs.
    Questions(Questions),
    Over,
}

/// What the client is asked for one round.
struct Questions {
    unsent: VecDeque<Bytes>,
    /// By the server's names.
    waiting: VecDeque<(String, RequestId, oneshot::Receiver<Bytes>)>,
    answers: serde_json::Map<String, Value>,
    /// What the server wants to get back with the answers, as it was written.
    state: Option<String>,
}

impl ModernCall {
    pub fn new(
        session: Arc<Session>,
        link: Link,
        body: Bytes,
        id: RequestId,
        (method, target): (String, Option<String>),
        deadline: Instant,
    ) -> Self {
        let state = State::Round(String::new());
        Self { session, link, body, id, method, target, deadline, state, rounds: 0 }
    }

    /// Asks the server once, with more params than the client gave.
    async fn ask(&mut self, more: &str) -> Result<State, Refusal> {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Err(Refusal::UpstreamInvalid);
        }
        let wire = self.session.next_id();
        let body = splice::with_meta(&self.body, &self.session.meta());
        let body = body.and_then(|body| splice::with_id(&body, &wire.raw));
        let body = match (body, more) {
            (Some(body), "") => Some(body),
            (Some(body), more) => splice::with_params(&body, more),
            (None, _) => None,
        };
        let body = body.ok_or(messages::TWICE)?;
        let new = Some((self.method.as_str(), self.target.as_deref()));
        let pieces = self.link.ask(&wire, body.into(), new, self.deadline).await?;
        Ok(State::Asked(wire, pieces))
    }

    /// The server's answer: its last word, or what it needs first (`None`).
    fn take_answer(&mut self, message: Bytes, outcome: Outcome) -> Option<Step> {
        if let Some((requests, state)) = needs(&message) {
            self.state = State::Questions(self.questions(requests, state));
            return None;
        }
        self.state = State::Over;
        if outcome == Outcome::TaskCreated {
            // A client of the old era would take it for a result: it is none, and nothing is counted for it.
            return Some(Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid));
        }
        Some(match addressed(&message, &self.id.raw) {
            // Whatever the status that it came with: to older clients 404 means that their session is gone.
            Some(told) => {
                let form = AnswerForm::Message(StatusCode::OK, told);
                Step::Answer { outcome, message, envelope: Envelope::Unchecked, form }
            }
            None => Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid),
        })
    }

    fn questions(
        &self,
        requests: serde_json::Map<String, Value>,
        state: Option<String>,
    ) -> Questions {
        let (mut unsent, mut waiting) = (VecDeque::new(), VecDeque::new());
        for (name, request) in requests {
            let id = self.session.next_id();
            let answer = self.session.expect(&id);
            let params =
                if request["params"].is_null() { json!({}) } else { request["params"].clone() };
            let ask = format!(
                r#"{{"jsonrpc":"2.0","id":{},"method":{},"params":{params}}}"#,
                id.raw, request["method"]
            );
            unsent.push_back(ask.into());
            waiting.push_back((name, id, answer));
        }
        Questions { unsent, waiting, answers: serde_json::Map::new(), state }
    }

    /// The next question to the client, or the end of the round: `None` = the server is asked again.
    async fn ask_client(&mut self) -> Option<Step> {
        let State::Questions(questions) = &mut self.state else { return Some(Step::End) };
        if let Some(question) = questions.unsent.pop_front() {
            return Some(Step::Message(question));
        }
        while let Some((name, id, answer)) = questions.waiting.front_mut() {
            let heard = answer.await;
            self.session.forget(id);
            let name = std::mem::take(name);
            questions.waiting.pop_front();
            let Ok(heard) = heard else {
                // The session has ended.
                return Some(Step::Failed(Outcome::Cancelled, Refusal::UpstreamUnreachable));
            };
            let Ok(mut heard) = serde_json::from_slice::<Value>(&heard) else {
                return Some(Step::Failed(Outcome::UpstreamError, Refusal::UpstreamInvalid));
            };
            if heard["result"].is_null() {
                let error = heard["error"].take();
                let told = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, self.id.raw);
                return Some(Step::Declined(told.into()));
            }
            questions.answers.insert(name, heard["result"].take());
        }
        let answers = Value::Object(std::mem::take(&mut questions.answers));
        let mut more = format!(r#""inputResponses":{answers}"#);
        if let Some(state) = &questions.state {
            more += &format!(r#","requestState":{state}"#);
        }
        self.state = State::Round(more);
        None
    }
}

impl Source for ModernCall {
    async fn next(&mut self) -> Step {
        loop {
            match &mut self.state {
                State::Round(more) => {
                    let more = std::mem::take(more);
                    match self.ask(&more).await {
                        Ok(asked) => self.state = asked,
                        Err(refusal) => return Step::Failed(outcome_of(&refusal), refusal),
                    }
                }
                State::Asked(_, pieces) => match pieces.recv().await {
                    Some(AnswerPiece::Message(line)) => return Step::Message(line),
                    Some(AnswerPiece::Answer(line, outcome)) => {
                        if let Some(step) = self.take_answer(line, outcome) {
                            return step;
                        }
                    }
                    Some(AnswerPiece::Refused(refusal)) => {
                        return Step::Failed(outcome_of(&refusal), refusal);
                    }
                    None => {
                        let refusal = Refusal::UpstreamUnreachable;
                        return Step::Failed(Outcome::UpstreamError, refusal);
                    }
                },
                State::Questions(_) => {
                    if let Some(step) = self.ask_client().await {
                        return step;
                    }
                }
                State::Over => return Step::End,
            }
        }
    }

    fn has_reached_server(&self) -> bool {
        true
    }

    async fn close(self, end: End) {
        match &self.state {
            // Over HTTP going away says it; over a channel the server must be told.
            State::Asked(wire, _) if matches!(end, End::Cancelled | End::TimedOut) => {
                if let Link::Duplex(session) = &self.link {
                    session.give_up(&wire.key, true);
                }
            }
            State::Questions(questions) => {
                questions.waiting.iter().for_each(|(_, id, _)| self.session.forget(id));
            }
            _ => {}
        }
        self.session.end(&self.id.key);
    }
}

/// What the server needs before it can answer, and what it wants to get back with it, as it was written.
fn needs(line: &[u8]) -> Option<(serde_json::Map<String, Value>, Option<String>)> {
    let Ok(Message::Answer { answer, .. }) = read(line) else { return None };
    if !matches!(answer, Answer::Result { .. })
        || billable::outcome(answer) != Outcome::InputRequired
    {
        return None;
    }
    let result = messages::result(line)?;
    let requests = result.get("inputRequests").map(|raw| serde_json::from_str(raw.get()));
    let state = result.get("requestState").map(|raw| raw.get().to_owned());
    Some((requests.transpose().ok()?.unwrap_or_default(), state))
}
