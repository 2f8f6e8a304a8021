//! One request of a client of the old era, through as many rounds as the server needs.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use bytes::Bytes;
use mcp_node_core::{
    Refusal, billable,
    message::{Answer, Message, read},
    metering::ResultAt,
    splice,
};
use schemas::Outcome;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        link::Link,
        messages::{self, addressed, cancelled},
    },
    session::Session,
};
use crate::{
    clock,
    http::{RequestId, answer},
    meter::Permit,
    upstream::{Piece, Tasks, client::Client},
};

/// No call needs more rounds than this; a server that asks for ever must not hold one for ever.
const MOST: usize = 32;

/// One running request.
pub struct Rounds {
    pub session: Arc<Session>,
    /// The session's way to the server, for this caller.
    pub link: Link,
    pub body: Bytes,
    pub id: RequestId,
    pub method: String,
    pub target: Option<String>,
    pub permit: Option<Permit>,
    pub tasks: Arc<Tasks>,
    pub client: Client,
    pub streaming: bool,
    /// The client does not want the answer any more.
    pub cancelled: CancellationToken,
    pub deadline: Instant,
}

/// Why a request has no answer.
enum Stop {
    Cancelled,
    Refused(Refusal),
    /// The client refused what the server asked: its error.
    Declined(Value),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Rounds {
    /// Follows it to its end.
    pub async fn run(mut self) {
        let session = self.session.clone();
        let ended = self.rounds().await;
        let key = self.id.key.clone();
        match ended {
            Ok(line) => self.answer(line).await,
            Err(stop) => self.fail(stop).await,
        }
        session.end(&key);
    }

    async fn rounds(&mut self) -> Result<Bytes, Stop> {
        let mut more = String::new();
        for _ in 0..MOST {
            let line = self.round(&more).await?;
            match needs(&line) {
                Some((requests, state)) => {
                    let responses = self.ask_client(requests).await?;
                    more = format!(r#""inputResponses":{responses}"#);
                    if let Some(state) = state {
                        more += &format!(r#","requestState":{state}"#);
                    }
                }
                None => return Ok(line),
            }
        }
        Err(Refusal::UpstreamInvalid.into())
    }

    /// Asks the server once, with more params than the client gave.
    async fn round(&mut self, more: &str) -> Result<Bytes, Stop> {
        let wire = self.session.next_id();
        let twice =
            Refusal::InvalidRequest("A member that decides what is done stands more than once.");
        let body = splice::with_meta(&self.body, &self.session.meta());
        let body = body.and_then(|body| splice::with_id(&body, &wire.raw));
        let body = match (body, more) {
            (Some(body), "") => Some(body),
            (Some(body), more) => splice::with_params(&body, more),
            (None, _) => None,
        };
        let body = body.ok_or(twice)?;
        let new = Some((self.method.as_str(), self.target.as_deref()));
        let mut pieces = self.link.ask(&wire, body.into(), new, self.deadline).await?;
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                () = self.cancelled.cancelled() => {
                    self.tell_cancelled(&wire).await;
                    return Err(Stop::Cancelled);
                }
                () = sleep_until(self.deadline) => {
                    self.tell_cancelled(&wire).await;
                    return Err(Refusal::UpstreamTimeout.into());
                }
            };
            match piece {
                Some(Piece::Message(line)) => self.forward(&line).await,
                Some(Piece::Answer(line, _)) => return Ok(line),
                Some(Piece::Refused(refusal)) => return Err(refusal.into()),
                None => return Err(Refusal::UpstreamUnreachable.into()),
            }
        }
    }

    /// Over HTTP going away says it; a child must be told.
    async fn tell_cancelled(&self, wire: &RequestId) {
        if let Link::Duplex(session) = &self.link {
            drop(session.write(cancelled(&wire.raw).as_bytes()).await); // It may be gone.
        }
    }

    async fn forward(&mut self, line: &[u8]) {
        if !self.streaming {
            self.streaming = true;
            let (head, _) = answer::events(Body::empty()).into_parts();
            self.client.begin(Response::from_parts(head, ()));
        }
        self.client.send(answer::event(line).into()).await;
    }

    /// Asks the client all that the server needs, and returns its answers by the server's names.
    async fn ask_client(
        &mut self,
        requests: serde_json::Map<String, Value>,
    ) -> Result<Value, Stop> {
        let mut waiting = vec![];
        for (name, request) in requests {
            let id = self.session.next_id();
            let answer = self.session.expect(&id);
            let params =
                if request["params"].is_null() { json!({}) } else { request["params"].clone() };
            let ask = format!(
                r#"{{"jsonrpc":"2.0","id":{},"method":{},"params":{params}}}"#,
                id.raw, request["method"]
            );
            self.forward(ask.as_bytes()).await;
            waiting.push((name, id, answer));
        }
        let mut responses = serde_json::Map::new();
        let session = self.session.clone();
        for (name, id, answer) in waiting {
            let heard = tokio::select! {
                heard = answer => heard.map_err(|_| Stop::Cancelled),
                () = self.cancelled.cancelled() => Err(Stop::Cancelled),
                () = sleep_until(self.deadline) => Err(Refusal::UpstreamTimeout.into()),
            };
            session.forget(&id);
            let mut heard: Value =
                serde_json::from_slice(&heard?).map_err(|_| Refusal::UpstreamInvalid)?;
            if heard["result"].is_null() {
                return Err(Stop::Declined(heard["error"].take()));
            }
            responses.insert(name, heard["result"].take());
        }
        Ok(Value::Object(responses))
    }

    /// The server's last word: recorded first, told then.
    async fn answer(mut self, line: Bytes) {
        let outcome = match read(&line) {
            Ok(Message::Answer { answer, .. }) => billable::outcome(answer),
            _ => Outcome::UpstreamError,
        };
        if let Err(refusal) = self.settle(outcome, &line) {
            return self.refuse(&refusal).await;
        }
        match addressed(&line, &self.id.raw) {
            Some(told) => {
                let told = self.client.told.in_answer(told);
                self.say(told).await;
            }
            None => self.refuse(&Refusal::UpstreamInvalid).await,
        }
    }

    fn settle(&mut self, outcome: Outcome, line: &[u8]) -> Result<(), Refusal> {
        let Some(permit) = self.permit.take() else { return Ok(()) };
        if outcome == Outcome::TaskCreated {
            self.tasks.made(permit.key(), permit.tool(), line);
        }
        permit.settle_by(outcome, line, ResultAt::Answer).map_err(|_| Refusal::CannotRecord)
    }

    async fn fail(mut self, stop: Stop) {
        let outcome = match &stop {
            Stop::Cancelled => Outcome::Cancelled,
            Stop::Refused(Refusal::UpstreamTimeout) => Outcome::Timeout,
            Stop::Refused(_) => Outcome::UpstreamError,
            Stop::Declined(_) => Outcome::ProtocolError,
        };
        if let Err(refusal) = self.settle(outcome, &[]) {
            return self.refuse(&refusal).await;
        }
        match stop {
            Stop::Cancelled => self.refuse(&Refusal::UpstreamUnreachable).await, // Nobody listens.
            Stop::Refused(refusal) => self.refuse(&refusal).await,
            Stop::Declined(error) => {
                let told = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, self.id.raw);
                self.say(told.into()).await;
            }
        }
    }

    async fn refuse(&mut self, refusal: &Refusal) {
        if self.streaming {
            let error = answer::error(refusal, Some(&self.id.raw), clock::wall());
            self.client.send(answer::event(&error).into()).await;
            self.client.end();
        } else {
            self.client.respond(answer::refuse(refusal, Some(&self.id.raw)));
        }
    }

    async fn say(&mut self, message: Bytes) {
        if self.streaming {
            self.client.send(answer::event(&message).into()).await;
            self.client.end();
        } else {
            // Whatever the status that it came with: to older clients 404 means that their session is gone.
            self.client.respond(answer::json(StatusCode::OK, message));
        }
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
