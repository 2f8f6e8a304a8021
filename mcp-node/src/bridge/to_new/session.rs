//! One session of a client of the old era: what it said of itself, what runs in it, what it was asked.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use mcp_node_core::{
    Refusal,
    message::{IdKey, Message, read},
};
use parking_lot::Mutex;
use schemas::KeyId;
use serde_json::json;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::super::{
    link::{Link, wire_id},
    messages,
};
use crate::{
    call::client::FRAMES,
    sessions,
    upstream::{AnswerPiece, ID_IN_USE},
    wire::{RequestId, answer},
};

/// How long to wait before the server is asked again for a stream that it ended.
const PAUSE: Duration = Duration::from_secs(1);
/// A stream of subscriptions has no end of its own.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// One session.
pub struct Session {
    pub id: String,
    pub key: KeyId,
    pub link: Link,
    /// The members of `_meta` that every request gets.
    meta: String,
    asked: AtomicU64,
    running: Mutex<HashMap<IdKey, CancellationToken>>,
    waiting: Mutex<HashMap<IdKey, oneshot::Sender<Bytes>>>,
    level: Mutex<Option<String>>,
    resources: Mutex<BTreeSet<String>>,
    /// The resources are others now.
    changed: Notify,
    used: Mutex<Instant>,
    end: CancellationToken,
}

impl sessions::Session for Session {
    fn id(&self) -> &str {
        &self.id
    }

    fn key(&self) -> KeyId {
        self.key
    }

    fn is_alive(&self) -> bool {
        self.link.is_alive() && !self.end.is_cancelled()
    }

    fn is_in_use(&self) -> bool {
        !self.running.lock().is_empty()
    }

    fn used(&self) -> Instant {
        *self.used.lock()
    }

    fn touch(&self) {
        *self.used.lock() = Instant::now();
    }
}

impl Session {
    pub fn new(key: KeyId, link: Link, meta: String) -> Result<Arc<Self>, Refusal> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Refusal::UpstreamUnreachable)?;
        Ok(Arc::new(Self {
            id: format!("{:032x}", u128::from_be_bytes(random)),
            key,
            link,
            meta,
            asked: AtomicU64::new(1),
            running: Mutex::default(),
            waiting: Mutex::default(),
            level: Mutex::default(),
            resources: Mutex::default(),
            changed: Notify::new(),
            used: Mutex::new(Instant::now()),
            end: CancellationToken::new(),
        }))
    }

    pub async fn close(&self) {
        self.end.cancel();
        self.link.close().await;
    }

    /// An id that no message of ours had in this session.
    pub fn next_id(&self) -> RequestId {
        wire_id(self.asked.fetch_add(1, Ordering::Relaxed))
    }

    /// What every request says of the client.
    pub fn meta(&self) -> String {
        match &*self.level.lock() {
            Some(level) => {
                format!(r#"{},"io.modelcontextprotocol/logLevel":{}"#, self.meta, json!(level))
            }
            None => self.meta.clone(),
        }
    }

    pub fn set_level(&self, body: &[u8]) -> Result<(), Refusal> {
        let level = messages::params(body).and_then(|params| messages::text(&params, "level"));
        let level = level.ok_or(Refusal::InvalidParams("`params.level` must name a level."))?;
        *self.level.lock() = Some(level);
        Ok(())
    }

    /// Begins a request; the token says that the client does not want it any more.
    ///
    /// # Errors
    /// One with this id is running.
    pub fn begin(&self, id: &IdKey) -> Result<CancellationToken, Refusal> {
        match self.running.lock().entry(id.clone()) {
            Entry::Occupied(_) => Err(ID_IN_USE),
            Entry::Vacant(place) => Ok(place.insert(self.end.child_token()).clone()),
        }
    }

    pub fn end(&self, id: &IdKey) {
        self.running.lock().remove(id);
        sessions::Session::touch(self);
    }

    pub fn cancel(&self, id: &IdKey) {
        if let Some(running) = self.running.lock().get(id) {
            running.cancel();
        }
    }

    /// Expects the client's answer to a request of ours.
    pub fn expect(&self, id: &RequestId) -> oneshot::Receiver<Bytes> {
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(id.key.clone(), sender);
        answer
    }

    /// Nobody waits for it any more.
    pub fn forget(&self, id: &RequestId) {
        self.waiting.lock().remove(&id.key);
    }

    /// The client has answered.
    pub fn heard(&self, id: &IdKey, answer: Bytes) {
        match self.waiting.lock().remove(id) {
            Some(waiting) => drop(waiting.send(answer)), // Given up meanwhile.
            None => tracing::debug!("A client answered what nobody asked"),
        }
    }

    pub fn subscribe(&self, uri: String, on: bool) {
        let mut resources = self.resources.lock();
        let changed = if on { resources.insert(uri) } else { resources.remove(&uri) };
        if changed {
            self.changed.notify_waiters();
        }
    }

    /// The session's own stream, until the client goes or `stop`.
    pub fn stream(self: &Arc<Self>, stop: CancellationToken) -> Response {
        let (to, messages) = mpsc::channel(FRAMES);
        tokio::spawn(self.clone().listen(to, stop));
        let next = async |mut messages: mpsc::Receiver<Bytes>| {
            let message = messages.recv().await?;
            Some((Bytes::from(answer::event(&message)), messages))
        };
        let frames = stream::unfold(messages, next).map(Ok::<_, Infallible>);
        answer::events(Body::from_stream(frames))
    }

    /// Listens to the server, anew whenever the client subscribes to something else.
    async fn listen(self: Arc<Self>, to: mpsc::Sender<Bytes>, stop: CancellationToken) {
        loop {
            let changed = self.changed.notified();
            let told = tokio::select! {
                told = self.listen_once(&to) => told,
                () = changed => Ok(()),
                () = to.closed() => return,
                () = stop.cancelled() => return,
                () = self.end.cancelled() => return,
            };
            if told.is_err() {
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = to.closed() => return,
                    () = stop.cancelled() => return,
                    () = self.end.cancelled() => return,
                }
            }
        }
    }

    async fn listen_once(&self, to: &mpsc::Sender<Bytes>) -> Result<(), Refusal> {
        let (id, meta) = (self.next_id(), self.meta());
        let resources: Vec<String> = self.resources.lock().iter().cloned().collect();
        let mut wanted = json!({ "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true });
        if !resources.is_empty() {
            wanted["resourceSubscriptions"] = json!(resources);
        }
        let ask = format!(
            r#"{{"jsonrpc":"2.0","id":{},"method":"subscriptions/listen","params":{{"_meta":{{{meta}}},"notifications":{wanted}}}}}"#,
            id.raw
        );
        let new = Some(("subscriptions/listen", None));
        let mut pieces = self.link.ask(&id, ask.into(), new, Instant::now() + YEAR).await?;
        loop {
            match pieces.recv().await {
                Some(AnswerPiece::Message(line)) => {
                    let acknowledged = matches!(read(&line), Ok(Message::Notification { method, .. })
                        if method == "notifications/subscriptions/acknowledged");
                    if !acknowledged && to.send(line).await.is_err() {
                        return Ok(());
                    }
                }
                // It has no subscriptions, or has ended this one.
                Some(AnswerPiece::Answer(..) | AnswerPiece::Refused(_)) | None => {
                    return Err(Refusal::UpstreamInvalid);
                }
            }
        }
    }
}
