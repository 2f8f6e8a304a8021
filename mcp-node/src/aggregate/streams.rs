//! Streams of what servers say of their own, several as one: a session's own stream, and subscriptions.
//!
//! Each server feeds the client's stream; one that breaks off is asked again after a while, where it left off if its
//! events have ids. When the node's servers change, those that came feed it too, and the client hears that what it
//! could list is another list now.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode},
    response::Response,
};
use bytes::Bytes;
use futures::stream;
use mcp_node_core::{
    Refusal,
    aggregate::{cursor::Places, tag::EventId},
    message::{Message, read},
    sse,
};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    Aggregate, LISTS, Member, SharedState,
    ask::{MemberError, whole},
    back,
    sessions::Session,
    subscriptions::Subscription,
};
use crate::{
    call::client::FRAMES,
    request::Inbound,
    wire::{
        answer,
        frames::{self, Frames, is_events},
    },
};

/// How long to wait before a server is asked again, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const LAST_EVENT: &str = "last-event-id";

/// Whose stream it is.
#[derive(Clone)]
pub enum StreamOwner {
    Session(Arc<Session>, Inbound),
    Subscription(Arc<Subscription>),
}

/// A server's part of a stream.
pub enum Part {
    /// It is open; with what the server says that it will tell of.
    Open(Frames, Map<String, Value>),
    /// The server has no such stream.
    Never,
}

/// A stream and those who feed it.
#[derive(Clone)]
pub struct Feeding {
    pub kept: Arc<SharedState>,
    pub whose: StreamOwner,
    pub to: mpsc::Sender<Bytes>,
    /// The last event of each server.
    pub places: Arc<Mutex<Places>>,
}

impl Aggregate {
    /// Opens a session's own stream, or goes on with one that broke off.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub async fn get(self: &Arc<Self>, inbound: &Inbound) -> Result<Response, Refusal> {
        let missing = Refusal::InvalidRequest("The header Mcp-Session-Id is missing.");
        let session = self.kept.sessions.named_by(inbound)?.ok_or(missing)?;
        let last = inbound.headers.get(LAST_EVENT).and_then(|id| id.to_str().ok());
        let places = match last.and_then(EventId::read) {
            Some(EventId::Of(server, own)) => {
                return self.resume(&session, inbound, &server, &own).await;
            }
            Some(EventId::All(places)) => places,
            None => Places::new(),
        };
        let (to, frames) = mpsc::channel(FRAMES);
        let whose = StreamOwner::Session(session.clone(), inbound.clone());
        let (kept, places) = (self.kept.clone(), Arc::new(Mutex::new(places)));
        let feeding = Feeding { kept, whose, to, places };
        tokio::spawn(feeding.run(self.clone(), HashMap::new()));
        let held = session.in_use();
        let next = |(mut frames, held): (mpsc::Receiver<Bytes>, Arc<()>)| async {
            let frame = frames.recv().await?;
            Some((frame, (frames, held)))
        };
        Ok(answer::events(frames::body(stream::unfold((frames, held), next))))
    }

    /// Goes on with one server's answer to one request.
    async fn resume(
        &self,
        session: &Arc<Session>,
        inbound: &Inbound,
        server: &str,
        own: &str,
    ) -> Result<Response, Refusal> {
        let member = self.member(server).ok_or(Refusal::SessionNotFound)?;
        let at = self.begun(session, member, None).await?;
        let mut inbound = inbound.clone();
        at.put(&mut inbound.headers);
        let own = HeaderValue::from_str(own).map_err(|_| Refusal::SessionNotFound)?;
        inbound.headers.insert(LAST_EVENT, own);
        let response = member.upstream.get(&inbound).await?;
        self.back(Some(session), member, session.key, None).of(response).await
    }

    /// Opens a server's part of a session's own stream, behind its last event.
    async fn own_stream(
        &self,
        session: &Arc<Session>,
        inbound: &Inbound,
        member: &Member,
        last: Option<String>,
    ) -> Result<Part, MemberError> {
        let open = async |lost| {
            let at = self.begun(session, member, lost).await?;
            let mut inbound = inbound.clone();
            at.put(&mut inbound.headers);
            inbound.headers.remove(LAST_EVENT);
            if let Some(last) = last.as_deref().and_then(|last| HeaderValue::from_str(last).ok()) {
                inbound.headers.insert(LAST_EVENT, last);
            }
            Ok::<_, Refusal>((member.upstream.get(&inbound).await, at))
        };
        let (mut opened, at) = open(None).await?;
        if matches!(opened, Err(Refusal::SessionNotFound)) {
            (opened, _) = open(Some(&at)).await?;
        }
        let response = opened?;
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            return Ok(Part::Never);
        }
        self.part(response).await
    }

    /// A part that is open, if the answer is a stream.
    pub(super) async fn part(&self, response: Response) -> Result<Part, MemberError> {
        let max = self.settings.max_answer_bytes;
        if response.status().is_success() && is_events(response.headers()) {
            return Ok(Part::Open(Frames::of(response.into_body(), max), Map::new()));
        }
        let body = whole(response, max).await?;
        match read(&body) {
            Ok(Message::Answer { .. }) => Err(MemberError::Said(body)),
            _ => Err(Refusal::UpstreamInvalid.into()),
        }
    }
}

impl Feeding {
    /// Has every server feed the stream until the client goes, the session ends, or all has been said. `open` = the
    /// parts that are open already, by server.
    pub async fn run(self, mut all: Arc<Aggregate>, mut open: HashMap<Arc<str>, Part>) {
        let mut changes = self.kept.now.subscribe();
        let (mut feeders, mut fed) = (JoinSet::new(), HashMap::<Arc<str>, AbortHandle>::new());
        let over = self.over();
        tokio::pin!(over);
        loop {
            for member in &all.members {
                if !fed.contains_key(&member.name) {
                    let part = open.remove(&member.name);
                    let feeder = self.clone().feed(all.clone(), member.clone(), part);
                    fed.insert(member.name.clone(), feeders.spawn(feeder));
                }
            }
            let now = loop {
                tokio::select! {
                    changed = changes.changed() => {
                        let now = changes.borrow_and_update().clone();
                        match now.filter(|_| changed.is_ok()) {
                            Some(now) => break now,
                            None => return,
                        }
                    }
                    ended = feeders.join_next(), if !feeders.is_empty() => {
                        drop(ended); // One that was stopped is no error.
                        if feeders.is_empty() && self.ends_with_servers() {
                            return;
                        }
                    }
                    () = &mut over => return,
                }
            };
            let Some(now) = now.upgrade() else { return };
            let stays = |name: &Arc<str>| {
                let same =
                    |(one, two): (&Member, &Member)| Arc::ptr_eq(&one.upstream, &two.upstream);
                all.member(name).zip(now.member(name)).is_some_and(same)
            };
            fed.retain(|name, feeder| {
                let stays = stays(name);
                if !stays {
                    feeder.abort();
                }
                stays
            });
            all = now;
            self.say_that_lists_changed().await;
        }
    }

    /// Returns when nothing more is to be said.
    fn over(&self) -> impl Future<Output = ()> + 'static {
        let (to, stopping) = (self.to.clone(), self.kept.stopping.clone());
        let end = match &self.whose {
            StreamOwner::Session(session, _) => Some(session.end.clone()),
            StreamOwner::Subscription(_) => None,
        };
        async move {
            let ended = async {
                match end {
                    Some(end) => end.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = to.closed() => {}
                () = stopping.cancelled() => {}
                () = ended => {}
            }
        }
    }

    fn ends_with_servers(&self) -> bool {
        matches!(self.whose, StreamOwner::Subscription(_))
    }

    async fn say_that_lists_changed(&self) {
        for list in LISTS {
            let notice =
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"}}"#);
            let notice = match &self.whose {
                StreamOwner::Session(..) => Some(notice.into()),
                StreamOwner::Subscription(subscription) => subscription.notice(list, &notice),
            };
            if let Some(notice) = notice {
                drop(self.to.send(answer::event(&notice).into()).await); // The client is gone.
            }
        }
    }

    /// Passes on what one server says, for as long as it has something to say.
    async fn feed(self, all: Arc<Aggregate>, member: Member, mut part: Option<Part>) {
        let mut pause = PAUSE;
        loop {
            let opened = match part.take() {
                Some(part) => Ok(part),
                None => self.open(&all, &member).await,
            };
            match opened {
                Ok(Part::Open(mut frames, _)) => {
                    pause = PAUSE;
                    while let Some(Ok(frame)) = frames.next().await {
                        match self.frame(&member, &frame) {
                            Some(frame) => {
                                if self.to.send(frame).await.is_err() {
                                    return;
                                }
                            }
                            None => return,
                        }
                    }
                }
                Ok(Part::Never) => return,
                Err(no) if no.is_none_here() => return,
                Err(no) => {
                    tracing::debug!(server = &*member.name, ?no, "A server has no stream now");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn open(&self, all: &Arc<Aggregate>, member: &Member) -> Result<Part, MemberError> {
        match &self.whose {
            StreamOwner::Session(session, inbound) => {
                let last = self.places.lock().get(&*member.name).cloned();
                all.own_stream(session, inbound, member, last).await
            }
            StreamOwner::Subscription(subscription) => {
                all.subscribed(&subscription.post, member).await
            }
        }
    }

    /// A frame as the client gets it, perhaps empty; `None` = the server has said all.
    fn frame(&self, member: &Member, frame: &Bytes) -> Option<Bytes> {
        let Some(data) = sse::data(frame) else { return Some(self.with_places(member, frame)) };
        let told = match (read(&data), &self.whose) {
            (Ok(Message::Answer { .. }), StreamOwner::Subscription(_)) => return None,
            (Ok(Message::Answer { id, .. }), StreamOwner::Session(session, _)) => {
                // What answers none of its calls answers what the node asked of its own.
                let ours = id.is_some_and(|id| session.ended(&id.key()));
                if !ours {
                    return Some(Bytes::new());
                }
                frame.clone()
            }
            (Ok(Message::Notification { method, .. }), StreamOwner::Subscription(_))
                if method == "notifications/subscriptions/acknowledged" =>
            {
                return Some(Bytes::new());
            }
            _ => Bytes::copy_from_slice(&back::message(&member.name, frame, &data)),
        };
        Some(self.with_places(member, &told))
    }

    /// A frame whose id, if it has one, says where every server stands.
    fn with_places(&self, member: &Member, frame: &[u8]) -> Bytes {
        let all = |own: &str| {
            let mut places = self.places.lock();
            places.insert(member.name.to_string(), own.to_owned());
            EventId::All(places.clone()).written()
        };
        Bytes::copy_from_slice(&sse::with_ids(frame, all))
    }
}
