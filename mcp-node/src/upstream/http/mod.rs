//! A server over Streamable HTTP: pooled connections, the original bytes, frames as they come.
//!
//! Messages that call no tool pass straight through. A call is followed by a task of its own ([`exchange`]), so that
//! it is counted also when its client goes away (which in the eras before 2026-07-28 cancels nothing).

mod exchange;
mod headers;
mod link;
mod redirect;
mod sessions;
pub(super) mod transport;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, Uri},
    response::Response,
};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, Limited};
use mcp_node_core::{
    Refusal,
    message::{Message, read},
    reply::{UnsolicitedMessage, read_unasked},
    sse,
};
use runtime::http::HttpError;
use schemas::KeyId;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use self::link::HttpLink;
pub use self::transport::{Local, ResponseBody};
use self::{
    exchange::Exchange, link::Events, redirect::Address, sessions::Session, transport::Transport,
};
use super::{
    UpstreamHeaders, UpstreamSettings,
    breaker::{BreakerPermit, CircuitBreaker},
};
use crate::{
    call::{
        ClientEnd, DeliveryDecision, Driver, InFlightCall, PendingRecord, QuotaHints, TaskPoll,
        Tasks,
        client::{self, FRAMES},
    },
    request::{Inbound, Kind, Post},
    sessions::SessionMap,
    wire::{RequestId, SESSION, answer, frames::is_events},
};

/// Until when the answer to a request that may wait for a task, or listens, must be there.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The server's address, its sessions and our connections to it.
#[derive(Clone)]
pub struct HttpUpstream {
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    transport: Transport,
    settings: UpstreamSettings,
    sessions: SessionMap<Session>,
    tasks: Arc<Tasks>,
    stamp: UpstreamHeaders,
    breaker: Arc<CircuitBreaker>,
    stopping: CancellationToken,
}

impl HttpUpstream {
    /// A server at `url`; `connect_timeout` = how long a connection may take to come about.
    #[must_use]
    pub fn new(url: Uri, connect_timeout: Duration, settings: UpstreamSettings) -> Self {
        Self::stamped(url, connect_timeout, settings, UpstreamHeaders::default())
    }

    /// As [`HttpUpstream::new`]; `stamp` = what it is told beside the client's message.
    #[must_use]
    pub fn stamped(
        url: Uri,
        connect_timeout: Duration,
        settings: UpstreamSettings,
        stamp: UpstreamHeaders,
    ) -> Self {
        Self::over(Transport::net(connect_timeout), url, settings, stamp)
    }

    /// A server within this process, which sees `url` as its own address.
    #[must_use]
    pub fn local(
        server: Local,
        url: Uri,
        settings: UpstreamSettings,
        stamp: UpstreamHeaders,
    ) -> Self {
        Self::over(Transport::Local(server), url, settings, stamp)
    }

    fn over(
        transport: Transport,
        url: Uri,
        settings: UpstreamSettings,
        stamp: UpstreamHeaders,
    ) -> Self {
        let name = url.authority().map_or("", |authority| authority.as_str());
        let breaker = CircuitBreaker::of_server(name, settings.breaker);
        let shared = Shared {
            address: Address::new(url),
            transport,
            settings,
            sessions: SessionMap::new(metrics::gauge!("mcp_sessions")),
            tasks: Arc::default(),
            stamp,
            breaker,
            stopping: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Where it is asked.
    fn url(&self) -> Uri {
        self.shared.address.now()
    }

    /// Whether the server is asked at all for this key.
    ///
    /// # Errors
    /// It failed too often: not for a while.
    pub fn check(&self, key: KeyId) -> Result<(), Refusal> {
        self.shared.breaker.check(Some(key))
    }

    /// Forwards a posted message.
    ///
    /// # Errors
    /// The session is not the caller's, the call was refused, or the server could not be reached.
    pub async fn post(&self, post: Post) -> Result<Response, Refusal> {
        let session = self.shared.sessions.named_by(&post.inbound)?;
        if let (Kind::Notification { cancels: Some(id) }, Some(session)) = (&post.kind, &session) {
            session.cancel(id);
        }
        if let (Kind::Request { id, .. }, Some(session)) = (&post.kind, &session) {
            session.check_free(&id.key)?;
        }
        match (post.kind.clone(), post.asks_for_task(&self.shared.tasks)) {
            (Kind::Request { id, tool: Some(_), .. }, _) => self.call(post, id, session).await,
            (Kind::Request { id, .. }, Some(poll)) => self.poll(post, id, poll, session).await,
            _ => self.pass(post, session).await,
        }
    }

    async fn call(
        &self,
        post: Post,
        id: RequestId,
        session: Option<Arc<Session>>,
    ) -> Result<Response, Refusal> {
        let key = post.inbound.caller.state().key;
        let passage =
            self.shared.breaker.enter(Some(key)).inspect_err(|refusal| post.refused(refusal))?;
        let Some(permit) = post.admit().await? else {
            unreachable!("a call is admitted or refused");
        };
        let hints = QuotaHints::of(&permit);
        let call = Arc::new(InFlightCall::new(permit, &self.shared.tasks, session.is_some()));
        if let Some(session) = &session {
            session.begin(&id.key, &call)?;
        }
        let mut request = self.request(Method::POST, &post.inbound, post.body);
        post.traced.put(request.headers_mut());
        let (client, response) = ClientEnd::new(hints);
        let modern = post.inbound.is_modern();
        let (owed, call) = (PendingRecord::Call(call.clone()), Some(call));
        let source = Exchange::new(self, session, id.clone(), call, passage, request, modern);
        let deadline = Instant::now() + self.shared.settings.request_timeout;
        let cancelled = CancellationToken::new(); // A server of the old era may still answer.
        let driver = Driver { owed, id, client, source, gone_cancels: modern, cancelled, deadline };
        tokio::spawn(driver.run());
        response.await.map_err(|_| Refusal::UpstreamUnreachable)
    }

    /// Forwards a request whose answer may deliver the result of a task.
    async fn poll(
        &self,
        post: Post,
        id: RequestId,
        poll: TaskPoll,
        session: Option<Arc<Session>>,
    ) -> Result<Response, Refusal> {
        let passage = self.shared.breaker.enter(Some(post.inbound.caller.state().key))?;
        let mut request = self.request(Method::POST, &post.inbound, post.body);
        post.traced.put(request.headers_mut());
        let (client, response) = ClientEnd::new(QuotaHints::default());
        let modern = post.inbound.is_modern();
        let source = Exchange::new(self, session, id.clone(), None, passage, request, modern);
        let (owed, cancelled) = (PendingRecord::Task(poll), CancellationToken::new());
        let deadline = Instant::now() + YEAR;
        let driver = Driver { owed, id, client, source, gone_cancels: true, cancelled, deadline };
        let stopping = self.shared.stopping.clone();
        tokio::spawn(async move { stopping.run_until_cancelled(driver.run()).await });
        response.await.map_err(|_| Refusal::UpstreamUnreachable)
    }

    /// Opens the session's own stream.
    ///
    /// # Errors
    /// As for [`HttpUpstream::post`].
    pub async fn get(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        let session = self.shared.sessions.named_by(inbound)?;
        let key = Some(inbound.caller.state().key);
        let response = self.send(self.request(Method::GET, inbound, Bytes::new()), key).await?;
        if !is_events(response.headers()) || !response.status().is_success() {
            return self.hand_on(response, session.as_ref()).await;
        }
        let (head, body) = response.into_parts();
        let (sender, frames) = mpsc::channel(FRAMES);
        let resumed = inbound.headers.contains_key("last-event-id");
        let watched = watch_stream(self.events(body), session, resumed, sender);
        let stopping = self.shared.stopping.clone();
        tokio::spawn(async move { stopping.run_until_cancelled(watched).await });
        let mut response = answer::events(client::body(frames));
        headers::copy_back(&head.headers, response.headers_mut());
        Ok(response)
    }

    /// Ends a session.
    ///
    /// # Errors
    /// As for [`HttpUpstream::post`].
    pub async fn delete(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        let session = self.shared.sessions.named_by(inbound)?;
        let key = Some(inbound.caller.state().key);
        let response = self.send(self.request(Method::DELETE, inbound, Bytes::new()), key).await?;
        if response.status().is_success()
            && let Some(session) = &session
        {
            self.shared.sessions.remove(&session.id);
        }
        self.hand_on(response, session.as_ref()).await
    }

    /// Ends the streams that would never end by themselves.
    pub fn stop(&self) {
        self.shared.stopping.cancel();
    }

    /// Forwards what is not counted.
    async fn pass(&self, post: Post, session: Option<Arc<Session>>) -> Result<Response, Refusal> {
        let begins = session.is_none();
        if let (Kind::Request { id, .. }, Some(session)) = (&post.kind, &session) {
            session.begin_free(&id.key);
        }
        let key = post.inbound.caller.state().key;
        let mut request = self.request(Method::POST, &post.inbound, post.body);
        post.traced.put(request.headers_mut());
        let response = self.send(request, Some(key)).await?;
        let named = response.headers().get(SESSION).and_then(|id| id.to_str().ok());
        if let Some(id) = named.filter(|_| begins && response.status().is_success()) {
            // Those that end for it end for its clients: their server lets them go idle.
            let session = Session::new(id, key);
            drop(self.shared.sessions.insert(session, self.shared.settings.sessions())?);
        }
        self.hand_on(response, session.as_ref()).await
    }

    fn request(&self, method: Method, inbound: &Inbound, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.url();
        headers::copy_on(inbound, request.headers_mut());
        self.shared.stamp.put(Some(&inbound.grant()), request.headers_mut());
        request
    }

    /// Sends a request, unless the server has failed too often; how it begins to answer says how it does.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        key: Option<KeyId>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let mut passage = self.shared.breaker.enter(key)?;
        let sent = self.send_on(request).await;
        match &sent {
            Ok(response) if !response.status().is_server_error() => passage.well(),
            Ok(_) => passage.failed(),
            Err(error) => error.tell(&mut passage),
        }
        let response = sent.map_err(Refusal::from)?;
        headers::check_readable(response.headers())?;
        Ok(response)
    }

    /// Sends a request, and follows the server where it has moved to within its origin.
    async fn send_on(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody>, NoResponse> {
        let again = self.shared.address.copy(&request);
        let sent = async {
            let response = self.shared.transport.send(request).await?;
            match self.shared.address.follow(response, again) {
                redirect::Next::Answer(response) => Ok(response),
                redirect::Next::Refused => Err(NoResponse::Redirects),
                redirect::Next::Again(request) => {
                    let response = self.shared.transport.send(request).await?;
                    self.shared.address.arrived(response).map_err(|_| NoResponse::Redirects)
                }
            }
        };
        let sent = tokio::time::timeout(self.shared.settings.request_timeout, sent).await;
        sent.unwrap_or(Err(NoResponse::Timeout))
    }

    /// Hands an answer that is not counted to the client: as it is, unless it is none of the client's business.
    async fn hand_on(
        &self,
        response: Response<ResponseBody>,
        session: Option<&Arc<Session>>,
    ) -> Result<Response, Refusal> {
        let (head, body) = response.into_parts();
        let mut answered = if head.status.is_success() {
            let stopped = self.shared.stopping.clone().cancelled_owned();
            Response::new(Body::from_stream(body.into_data_stream().take_until(stopped)))
        } else {
            let body = self.whole(body).await?;
            self.check_failure(head.status, &body, session)?;
            Response::new(body.into())
        };
        *answered.status_mut() = head.status;
        headers::copy_back(&head.headers, answered.headers_mut());
        Ok(answered)
    }

    /// What a failing answer means for the client.
    ///
    /// # Errors
    /// The server has forgotten the session, refuses *us*, or is broken.
    fn check_failure(
        &self,
        status: StatusCode,
        body: &[u8],
        session: Option<&Arc<Session>>,
    ) -> Result<(), Refusal> {
        match status {
            StatusCode::NOT_FOUND if session.is_some() => {
                if let Some(session) = session {
                    self.shared.sessions.remove(&session.id);
                }
                Err(Refusal::SessionNotFound)
            }
            // The client has shown a good key: it must not think that another one would help.
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                tracing::warn!(%status, "The upstream refuses this node");
                Err(Refusal::UpstreamInvalid)
            }
            status if status.is_client_error() => Ok(()),
            _ if matches!(read(body), Ok(Message::Answer { .. })) => Ok(()),
            _ => Err(Refusal::UpstreamInvalid),
        }
    }

    /// All of a body, within its limit.
    async fn whole(&self, body: ResponseBody) -> Result<Bytes, Refusal> {
        let whole = Limited::new(body, self.shared.settings.max_answer_bytes).collect().await;
        whole.map(http_body_util::Collected::to_bytes).map_err(|error| {
            tracing::warn!(%error, "The upstream's answer broke off, or is too large");
            Refusal::UpstreamInvalid
        })
    }
}

/// Why a request has no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoResponse {
    /// No connection came about.
    Unreachable,
    /// The connection ended before anything came.
    Broken,
    Timeout,
    Redirects,
}

impl NoResponse {
    /// What it says of the server. How long an answer takes may be up to what was asked, so a timeout says nothing.
    fn tell(self, passage: &mut BreakerPermit) {
        match self {
            Self::Unreachable => passage.unreachable(),
            Self::Broken => passage.failed(),
            Self::Timeout => {}
            Self::Redirects => passage.well(),
        }
    }
}

impl From<HttpError> for NoResponse {
    fn from(error: HttpError) -> Self {
        metrics::counter!("mcp_upstream_errors_total").increment(1);
        tracing::warn!(error = &error as &dyn std::error::Error, "Request to the upstream failed");
        if error.was_not_sent() { Self::Unreachable } else { Self::Broken }
    }
}

impl From<NoResponse> for Refusal {
    fn from(why: NoResponse) -> Self {
        match why {
            NoResponse::Unreachable | NoResponse::Broken => Self::UpstreamUnreachable,
            NoResponse::Timeout => Self::UpstreamTimeout,
            NoResponse::Redirects => Self::UpstreamRedirects,
        }
    }
}

/// Forwards a session's own stream. A resumed one can hold the answer to a call: it is recorded first.
async fn watch_stream(
    mut events: Events,
    session: Option<Arc<Session>>,
    resumed: bool,
    client: mpsc::Sender<Bytes>,
) {
    let _use = session.as_ref().map(Session::in_use);
    loop {
        let frame = tokio::select! {
            frame = events.next_frame() => frame,
            () = client.closed() => return,
        };
        let Ok(Some(frame)) = frame else { return };
        match passable(frame, session.as_deref(), resumed) {
            Ok(frame) if frame.is_empty() => {}
            Ok(frame) => {
                if client.send(frame).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                return tracing::warn!(
                    reason = error.reason(),
                    "Answer on a session's own stream not delivered"
                );
            }
        }
    }
}

/// What may pass of a frame of a session's own stream: all of it, or its place in the stream alone. `resumed` = the client
/// has asked for what it missed.
///
/// # Errors
/// It holds an answer that could not be recorded.
fn passable(frame: Bytes, session: Option<&Session>, resumed: bool) -> Result<Bytes, Refusal> {
    let Some(data) = sse::data(&frame).filter(|data| !data.trim_ascii().is_empty()) else {
        return Ok(sse::normal(frame));
    };
    let verdict = match (session, read_unasked(&data)) {
        _ if !sse::is_message(&frame) => DeliveryDecision::Withhold,
        (_, UnsolicitedMessage::Message) => DeliveryDecision::Deliver,
        (Some(session), UnsolicitedMessage::Answer(id, answer)) => {
            session.answered(&id, answer, &data)?
        }
        (None, UnsolicitedMessage::Answer(..))
        | (_, UnsolicitedMessage::NoMessage | UnsolicitedMessage::Unclear) => {
            DeliveryDecision::Withhold
        }
    };
    drop(data);
    if verdict == DeliveryDecision::Deliver || (verdict == DeliveryDecision::Again && resumed) {
        return Ok(sse::normal(frame));
    }
    metrics::counter!("mcp_answers_withheld_total").increment(1);
    tracing::warn!("Answer on a session's own stream withheld: no open call is waiting for it");
    Ok(sse::without_data(&frame).into())
}
