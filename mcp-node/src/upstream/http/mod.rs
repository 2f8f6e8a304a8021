//! A server over Streamable HTTP: pooled connections, the original bytes, frames as they come.
//!
//! Messages that call no tool pass straight through. A call is followed by a task of its own ([`exchange`]), so that
//! it is counted also when its client goes away (which in the eras before 2026-07-28 cancels nothing).

mod exchange;
mod gate;
mod headers;
mod link;
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
    sse::{self, Splitter},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::link::HttpLink;
pub use self::transport::{Answered, Local};
use self::{
    exchange::Exchange,
    sessions::{Session, Sessions},
    transport::Transport,
};
use super::{
    FRAMES, Stamp, Tasks, UpstreamSettings,
    client::{self, Client},
    guard::Guard,
    slot::Slot,
    told::Told,
};
use crate::http::{Inbound, Kind, Post, SESSION, answer};

/// The server's address, its sessions and our connections to it.
#[derive(Clone)]
pub struct HttpUpstream {
    shared: Arc<Shared>,
}

struct Shared {
    url: Uri,
    transport: Transport,
    settings: UpstreamSettings,
    sessions: Sessions,
    tasks: Arc<Tasks>,
    stamp: Stamp,
    guard: Arc<Guard>,
    stopping: CancellationToken,
}

impl HttpUpstream {
    /// A server at `url`; `connect_patience` = how long a connection may take to come about.
    #[must_use]
    pub fn new(url: Uri, connect_patience: Duration, settings: UpstreamSettings) -> Self {
        Self::stamped(url, connect_patience, settings, Stamp::default())
    }

    /// As [`HttpUpstream::new`]; `stamp` = what it is told beside the client's message.
    #[must_use]
    pub fn stamped(
        url: Uri,
        connect_patience: Duration,
        settings: UpstreamSettings,
        stamp: Stamp,
    ) -> Self {
        Self::over(Transport::net(connect_patience), url, settings, stamp)
    }

    /// A server within this process, which sees `url` as its own address.
    #[must_use]
    pub fn local(server: Local, url: Uri, settings: UpstreamSettings, stamp: Stamp) -> Self {
        Self::over(Transport::Local(server), url, settings, stamp)
    }

    fn over(transport: Transport, url: Uri, settings: UpstreamSettings, stamp: Stamp) -> Self {
        let name = url.authority().map_or("", |authority| authority.as_str());
        let guard = Guard::of_server(name, settings.breaker);
        let shared = Shared {
            url,
            transport,
            settings,
            sessions: Sessions::new(settings),
            tasks: Arc::default(),
            stamp,
            guard,
            stopping: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether the server is asked at all.
    ///
    /// # Errors
    /// It failed too often: not for a while.
    pub fn check(&self) -> Result<(), Refusal> {
        self.shared.guard.check()
    }

    /// Forwards a posted message.
    ///
    /// # Errors
    /// The session is not the caller's, the call was refused, or the server could not be reached.
    pub async fn post(&self, post: Post) -> Result<Response, Refusal> {
        let session = self.shared.sessions.of(&post.inbound)?;
        if let (Kind::Notification { cancels: Some(id) }, Some(session)) = (&post.kind, &session) {
            session.cancel(id);
        }
        if let (Kind::Request { id, .. }, Some(session)) = (&post.kind, &session) {
            session.check_free(&id.key)?;
        }
        if !post.calls() {
            return self.pass(post, session).await;
        }
        let passage = self.shared.guard.enter().inspect_err(|refusal| post.refused(refusal))?;
        let Some(permit) = post.admit().await? else {
            unreachable!("a call is admitted or refused");
        };
        let Kind::Request { id, .. } = post.kind else {
            unreachable!("only a request is admitted");
        };
        let told = Told::of(&permit);
        let slot = Arc::new(Slot::new(permit, &self.shared.tasks));
        if let Some(session) = &session {
            session.begin(&id.key, &slot)?;
        }
        let mut request = self.request(Method::POST, &post.inbound, post.body);
        post.traced.put(request.headers_mut());
        let (client, response) = Client::new(told);
        let modern = post.inbound.is_modern();
        let exchange =
            Exchange { upstream: self.clone(), session, slot, id, modern, client, passage };
        tokio::spawn(exchange.run(request));
        response.await.map_err(|_| Refusal::UpstreamUnreachable)
    }

    /// Opens the session's own stream.
    ///
    /// # Errors
    /// As for [`HttpUpstream::post`].
    pub async fn get(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        let session = self.shared.sessions.of(inbound)?;
        let response = self.send(self.request(Method::GET, inbound, Bytes::new())).await?;
        if !is_events(&response) || !response.status().is_success() {
            return self.hand_on(response, session.as_ref()).await;
        }
        let (head, body) = response.into_parts();
        let (sender, frames) = mpsc::channel(FRAMES);
        let watched = self.clone().watch_stream(body, session, sender);
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
        let session = self.shared.sessions.of(inbound)?;
        let response = self.send(self.request(Method::DELETE, inbound, Bytes::new())).await?;
        if response.status().is_success()
            && let Some(session) = &session
        {
            self.shared.sessions.forget(&session.id);
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
        let asked = post.asks_for_task(&self.shared.tasks);
        let mut request = self.request(Method::POST, &post.inbound, post.body);
        post.traced.put(request.headers_mut());
        let response = self.send(request).await?;
        let named = response.headers().get(SESSION).and_then(|id| id.to_str().ok());
        if let Some(id) = named.filter(|_| begins && response.status().is_success()) {
            self.shared.sessions.bind(id, post.inbound.caller.state().key)?;
        }
        match (asked, &post.kind) {
            (Some(asked), Kind::Request { id, .. }) if response.status().is_success() => {
                self.clone().gate(response, asked, id.clone()).await
            }
            _ => self.hand_on(response, session.as_ref()).await,
        }
    }

    fn request(&self, method: Method, inbound: &Inbound, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.shared.url.clone();
        headers::copy_on(inbound, request.headers_mut());
        self.shared.stamp.put(Some(&inbound.grant()), request.headers_mut());
        request
    }

    /// Sends a request, unless the server has failed too often; how it begins to answer says how it does.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Answered>, Refusal> {
        let mut passage = self.shared.guard.enter()?;
        let sent = self.send_on(request).await;
        match &sent {
            Ok(response) if !response.status().is_server_error() => passage.well(),
            Ok(_) | Err(_) => passage.badly(),
        }
        sent
    }

    /// Sends a request.
    async fn send_on(&self, request: Request<Full<Bytes>>) -> Result<Response<Answered>, Refusal> {
        let sent = self.shared.transport.send(request);
        match tokio::time::timeout(self.shared.settings.request_patience, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                metrics::counter!("mcp_upstream_errors_total").increment(1);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "The upstream gave no answer"
                );
                Err(Refusal::UpstreamUnreachable)
            }
            Err(_) => Err(Refusal::UpstreamTimeout),
        }
    }

    /// Hands an answer that is not counted to the client: as it is, unless it is none of the client's business.
    async fn hand_on(
        &self,
        response: Response<Answered>,
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
                    self.shared.sessions.forget(&session.id);
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
    async fn whole(&self, body: Answered) -> Result<Bytes, Refusal> {
        let whole = Limited::new(body, self.shared.settings.max_answer_bytes).collect().await;
        whole.map(http_body_util::Collected::to_bytes).map_err(|error| {
            tracing::warn!(%error, "The upstream's answer broke off, or is too large");
            Refusal::UpstreamInvalid
        })
    }

    /// Forwards a session's own stream. A resumed one can hold the answer to a call: it is recorded first.
    async fn watch_stream(
        self,
        mut body: Answered,
        session: Option<Arc<Session>>,
        client: mpsc::Sender<Bytes>,
    ) {
        let mut splitter = Splitter::new(self.shared.settings.max_answer_bytes);
        let _use = session.as_ref().map(|session| session.in_use());
        loop {
            let Some(Ok(frame)) = (tokio::select! {
                frame = body.frame() => frame,
                () = client.closed() => return,
            }) else {
                break;
            };
            let Ok(chunk) = frame.into_data() else { continue };
            splitter.push(&chunk);
            loop {
                match splitter.next_frame() {
                    Ok(Some(frame)) => {
                        if !forward(&frame, session.as_ref(), &client).await {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return tracing::warn!(%error, "A stream of the upstream is cut"),
                }
            }
        }
        forward(&splitter.rest(), session.as_ref(), &client).await;
    }
}

/// Forwards a frame of a session's own stream; `false` = go no further.
async fn forward(
    frame: &Bytes,
    session: Option<&Arc<Session>>,
    client: &mpsc::Sender<Bytes>,
) -> bool {
    if let Some(session) = session
        && let Some(data) = sse::data(frame)
        && let Ok(Message::Answer { id: Some(id), answer }) = read(&data)
        && let Some(slot) = session.call(&id.key())
        && let Err(error) = slot.settle_by(answer, &data)
    {
        tracing::warn!(%error, "An answer on a resumed stream is not delivered");
        return false;
    }
    frame.is_empty() || client.send(frame.clone()).await.is_ok()
}

fn is_events<T>(response: &Response<T>) -> bool {
    headers::content_type(response.headers()) == "text/event-stream"
}
