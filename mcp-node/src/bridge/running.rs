//! One request of a client of 2026-07-28 while the server works on it: what comes goes to the client, once recorded.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use bytes::Bytes;
use mcp_node_core::{
    Refusal, billable,
    message::{Message, read},
    metering::ResultAt,
    splice,
};
use schemas::{KeyId, Outcome};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Era,
    messages::{addressed, answer as answered, cancelled, no_such_method, params, renewed},
    parked::{Lot, Parked, Question},
    pool::Pooled,
};
use crate::{
    clock,
    http::{RequestId, answer},
    meter::Permit,
    upstream::{Asked, Piece, Tasks, client::Client},
};

/// What a server of the old era may ask in the middle of a call, and a client of the new era answers.
const QUESTIONS: [&str; 3] = ["elicitation/create", "sampling/createMessage", "roots/list"];

/// One running request.
pub struct Running {
    pub conversation: Pooled,
    pub pieces: mpsc::Receiver<Piece>,
    /// Its id at the server, and the one that the client gave.
    pub wire: RequestId,
    pub id: RequestId,
    /// By what names the server and this request of the client tell of its progress: a call that goes on after a
    /// question keeps the first at the server, and gets another from the client.
    pub token: Option<String>,
    pub client_token: Option<String>,
    pub key: KeyId,
    pub method: String,
    pub permit: Option<Permit>,
    pub asked: Option<Asked>,
    pub tasks: Arc<Tasks>,
    pub lot: Lot,
    pub client: Client,
    /// The client wants to hear what the server logs.
    pub logs: bool,
    pub streaming: bool,
    pub deadline: Instant,
}

impl Running {
    /// Follows it to its end.
    pub async fn run(mut self) {
        loop {
            let piece = tokio::select! {
                piece = self.pieces.recv() => piece,
                () = self.client.gone() => return self.end(Outcome::Cancelled, None).await,
                () = sleep_until(self.deadline) => {
                    return self.end(Outcome::Timeout, Some(Refusal::UpstreamTimeout)).await;
                }
            };
            let line = match piece {
                Some(Piece::Message(line)) => line,
                Some(Piece::Answer(line, _)) => return self.answer(line).await,
                Some(Piece::Refused(refusal)) => return self.give_up(refusal).await,
                None => return self.give_up(Refusal::UpstreamUnreachable).await,
            };
            match read(&line) {
                Ok(Message::Request { id, method, .. }) if self.conversation.era() == Era::Old => {
                    let (id, method) = (id.raw.to_owned(), method.into_owned());
                    if QUESTIONS.contains(&method.as_str()) {
                        return self.park(id, method, &line).await;
                    }
                    self.reply(&id, &method).await;
                }
                Ok(Message::Notification { method, .. })
                    if self.logs || method != "notifications/message" =>
                {
                    let progress = method == "notifications/progress";
                    if let Some(line) = if progress { self.renamed(line) } else { Some(line) } {
                        self.forward(line).await;
                    }
                }
                _ => {} // In the new era servers ask nothing.
            }
        }
    }

    /// Answers what a server asks of any client.
    async fn reply(&self, id: &str, method: &str) {
        let said = match method {
            "ping" => answered(id, "{}"),
            _ => no_such_method(id).into(),
        };
        drop(self.conversation.link().tell(said).await); // If it is gone, its pieces say so.
    }

    /// A notice of progress by the name that the client knows; `None` = it did not ask for any.
    fn renamed(&self, line: Bytes) -> Option<Bytes> {
        let token = self.client_token.as_deref()?;
        if self.token.as_deref() == Some(token) {
            return Some(line);
        }
        splice::with_token(&line, token).map(Bytes::from)
    }

    async fn forward(&mut self, line: Bytes) {
        if !self.streaming {
            self.streaming = true;
            let (head, _) = answer::events(Body::empty()).into_parts();
            self.client.begin(Response::from_parts(head, ()));
        }
        self.client.send(answer::event(&line).into()).await;
    }

    /// The server asks something: the client gets the question as a result, and the call waits.
    async fn park(mut self, id: String, method: String, line: &Bytes) {
        if let Some(permit) = self.permit.take()
            && permit.settle(Outcome::InputRequired, line.len() as u64).is_err()
        {
            return self.end(Outcome::InputRequired, Some(Refusal::CannotRecord)).await;
        }
        let params = params(line).and_then(|params| serde_json::to_string(&params).ok());
        let question = Question { id, method, params: params.unwrap_or_else(|| "{}".to_owned()) };
        let Self { conversation, pieces, wire, token, id, key, lot, mut client, streaming, .. } =
            self;
        let parked = Parked { key, conversation, pieces, wire, token, questions: vec![question] };
        let request = parked.request("");
        match lot.park(parked) {
            Ok(state) => {
                let mut request = request;
                request["requestState"] = state.into();
                say(
                    &mut client,
                    streaming,
                    StatusCode::OK,
                    answered(&id.raw, &request.to_string()),
                )
                .await;
            }
            Err(refusal) => client.respond(answer::refuse(&refusal, Some(&id.raw))),
        }
    }

    /// The server has answered: recorded first, told then.
    async fn answer(mut self, line: Bytes) {
        let recorded = match read(&line) {
            Ok(Message::Answer { answer, .. }) => {
                self.record(billable::outcome(answer), &line).await
            }
            _ => Err(Refusal::UpstreamInvalid),
        };
        let told =
            recorded.and_then(|()| addressed(&line, &self.id.raw).ok_or(Refusal::UpstreamInvalid));
        let mut told = match told {
            Ok(told) => told,
            Err(refusal) => return self.end(Outcome::UpstreamError, Some(refusal)).await,
        };
        if self.conversation.era() == Era::Old {
            told = renewed(told, &self.method);
        }
        let status = match splice::code(&told) {
            Some(-32601) => StatusCode::NOT_FOUND,
            Some(-32022..=-32020) => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        };
        let Self { conversation, mut client, streaming, .. } = self;
        conversation.give_back();
        let told = client.told.in_answer(told);
        say(&mut client, streaming, status, told).await;
    }

    async fn record(&mut self, outcome: Outcome, line: &Bytes) -> Result<(), Refusal> {
        if let Some(asked) = &self.asked {
            return asked.count(line).await;
        }
        let Some(permit) = self.permit.take() else { return Ok(()) };
        if self.client.is_gone() {
            return permit.settle(Outcome::Cancelled, 0).map_err(|_| Refusal::CannotRecord);
        }
        if outcome == Outcome::TaskCreated {
            self.tasks.made(permit.key(), permit.tool(), line);
        }
        permit.settle_by(outcome, line, ResultAt::Answer).map_err(|_| Refusal::CannotRecord)
    }

    async fn give_up(self, refusal: Refusal) {
        let outcome = match refusal {
            Refusal::UpstreamTimeout => Outcome::Timeout,
            _ => Outcome::UpstreamError,
        };
        self.end(outcome, Some(refusal)).await;
    }

    /// It has no answer: recorded, told to the client, and to the server, which may still work on it. The conversation
    /// is not used again, since the answer may still come.
    async fn end(mut self, outcome: Outcome, refusal: Option<Refusal>) {
        let settled = self.permit.take().map(|permit| permit.settle(outcome, 0));
        let refusal =
            if let Some(Err(_)) = settled { Some(Refusal::CannotRecord) } else { refusal };
        if let Some(refusal) = &refusal {
            if self.streaming {
                let error = answer::error(refusal, Some(&self.id.raw), clock::wall());
                self.client.send(answer::event(&error).into()).await;
            } else {
                self.client.respond(answer::refuse(refusal, Some(&self.id.raw)));
            }
        }
        self.client.end();
        if !matches!(refusal, Some(Refusal::UpstreamUnreachable)) {
            drop(self.conversation.link().tell(cancelled(&self.wire.raw)).await); // It may be gone already.
        }
    }
}

/// The last word to a client.
async fn say(client: &mut Client, streaming: bool, status: StatusCode, message: Bytes) {
    if streaming {
        client.send(answer::event(&message).into()).await;
        client.end();
    } else {
        client.respond(answer::json(status, message));
    }
}
