//! One server asked, within the client's session if there is one.

use std::sync::Arc;

use axum::{http::StatusCode, response::Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use mcp_node_core::{
    Refusal,
    aggregate::greeting::{self, Greeting},
    message::{Answer, IdKey, Message, read},
    splice, sse,
};

use super::{
    Aggregate, Member,
    sessions::{MemberSession, Session},
};
use crate::{
    bridge::messages::{INITIALIZED, addressed, agreed},
    request::{Kind, Post},
    wire::{
        SESSION, VERSION, answer,
        frames::{Frames, is_events},
    },
};

/// Why a server has no part in an answer.
#[derive(Debug)]
pub enum MemberError {
    Refused(Refusal),
    /// It answered an error: this.
    Said(Bytes),
}

impl From<Refusal> for MemberError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl MemberError {
    /// Whether it has nothing of the kind, as opposed to having failed.
    pub fn is_none_here(&self) -> bool {
        match self {
            Self::Refused(refusal) => *refusal == Refusal::MethodNotFound,
            Self::Said(error) => splice::code(error) == Some(NO_METHOD),
        }
    }

    /// The client's answer, where this is all that there is to say.
    pub fn answer(self, modern: bool) -> Result<Response, Refusal> {
        match self {
            Self::Refused(refusal) => Err(refusal),
            Self::Said(error) => {
                let status = match splice::code(&error) {
                    Some(NO_METHOD) if modern => StatusCode::NOT_FOUND,
                    Some(-32022..=-32020) if modern => StatusCode::BAD_REQUEST,
                    _ => StatusCode::OK,
                };
                Ok(answer::json(status, error))
            }
        }
    }
}

/// JSON-RPC: there is no such method.
pub const NO_METHOD: i64 = -32601;

impl Aggregate {
    /// Sends a message to a server. One that has forgotten the session has not run anything in it: it is greeted again,
    /// once, and gets the message then.
    ///
    /// # Errors
    /// As for [`crate::upstream::Upstream::post`].
    pub(super) async fn ask(
        &self,
        session: Option<&Arc<Session>>,
        member: &Member,
        post: &Post,
    ) -> Result<Response, Refusal> {
        let to = |at: &MemberSession| {
            let mut headers = post.inbound.headers.clone();
            at.put(&mut headers);
            post.at(&member.name, headers)
        };
        let Some(session) = session else {
            return member.upstream.post(post.at(&member.name, post.inbound.headers.clone())).await;
        };
        let at = self.begun(session, member, None).await.inspect_err(|why| post.refused(why))?;
        let asked = member.upstream.post(to(&at)).await;
        let lost = match &asked {
            Ok(response) => response.status() == StatusCode::NOT_FOUND && at.id.is_some(),
            Err(refusal) => *refusal == Refusal::SessionNotFound,
        };
        if !lost {
            return asked;
        }
        tracing::info!(
            server = &*member.name,
            "A server has forgotten a session: it is greeted again"
        );
        let at =
            self.begun(session, member, Some(&at)).await.inspect_err(|why| post.refused(why))?;
        member.upstream.post(to(&at)).await
    }

    /// Where a server stands in a session, which begins there now if it has not, or if it is at `lost` still.
    pub(super) async fn begun(
        &self,
        session: &Arc<Session>,
        member: &Member,
        lost: Option<&Arc<MemberSession>>,
    ) -> Result<Arc<MemberSession>, Refusal> {
        let part = session.part(&member.name);
        let mut part = part.lock().await;
        if let Some(at) = &*part
            && !lost.is_some_and(|lost| Arc::ptr_eq(lost, at))
        {
            return Ok(at.clone());
        }
        *part = None;
        let (at, _) = self.greeted(session, member).await.map_err(|no| match no {
            MemberError::Refused(Refusal::SessionNotFound) | MemberError::Said(_) => {
                Refusal::UpstreamInvalid
            }
            MemberError::Refused(refusal) => refusal,
        })?;
        let at = Arc::new(at);
        let mut headers = session.hello.inbound.headers.clone();
        at.put(&mut headers);
        let mut told = session.hello.at(&member.name, headers);
        told.kind = Kind::Notification { cancels: None };
        told.body = Bytes::from_static(INITIALIZED.as_bytes());
        drop(member.upstream.post(told).await?);
        let level = session.level.lock().clone();
        if let Some(level) = level {
            let mut headers = level.inbound.headers.clone();
            at.put(&mut headers);
            drop(member.upstream.post(level.at(&member.name, headers)).await); // It may know no levels.
        }
        *part = Some(at.clone());
        Ok(at)
    }

    /// Says the client's first words to a server.
    pub(super) async fn greeted(
        &self,
        session: &Session,
        member: &Member,
    ) -> Result<(MemberSession, Greeting), MemberError> {
        let hello = &session.hello;
        let mut headers = hello.inbound.headers.clone();
        headers.remove(SESSION);
        let asked = async {
            let response = member.upstream.post(hello.at(&member.name, headers)).await?;
            let id = response.headers().get(SESSION).cloned();
            Ok::<_, Refusal>((id, self.answer_in(response, hello).await?))
        };
        let timeout = self.settings.request_timeout;
        let (id, said) =
            tokio::time::timeout(timeout, asked).await.map_err(|_| Refusal::UpstreamTimeout)??;
        let version = agreed(&said);
        match greeting::read(&said) {
            Ok(Some(greeting)) => Ok((MemberSession { id, version }, greeting)),
            Ok(None) => Err(MemberError::Said(said)),
            Err(_) => Err(Refusal::UpstreamInvalid.into()),
        }
    }

    /// Asks a server and reads its whole answer, a result; what it says besides on the way is not passed on.
    pub(super) async fn answered(
        &self,
        session: Option<&Arc<Session>>,
        member: &Member,
        post: &Post,
    ) -> Result<Bytes, MemberError> {
        let asked = async {
            let response = self.ask(session, member, post).await?;
            self.answer_in(response, post).await
        };
        let timeout = self.settings.request_timeout;
        let said =
            tokio::time::timeout(timeout, asked).await.map_err(|_| Refusal::UpstreamTimeout)??;
        match read(&said) {
            Ok(Message::Answer { answer: Answer::Error, .. }) => Err(MemberError::Said(said)),
            _ => Ok(said),
        }
    }

    /// The answer to a request, in one piece or behind other messages.
    async fn answer_in(&self, response: Response, post: &Post) -> Result<Bytes, Refusal> {
        let Kind::Request { id, .. } = &post.kind else { return Err(Refusal::UpstreamInvalid) };
        let max = self.settings.max_answer_bytes;
        let ours = |message: &[u8]| {
            is_answer(message, &id.key).then(|| addressed(message, &id.raw)).flatten()
        };
        if is_events(response.headers()) {
            let mut frames = Frames::of(response.into_body(), max);
            while let Some(Ok(frame)) = frames.next().await {
                if let Some(answer) = sse::data(&frame).and_then(|data| ours(&data)) {
                    return Ok(answer);
                }
            }
            return Err(Refusal::UpstreamInvalid);
        }
        let body = whole(response, max).await?;
        ours(&body).ok_or(Refusal::UpstreamInvalid)
    }
}

/// All of a body, within its limit.
pub async fn whole(response: Response, max: usize) -> Result<Bytes, Refusal> {
    let whole = Limited::new(response.into_body(), max).collect().await;
    whole.map(http_body_util::Collected::to_bytes).map_err(|error| {
        tracing::warn!(%error, "An answer broke off, or is too large");
        Refusal::UpstreamInvalid
    })
}

/// Whether a message answers this request; an error without an id does, since its sender could not read the request's.
fn is_answer(message: &[u8], asked: &IdKey) -> bool {
    match read(message) {
        Ok(Message::Answer { id: Some(id), .. }) => id.key() == *asked,
        Ok(Message::Answer { id: None, answer }) => answer == Answer::Error,
        _ => false,
    }
}

/// Takes away what a server says of its own sessions.
pub fn strip(response: &mut Response) {
    response.headers_mut().remove(SESSION);
    response.headers_mut().remove(VERSION);
}
