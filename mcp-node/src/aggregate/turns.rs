//! What only one server can answer, and nothing in the request says which: the one that is known to have it, else each
//! in turn until one does not say that there is no such thing.

use std::sync::Arc;

use axum::response::Response;
use futures::{StreamExt, stream};
use mcp_node_core::{
    Refusal,
    message::{Answer, Message, read},
    splice, sse,
};

use super::{
    Aggregate, Member,
    ask::{NO_METHOD, whole},
    owners::ItemKind,
    sessions::Session,
};
use crate::{
    request::{Kind, Post},
    wire::frames::{self, Frames, is_events},
};

/// How servers say that there is no such resource, task, prompt or method.
const NOT_FOUND: [i64; 3] = [NO_METHOD, -32602, -32002];

/// What one server says to it.
enum TurnAnswer {
    /// Something: this, and whether it is a result.
    This(Response, bool),
    NotFound(Result<Response, Refusal>),
}

impl Aggregate {
    /// Asks the server that has it, by its name, or each in turn.
    ///
    /// # Errors
    /// One failed and no other has it, or it was refused.
    pub(super) async fn in_turn(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
        wanted: Option<(ItemKind, String)>,
    ) -> Result<Response, Refusal> {
        let key = post.inbound.caller.state().key;
        let owner = wanted.as_ref().and_then(|(what, name)| self.kept.owners.get(key, *what, name));
        if let Some(member) = owner.and_then(|name| self.member(&name)) {
            return self.forward(session, member, post).await;
        }
        let (mut nobody, mut failed) = (None, None);
        for member in &self.members {
            match self.turn(session, member, post).await {
                Ok(TurnAnswer::This(response, is_result)) => {
                    if let Some((what, name)) = wanted.filter(|_| is_result) {
                        self.kept.owners.learn(key, what, name, &member.name);
                    }
                    return Ok(response);
                }
                Ok(TurnAnswer::NotFound(response)) => drop(nobody.get_or_insert(response)),
                Err(refusal) => drop(failed.get_or_insert(refusal)),
            }
        }
        match (failed, nobody) {
            // It may be there.
            (Some(refusal), _) => Err(refusal),
            (None, Some(response)) => response,
            (None, None) => Err(Refusal::MethodNotFound),
        }
    }

    async fn turn(
        &self,
        session: Option<&Arc<Session>>,
        member: &Member,
        post: &Post,
    ) -> Result<TurnAnswer, Refusal> {
        let response = match self.forward(session, member, post).await {
            Ok(response) => response,
            Err(refusal @ (Refusal::MethodNotFound | Refusal::InvalidParams(_))) => {
                return Ok(TurnAnswer::NotFound(Err(refusal)));
            }
            Err(refusal) => return Err(refusal),
        };
        let max = self.settings.max_answer_bytes;
        if !is_events(response.headers()) {
            let (head, body) = response.into_parts();
            let body = whole(Response::new(body), max).await?;
            let said = answers(&body);
            return Ok(said.as_said(Response::from_parts(head, body.into())));
        }
        // As far as the first message: what comes before an answer shows that it is there.
        let (head, body) = response.into_parts();
        let (mut frames, mut seen) = (Frames::of(body, max), vec![]);
        let mut said = First::Other;
        while let Some(Ok(frame)) = frames.next().await {
            let data = sse::data(&frame).map(|data| answers(&data));
            seen.push(frame);
            if let Some(found) = data.filter(|found| !matches!(found, First::Nothing)) {
                said = found;
                break;
            }
        }
        let all = stream::iter(seen).chain(frames.into_stream());
        Ok(said.as_said(Response::from_parts(head, frames::body(all))))
    }

    /// Sends a request to one server, and its answer back.
    ///
    /// # Errors
    /// As for [`crate::upstream::Upstream::post`].
    pub(super) async fn forward(
        &self,
        session: Option<&Arc<Session>>,
        member: &Member,
        post: &Post,
    ) -> Result<Response, Refusal> {
        let Kind::Request { id, .. } = &post.kind else { return Err(Refusal::MethodNotFound) };
        if let Some(session) = session {
            session.began(&id.key, &member.name);
        }
        let response = match self.ask(session, member, post).await {
            Ok(response) => response,
            Err(refusal) => {
                if let Some(session) = session {
                    session.ended(&id.key);
                }
                return Err(refusal);
            }
        };
        self.back(session, member, post.inbound.caller.state().key, Some(id.key.clone()))
            .of(response)
            .await
    }
}

/// What a first message is.
#[derive(Clone, Copy)]
enum First {
    Nothing,
    NotFound,
    Result,
    Other,
}

impl First {
    fn as_said(self, response: Response) -> TurnAnswer {
        match self {
            Self::NotFound => TurnAnswer::NotFound(Ok(response)),
            Self::Result => TurnAnswer::This(response, true),
            Self::Nothing | Self::Other => TurnAnswer::This(response, false),
        }
    }
}

fn answers(message: &[u8]) -> First {
    match read(message) {
        Ok(Message::Answer { answer: Answer::Error, .. }) => {
            let code = splice::code(message);
            if code.is_some_and(|code| NOT_FOUND.contains(&code)) {
                First::NotFound
            } else {
                First::Other
            }
        }
        Ok(Message::Answer { .. }) => First::Result,
        Ok(_) => First::Other,
        Err(_) => First::Nothing,
    }
}
