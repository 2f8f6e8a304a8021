//! One request at a time to a server over Streamable HTTP, in a session or without: what the bridge speaks through.

use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use mcp_node_core::{
    Refusal, billable,
    message::{IdKey, Message, read},
    reply::{AnswerTo, ServerMessage, classify},
    sse,
};
use schemas::KeyId;
use tokio::sync::mpsc;

use super::{HttpUpstream, ResponseBody, exchange::without_mark, headers};
use crate::{
    access::Grant,
    call::client::FRAMES,
    traces::RequestTrace,
    upstream::AnswerPiece,
    wire::{
        SESSION, VERSION,
        frames::{Frames, is_events},
    },
};

/// A way to the server.
#[derive(Clone)]
pub struct HttpLink {
    upstream: HttpUpstream,
    /// What is said with every request: the revision, and the session if there is one.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For whom it is used; `None` = the node itself.
    grant: Option<Grant>,
    /// For which request of a client.
    traced: RequestTrace,
}

impl HttpLink {
    /// Without a session yet, in a revision.
    pub fn new(upstream: &HttpUpstream, version: &str, grant: Option<&Grant>) -> Self {
        let version = HeaderValue::from_str(version).ok();
        let headers = version.map(|version| (HeaderName::from_static(VERSION), version));
        let headers = headers.into_iter().collect();
        let traced = RequestTrace::default();
        Self { upstream: upstream.clone(), headers, grant: grant.cloned(), traced }
    }

    /// Begins a session by an `initialize`, and returns the way within it and the answer.
    pub async fn begin(
        upstream: &HttpUpstream,
        initialize: Bytes,
        grant: Option<&Grant>,
    ) -> Result<(Self, Bytes), Refusal> {
        let (headers, traced) = (vec![], RequestTrace::default());
        let bare = Self { upstream: upstream.clone(), headers, grant: grant.cloned(), traced };
        let response =
            upstream.send(bare.request(Method::POST, initialize, &[]), bare.key()).await?;
        let session = response.headers().get(SESSION).cloned();
        let message = upstream.message(response).await?;
        let named = session.map(|id| (HeaderName::from_static(SESSION), id));
        Ok((Self { headers: named.into_iter().collect(), ..bare }, message))
    }

    /// The same way, used for a caller from now on.
    pub fn speaking_for(&self, grant: &Grant) -> Self {
        Self { grant: Some(grant.clone()), ..self.clone() }
    }

    /// The same way, used for one request of a client.
    pub fn within(&self, traced: &RequestTrace) -> Self {
        Self { traced: traced.clone(), ..self.clone() }
    }

    /// The revision that was agreed on, from now on.
    pub fn speaks(&mut self, version: &str) {
        if let Ok(version) = HeaderValue::from_str(version) {
            self.headers.push((HeaderName::from_static(VERSION), version));
        }
    }

    /// Whose failures its failures are; `None` = the node asks for itself.
    fn key(&self) -> Option<KeyId> {
        self.grant.as_ref().map(|grant| grant.caller.state().key)
    }

    fn request(
        &self,
        method: Method,
        body: Bytes,
        more: &[(HeaderName, HeaderValue)],
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.upstream.url();
        let (json, both) = ("application/json", "application/json, text/event-stream");
        let fixed = [(header::CONTENT_TYPE, json), (header::ACCEPT, both)];
        let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
        request.headers_mut().extend(fixed);
        request.headers_mut().extend(self.headers.iter().chain(more).cloned());
        headers::ask_for_plain(request.headers_mut());
        self.upstream.shared.stamp.put(self.grant.as_ref(), request.headers_mut());
        self.traced.put(request.headers_mut());
        request
    }

    /// Asks; what comes back arrives piece by piece. Dropping the pieces ends the request.
    pub fn ask(
        &self,
        id: IdKey,
        body: Bytes,
        more: &[(HeaderName, HeaderValue)],
    ) -> mpsc::Receiver<AnswerPiece> {
        let (to, pieces) = mpsc::channel(FRAMES);
        let (upstream, request) = (self.upstream.clone(), self.request(Method::POST, body, more));
        let key = self.key();
        let in_session = self.headers.iter().any(|(name, _)| name == SESSION);
        tokio::spawn(async move {
            let last = tokio::select! {
                last = upstream.exchange(request, key, &id, in_session, &to) => last,
                () = to.closed() => return,
            };
            drop(to.send(last).await); // Nobody waits for it any more.
        });
        pieces
    }

    /// Sends what has no answer.
    pub async fn tell(&self, body: Bytes) -> Result<(), Refusal> {
        let response =
            self.upstream.send(self.request(Method::POST, body, &[]), self.key()).await?;
        let status = response.status();
        if status.is_success() { Ok(()) } else { Err(Refusal::UpstreamInvalid) }
    }

    /// The server's own stream of the session; it ends at once if there is none.
    pub fn stream(&self) -> mpsc::Receiver<Bytes> {
        let (to, messages) = mpsc::channel(FRAMES);
        let (upstream, request) =
            (self.upstream.clone(), self.request(Method::GET, Bytes::new(), &[]));
        let key = self.key();
        tokio::spawn(async move {
            let Ok(response) = upstream.send(request, key).await else { return };
            if response.status().is_success() && is_events(response.headers()) {
                let mut events = upstream.events(response.into_body());
                loop {
                    let data = tokio::select! {
                        data = events.next_message() => data,
                        () = to.closed() => return,
                    };
                    let Ok(Some(data)) = data else { return };
                    drop(to.send(data).await); // Whether anybody listens is asked above.
                }
            }
        });
        messages
    }

    /// Ends the session, if there is one.
    pub async fn close(&self) {
        if self.headers.iter().any(|(name, _)| name == SESSION) {
            let request = self.request(Method::DELETE, Bytes::new(), &[]);
            drop(self.upstream.send(request, self.key()).await); // It ends by itself too.
        }
    }
}

impl HttpUpstream {
    /// One request until its answer; returns the last piece.
    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        key: Option<KeyId>,
        id: &IdKey,
        in_session: bool,
        to: &mpsc::Sender<AnswerPiece>,
    ) -> AnswerPiece {
        let response = match self.send(request, key).await {
            Ok(response) => response,
            Err(refusal) => return AnswerPiece::Refused(refusal),
        };
        let status = response.status();
        if status == StatusCode::NOT_FOUND && in_session {
            return AnswerPiece::Refused(Refusal::SessionNotFound);
        }
        if !is_events(response.headers()) {
            return match self.whole(response.into_body()).await {
                Ok(body) => last(without_mark(body), id),
                Err(refusal) => AnswerPiece::Refused(refusal),
            };
        }
        let mut events = self.events(response.into_body());
        loop {
            match events.next_message().await {
                Ok(Some(data)) => match classify(&data, id) {
                    ServerMessage::Message => drop(to.send(AnswerPiece::Message(data)).await), // Whoever asked may be gone.
                    ServerMessage::NoMessage => {}
                    ServerMessage::Answer { .. } | ServerMessage::Unclear => return last(data, id),
                },
                Ok(None) => return AnswerPiece::Refused(Refusal::UpstreamInvalid),
                Err(refusal) => return AnswerPiece::Refused(refusal),
            }
        }
    }

    pub(super) fn events(&self, body: ResponseBody) -> Events {
        Events { frames: Frames::of(body, self.shared.settings.max_answer_bytes) }
    }

    /// The one message of an answer, be it JSON or a stream.
    pub(super) async fn message(
        &self,
        response: axum::http::Response<ResponseBody>,
    ) -> Result<Bytes, Refusal> {
        if !is_events(response.headers()) {
            return self.whole(response.into_body()).await.map(without_mark);
        }
        let mut events = self.events(response.into_body());
        while let Some(data) = events.next_message().await? {
            if matches!(read(&data), Ok(Message::Answer { .. })) {
                return Ok(data);
            }
        }
        Err(Refusal::UpstreamInvalid)
    }
}

/// The events of one stream of the server.
pub(super) struct Events {
    frames: Frames<ResponseBody>,
}

impl Events {
    /// The next frame; `None` = the stream has ended, or broke off.
    pub async fn next_frame(&mut self) -> Result<Option<Bytes>, Refusal> {
        let frame = self.frames.next().await.transpose();
        frame.map_err(|error| {
            tracing::warn!(%error, "Stream of the upstream cut");
            Refusal::UpstreamInvalid
        })
    }

    /// The data of the next event that clients take for a message.
    pub async fn next_message(&mut self) -> Result<Option<Bytes>, Refusal> {
        while let Some(frame) = self.next_frame().await? {
            let data = sse::data(&frame).filter(|data| !data.trim_ascii().is_empty());
            if let Some(data) = data.filter(|_| sse::is_message(&frame)) {
                return Ok(Some(Bytes::copy_from_slice(&data)));
            }
        }
        Ok(None)
    }

    /// Whether anything has come.
    pub fn has_come(&self) -> bool {
        self.frames.has_come()
    }
}

/// The answer in `message`. Its id is the node's own: whoever takes it puts the client's in its place.
fn last(message: Bytes, id: &IdKey) -> AnswerPiece {
    match classify(&message, id) {
        ServerMessage::Answer { to: AnswerTo::Other(_), .. }
        | ServerMessage::Message
        | ServerMessage::NoMessage
        | ServerMessage::Unclear => {
            metrics::counter!("mcp_answers_withheld_total").increment(1);
            AnswerPiece::Refused(Refusal::UpstreamInvalid)
        }
        ServerMessage::Answer { answer, .. } => {
            let outcome = billable::outcome(answer);
            AnswerPiece::Answer(message, outcome)
        }
    }
}
