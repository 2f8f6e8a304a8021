//! `subscriptions/listen` (2026-07-28) at all servers: one acknowledgement of what any of them will tell of, then what
//! they say, then one end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream};
use mcp_node_core::{
    Refusal,
    aggregate::{cursor::Places, greeting::unite},
    message::{Answer, Message, read},
    sse,
};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::{
    Aggregate, LISTS, Member,
    ask::MemberError,
    streams::{Feeding, Part, StreamOwner},
};
use crate::{
    bridge::messages,
    call::client::FRAMES,
    request::{Kind, Post},
    wire::{answer, frames},
};

/// How long a server may take to acknowledge.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What one client listens to.
pub struct Subscription {
    pub post: Post,
    /// Its id, as it was written.
    id: String,
    accepted: Map<String, Value>,
}

impl Subscription {
    /// A notice that such a list has changed, if the client wants to hear of it.
    pub fn notice(&self, list: &str, notice: &str) -> Option<Bytes> {
        let wants = self.accepted.get(&format!("{list}ListChanged")) == Some(&Value::Bool(true));
        wants.then(|| messages::subscribed(notice.as_bytes(), &self.id)).flatten()
    }
}

impl Aggregate {
    /// Opens a stream of subscriptions.
    ///
    /// # Errors
    /// No server has one.
    pub(super) async fn listen(self: &Arc<Self>, post: &Post) -> Result<Response, Refusal> {
        let Kind::Request { id, .. } = &post.kind else { return Err(Refusal::MethodNotFound) };
        let asking = self.members.iter().map(|member| async move {
            let asked = tokio::time::timeout(TIMEOUT, self.subscribed(post, member)).await;
            (member, asked.unwrap_or(Err(Refusal::UpstreamTimeout.into())))
        });
        let (mut open, mut accepted, mut first) = (HashMap::new(), Map::new(), None);
        for (member, asked) in join_all(asking).await {
            match asked {
                Ok(part) => {
                    if let Part::Open(_, tells) = &part {
                        unite(&mut accepted, tells);
                    }
                    open.insert(member.name.clone(), part);
                }
                Err(no) => {
                    if no.is_none_here() {
                        open.insert(member.name.clone(), Part::Never);
                    } else {
                        self.misses(member, "subscriptions/listen", &no);
                    }
                    first.get_or_insert(no);
                }
            }
        }
        if let Some(no) = first
            && !open.values().any(|part| matches!(part, Part::Open(..)))
        {
            return no.answer(true);
        }
        // The node itself tells of lists that change when servers come and go.
        let params = messages::params(&post.body).unwrap_or_default();
        let wanted = messages::object(&params, "notifications").unwrap_or_default();
        for name in LISTS.map(|list| format!("{list}ListChanged")) {
            if wanted.get(&name).is_some_and(|raw| raw.get() == "true") {
                accepted.insert(name, true.into());
            }
        }
        let told = Value::Object(accepted.clone()).to_string();
        let acknowledged = answer::event(&messages::acknowledged(&id.raw, &told));
        let ended = answer::event(&messages::unsubscribed(&id.raw));
        let subscription = Subscription { post: post.clone(), id: id.raw.clone(), accepted };
        let (to, frames) = mpsc::channel(FRAMES);
        let places = Arc::new(Mutex::new(Places::new()));
        let whose = StreamOwner::Subscription(Arc::new(subscription));
        let feeding = Feeding { kept: self.kept.clone(), whose, to, places };
        tokio::spawn(feeding.run(self.clone(), open));
        let frames = stream::unfold(frames, |mut frames: mpsc::Receiver<Bytes>| async {
            let frame = frames.recv().await?;
            Some((frame, frames))
        });
        let whole = stream::iter([Bytes::from(acknowledged)])
            .chain(frames)
            .chain(stream::iter([Bytes::from(ended)]));
        Ok(answer::events(frames::body(whole)))
    }

    /// Opens a server's part of a subscription, as far as its acknowledgement.
    pub(super) async fn subscribed(
        &self,
        post: &Post,
        member: &Member,
    ) -> Result<Part, MemberError> {
        let response = self.ask(None, member, post).await?;
        let Part::Open(mut frames, _) = self.part(response).await? else { return Ok(Part::Never) };
        while let Some(Ok(frame)) = frames.next().await {
            let Some(data) = sse::data(&frame) else { continue };
            match read(&data) {
                Ok(Message::Notification { .. }) => {
                    let tells = messages::params(&data).and_then(|params| {
                        serde_json::from_str(params.get("notifications")?.get()).ok()
                    });
                    return Ok(Part::Open(frames, tells.unwrap_or_default()));
                }
                Ok(Message::Answer { answer: Answer::Error, .. }) => {
                    return Err(MemberError::Said(data.into_owned().into()));
                }
                Ok(Message::Answer { .. }) => return Ok(Part::Never),
                _ => {}
            }
        }
        Err(Refusal::UpstreamInvalid.into())
    }
}
