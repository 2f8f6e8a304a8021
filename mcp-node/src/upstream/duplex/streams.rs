//! Messages of a session as events of an HTTP answer.

use std::convert::Infallible;

use axum::{
    body::Body,
    http::{StatusCode, header::ACCEPT},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use mcp_node_core::Refusal;

use crate::{
    clock,
    http::{Inbound, RequestId, answer},
    upstream::{Piece, told::Told},
};

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

/// The pieces of an answer: JSON if the answer comes first, else a stream. Also says whether the request was (or may
/// yet be) answered with a result.
pub async fn answered(
    id: &RequestId,
    mut pieces: mpsc::Receiver<Piece>,
    told: Told,
) -> (Response, bool) {
    let first = match pieces.recv().await {
        Some(Piece::Answer(line, error)) => {
            let mut response = answer::json(StatusCode::OK, told.in_answer(line));
            told.put(response.headers_mut());
            return (response, !error);
        }
        Some(Piece::Refused(refusal)) => return (answer::refuse(&refusal, Some(&id.raw)), false),
        None => return (answer::refuse(&Refusal::UpstreamUnreachable, Some(&id.raw)), false),
        Some(first) => first,
    };
    let raw_id = id.raw.clone();
    let rest = stream::unfold(Some(pieces), |pieces| async {
        let mut pieces = pieces?;
        let piece = pieces.recv().await?;
        let more = matches!(piece, Piece::Message(_));
        Some((piece, more.then_some(pieces)))
    });
    let pieces = stream::once(async { first }).chain(rest);
    let mut headers = axum::http::HeaderMap::new();
    told.put(&mut headers);
    let frames = pieces.map(move |piece| Ok::<_, Infallible>(frame(piece, &raw_id, &told)));
    let mut response = answer::events(Body::from_stream(frames));
    response.headers_mut().extend(headers);
    (response, true)
}

fn frame(piece: Piece, raw_id: &str, told: &Told) -> Bytes {
    match piece {
        Piece::Message(line) => answer::event(&line).into(),
        Piece::Answer(line, _) => answer::event(&told.in_answer(line)).into(),
        Piece::Refused(refusal) => {
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
