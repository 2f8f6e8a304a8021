//! Messages of a session as events of an HTTP answer, and as the steps of a request.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    http::{StatusCode, header::ACCEPT},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use mcp_node_core::{
    Refusal, billable,
    message::{Message, read},
    reply::Envelope,
};
use schemas::Outcome;

use super::Session;
use crate::{
    call::{AnswerForm, End, Source, Step, outcome_of},
    clock,
    request::Inbound,
    upstream::AnswerPiece,
    wire::{RequestId, answer},
};

/// What comes over a channel for one request, as the steps of its answer.
pub struct ChannelAnswer {
    session: Arc<Session>,
    id: RequestId,
    pieces: mpsc::Receiver<AnswerPiece>,
}

impl ChannelAnswer {
    pub fn new(
        session: &Arc<Session>,
        id: &RequestId,
        pieces: mpsc::Receiver<AnswerPiece>,
    ) -> Self {
        Self { session: session.clone(), id: id.clone(), pieces }
    }
}

impl Source for ChannelAnswer {
    async fn next(&mut self) -> Step {
        match self.pieces.recv().await {
            Some(AnswerPiece::Message(message)) => Step::Message(message),
            Some(AnswerPiece::Answer(message, outcome)) => {
                // Clients of these sessions know no `resultType`.
                let outcome = match read(&message) {
                    Ok(Message::Answer { answer, .. }) => billable::outcome_with_sessions(answer),
                    _ => outcome,
                };
                let form = AnswerForm::Message(StatusCode::OK, message.clone());
                Step::Answer { outcome, message, envelope: Envelope::Unchecked, form }
            }
            Some(AnswerPiece::Refused(refusal)) => Step::Failed(outcome_of(&refusal), refusal),
            None => Step::Failed(Outcome::UpstreamError, Refusal::UpstreamUnreachable),
        }
    }

    fn has_reached_server(&self) -> bool {
        true
    }

    async fn close(self, end: End) {
        self.session.give_up(&self.id.key, end == End::TimedOut);
    }
}

/// A session's own stream: what has waited for it, then what comes, until `end`.
pub fn own_stream(
    waited: Vec<Bytes>,
    messages: mpsc::Receiver<Bytes>,
    end: CancellationToken,
) -> Response {
    let next = |mut messages: mpsc::Receiver<Bytes>| async {
        let message = messages.recv().await?;
        Some((message, messages))
    };
    let frames = stream::iter(waited).chain(stream::unfold(messages, next));
    let frames = frames
        .take_until(end.cancelled_owned())
        .map(|message| Ok::<_, Infallible>(Bytes::from(answer::event(&message))));
    answer::events(Body::from_stream(frames))
}

/// The pieces of the answer to `initialize`: JSON if the answer comes first, else a stream. Also says whether the request
/// was (or may yet be) answered with a result.
pub async fn answered(id: &RequestId, mut pieces: mpsc::Receiver<AnswerPiece>) -> (Response, bool) {
    let first = match pieces.recv().await {
        Some(AnswerPiece::Answer(line, outcome)) => {
            let response = answer::json(StatusCode::OK, line);
            return (response, outcome != Outcome::ProtocolError);
        }
        Some(AnswerPiece::Refused(refusal)) => {
            return (answer::refuse(&refusal, Some(&id.raw)), false);
        }
        None => return (answer::refuse(&Refusal::UpstreamUnreachable, Some(&id.raw)), false),
        Some(first) => first,
    };
    let raw_id = id.raw.clone();
    let rest = stream::unfold(Some(pieces), |pieces| async {
        let mut pieces = pieces?;
        let piece = pieces.recv().await?;
        let more = matches!(piece, AnswerPiece::Message(_));
        Some((piece, more.then_some(pieces)))
    });
    let pieces = stream::once(async { first }).chain(rest);
    let frames = pieces.map(move |piece| Ok::<_, Infallible>(frame(piece, &raw_id)));
    (answer::events(Body::from_stream(frames)), true)
}

fn frame(piece: AnswerPiece, raw_id: &str) -> Bytes {
    match piece {
        AnswerPiece::Message(line) | AnswerPiece::Answer(line, _) => answer::event(&line).into(),
        AnswerPiece::Refused(refusal) => {
            answer::event(&answer::error(&refusal, Some(raw_id), clock::wall())).into()
        }
    }
}

/// Whether the client can take a stream for an answer.
pub fn takes_events(inbound: &Inbound) -> bool {
    let accepts = inbound.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream")
    })
}
