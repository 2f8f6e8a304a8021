//! How a request reaches a server that speaks HTTP: over pooled connections, or by a call within this process.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, header::HOST},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, Incoming, SizeHint};
use runtime::http::{Client, HttpError};
use tower::{ServiceExt, util::BoxCloneSyncService};

use crate::wire::lanes;

/// A server within this process.
pub type Local = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The way to a server.
pub enum Transport {
    /// A pool for each lane, and one for whoever is on none: a connection stays on the thread that began it.
    Net(Vec<Client>),
    Local(Local),
}

/// The most idle connections that are kept open to a server, of each pool.
const IDLE: usize = 1_024;

impl Transport {
    /// Over connections that may take `connect_timeout` to come about.
    pub fn net(connect_timeout: Duration) -> Self {
        Self::Net((0..=lanes::max()).map(|_| Client::new(connect_timeout, IDLE)).collect())
    }

    /// Sends a request and returns as soon as the answer's head is there.
    ///
    /// # Errors
    /// There is no connection, or it failed. A server within this process always answers.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody>, HttpError> {
        match self {
            Self::Net(pools) => {
                let pool = &pools[lanes::current().unwrap_or(pools.len() - 1)];
                Ok(pool.send_streaming(request).await?.map(ResponseBody::Net))
            }
            Self::Local(service) => {
                let mut request = request.map(Body::new);
                // A connection would say to whom the request is.
                let host = request.uri().authority().map(|host| host.as_str().to_owned());
                if let Some(host) = host.and_then(|host| HeaderValue::from_str(&host).ok()) {
                    request.headers_mut().insert(HOST, host);
                }
                match service.clone().oneshot(request).await {
                    Ok(response) => Ok(response.map(ResponseBody::Local)),
                    Err(never) => match never {},
                }
            }
        }
    }
}

/// The body of an answer.
pub enum ResponseBody {
    Net(Incoming),
    Local(Body),
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut *self {
            Self::Net(body) => Pin::new(body)
                .poll_frame(context)
                .map(|frame| Some(frame?.map_err(axum::Error::new))),
            Self::Local(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Net(body) => body.is_end_stream(),
            Self::Local(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Net(body) => body.size_hint(),
            Self::Local(body) => body.size_hint(),
        }
    }
}
