//! How a channel to a server comes about: a child is started, or a connection is opened.

use std::{sync::Arc, time::Duration};

use axum::http::{Method, Request, Uri};
use bytes::Bytes;
use http_body_util::Full;
use mcp_node_core::Refusal;
use tokio::sync::mpsc;

use super::{Session, sse::SseConnection, websocket::SocketConnection};
use crate::{
    access::Grant,
    upstream::{
        UpstreamHeaders, UpstreamSettings,
        http::transport::{ResponseBody, Transport as Http},
        stdio::{self, ServerCommand, Started},
    },
};

/// The way to a server.
pub enum ChannelTarget {
    Child(ServerCommand),
    RemoteServer(Arc<RemoteServer>),
}

/// What a server elsewhere speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP+SSE of 2024-11-05.
    Sse,
    WebSocket,
}

/// A server elsewhere, to which each session has a connection.
pub struct RemoteServer {
    /// Of the stream, or the socket; `http` or `https`, or `ws` or `wss`.
    pub url: Uri,
    transport: Transport,
    stamp: UpstreamHeaders,
    http: Http,
}

impl RemoteServer {
    /// A server at `url`; `connect_timeout` = how long a connection may take to come about, `stamp` = what it is told
    /// beside the clients' messages.
    #[must_use]
    pub fn new(
        url: Uri,
        transport: Transport,
        connect_timeout: Duration,
        stamp: UpstreamHeaders,
    ) -> Self {
        Self { url, transport, stamp, http: Http::net(connect_timeout) }
    }

    /// A request of a caller; `None` = of the node itself.
    pub fn request(
        &self,
        method: Method,
        to: &Uri,
        grant: Option<&Grant>,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = to.clone();
        self.stamp.put(grant, request.headers_mut());
        request
    }

    /// Sends a request, and returns the head of its answer.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<axum::http::Response<ResponseBody>, Refusal> {
        self.http.send(request).await.map_err(|error| {
            metrics::counter!("mcp_upstream_errors_total").increment(1);
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "The upstream gave no answer");
            Refusal::UpstreamUnreachable
        })
    }
}

/// A channel that is open.
pub enum OpenedChannel {
    Child(Box<Started>),
    Sse(Box<SseConnection>),
    WebSocket(Box<SocketConnection>),
}

impl ChannelTarget {
    /// Opens a channel for a caller; `None` = for the node itself.
    ///
    /// # Errors
    /// The program cannot be run, or the server cannot be reached or does not speak this transport.
    pub async fn open(
        &self,
        grant: Option<&Grant>,
        settings: &UpstreamSettings,
    ) -> Result<OpenedChannel, Refusal> {
        match self {
            Self::Child(command) => {
                let started = command.start().await.map_err(|error| {
                    tracing::error!(%error, program = command.program, "Cannot start the server");
                    metrics::counter!("mcp_child_ends_total", "why" => "not_started").increment(1);
                    Refusal::UpstreamUnreachable
                })?;
                metrics::counter!("mcp_child_starts_total").increment(1);
                Ok(OpenedChannel::Child(Box::new(started)))
            }
            Self::RemoteServer(remote) => {
                let opening = async {
                    Ok::<_, Refusal>(match remote.transport {
                        Transport::Sse => OpenedChannel::Sse(Box::new(
                            SseConnection::open(remote.clone(), grant, *settings).await?,
                        )),
                        Transport::WebSocket => OpenedChannel::WebSocket(Box::new(
                            SocketConnection::open(remote, grant, settings.max_answer_bytes)
                                .await?,
                        )),
                    })
                };
                let opened = tokio::time::timeout(settings.request_timeout, opening).await;
                opened.map_err(|_| Refusal::UpstreamTimeout)?
            }
        }
    }
}

impl OpenedChannel {
    /// The child's process group.
    pub fn group(&self) -> Option<u32> {
        match self {
            Self::Child(started) => started.child.id(),
            Self::Sse(_) | Self::WebSocket(_) => None,
        }
    }

    /// Serves a session's channel until it is gone; `max` = the largest message. Unit: bytes.
    pub async fn serve(self, session: &Arc<Session>, lines: mpsc::Receiver<Bytes>, max: usize) {
        match self {
            Self::Child(started) => stdio::serve(*started, session, lines, max).await,
            Self::Sse(connection) => connection.serve(session, lines).await,
            Self::WebSocket(connection) => connection.serve(session, lines).await,
        }
    }
}

/// A message on one line, as streams of events need it. A line break in it can only stand between its parts.
pub fn on_one_line(message: Bytes) -> Bytes {
    if !message.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return message;
    }
    let space = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    message.iter().map(space).collect::<Vec<u8>>().into()
}
