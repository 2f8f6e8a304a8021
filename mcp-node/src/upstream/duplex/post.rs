//! Posts the messages of a session one after the other.
//!
//! The next waits until the one before was taken, so that nothing overtakes it; but not for long, since some servers take
//! a call only when it is done, and may ask something of the client in between.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use mcp_node_core::{
    Message, Refusal,
    message::{IdKey, read},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{Session, way::RemoteServer};
use crate::access::Grant;

/// How long the next message waits for the one before.
const IN_TURN: Duration = Duration::from_secs(1);
/// The most messages on their way at a time.
const MAX_POSTS: usize = 64;
/// The largest answer to a POST that is read, so that its connection can be used again. Unit: bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Where messages go.
pub struct Poster {
    to: Arc<Target>,
}

struct Target {
    remote: Arc<RemoteServer>,
    /// Whose messages they are; `None` = the node's.
    grant: Option<Grant>,
    endpoint: Uri,
    timeout: Duration,
}

impl Poster {
    pub fn new(
        remote: Arc<RemoteServer>,
        grant: Option<Grant>,
        endpoint: Uri,
        timeout: Duration,
    ) -> Self {
        Self { to: Arc::new(Target { remote, grant, endpoint, timeout }) }
    }

    /// Posts what is sent, until the session ends.
    pub async fn run(self, session: &Arc<Session>, mut lines: mpsc::Receiver<Bytes>) {
        let mut posts = JoinSet::new();
        while let Some(line) = lines.recv().await {
            while posts.len() >= MAX_POSTS {
                drop(posts.join_next().await);
            }
            while posts.try_join_next().is_some() {}
            let (to, session) = (self.to.clone(), session.clone());
            let (taken, is_taken) = oneshot::channel();
            posts.spawn(async move {
                to.post(line, &session).await;
                let _ = taken.send(()); // The next may have gone already.
            });
            let _ = tokio::time::timeout(IN_TURN, is_taken).await; // Late or not, the next goes.
        }
    }
}

impl Target {
    /// Posts a message; what the server does not take is not answered.
    async fn post(&self, line: Bytes, session: &Session) {
        let line = line.slice(..line.trim_ascii_end().len());
        let id = match read(&line) {
            Ok(Message::Request { id, .. }) => Some(id.key()),
            _ => None,
        };
        let mut request =
            self.remote.request(Method::POST, &self.endpoint, self.grant.as_ref(), line);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        let posting = async {
            let response = self.remote.send(request).await?;
            let status = response.status();
            // Whatever it says, the answer that counts comes on the stream.
            drop(Limited::new(response.into_body(), MAX_ANSWER).collect().await);
            Ok::<_, Refusal>(status)
        };
        match tokio::time::timeout(self.timeout, posting).await {
            Ok(Ok(status)) if status.is_success() => {}
            Ok(Ok(status)) => {
                tracing::warn!(%status, "The upstream takes no message");
                refuse(session, id, &Refusal::UpstreamInvalid);
                if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
                    session.close("forgotten");
                }
            }
            Ok(Err(refusal)) => refuse(session, id, &refusal),
            Err(_) => refuse(session, id, &Refusal::UpstreamTimeout),
        }
    }
}

fn refuse(session: &Session, id: Option<IdKey>, refusal: &Refusal) {
    if let Some(id) = id {
        session.refuse(&id, refusal);
    }
}
