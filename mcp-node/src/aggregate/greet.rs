//! The first words: `initialize` begins a session with every server, `server/discover` asks each what it can do.

use std::sync::Arc;

use axum::{
    http::{HeaderValue, StatusCode},
    response::Response,
};
use futures::future::join_all;
use mcp_node_core::{
    Refusal,
    aggregate::{
        greeting::{self, Greeting, merged},
        list::MISSING,
    },
};
use serde_json::{Value, json};

use super::{
    Aggregate, LISTS, Member,
    ask::MemberError,
    sessions::{MemberSession, Session},
};
use crate::{
    bridge::messages::{self, LAST_OLD, META_SERVER, implementation},
    request::{Kind, Post},
    wire::{FIRST_MODERN, SESSION, answer, answer::VERSIONS},
};

/// Who could be greeted.
struct Greeted<'a> {
    said: Vec<(&'a str, Greeting)>,
    missing: Vec<&'a str>,
    first: Option<MemberError>,
}

impl Aggregate {
    /// Begins a session.
    ///
    /// # Errors
    /// There are too many, or no server begins one.
    pub(super) async fn initialize(self: &Arc<Self>, post: &Post) -> Result<Response, Refusal> {
        let Kind::Request { id, .. } = &post.kind else { return Err(Refusal::MethodNotFound) };
        self.sweep();
        let session = Session::try_new(post)?;
        let begun = NewSession { all: self.clone(), session: Some(session.clone()) };
        let asking = self.members.iter().map(|member| {
            let session = &session;
            async move {
                let part = session.part(&member.name);
                let mut part = part.lock().await;
                let greeted = self.greeted(session, member).await;
                (
                    member,
                    greeted.map(|(at, greeting)| {
                        *part = Some(Arc::<MemberSession>::new(at));
                        greeting
                    }),
                )
            }
        });
        let greeted = self.all_of(join_all(asking).await, "initialize");
        if let (Some(no), []) = (greeted.first, &greeted.said[..]) {
            return no.answer(false);
        }
        let said = messages::params(&post.body).unwrap_or_default();
        let asked = messages::text(&said, "protocolVersion").unwrap_or_default();
        let known = |known: &&&str| **known == asked && **known != FIRST_MODERN;
        let mut result = json!({
            "protocolVersion": VERSIONS.iter().find(known).unwrap_or(&LAST_OLD),
            "serverInfo": implementation(),
        });
        said_by_all(&mut result, merged(&greeted.said), &greeted.missing);
        let mut response =
            answer::json(StatusCode::OK, messages::answer(&id.raw, &result.to_string()));
        let name = HeaderValue::from_str(&session.id).expect("an id of ours is hexadecimal");
        response.headers_mut().insert(SESSION, name);
        let ended = self.kept.sessions.insert(session, self.settings.sessions())?;
        self.end_all(ended);
        begun.stays();
        Ok(response)
    }

    /// Answers `server/discover`.
    ///
    /// # Errors
    /// No server answers.
    pub(super) async fn discover(&self, post: &Post) -> Result<Response, Refusal> {
        let Kind::Request { id, .. } = &post.kind else { return Err(Refusal::MethodNotFound) };
        let asking = self.members.iter().map(|member| async move {
            let said = self.answered(None, member, post).await;
            let read = said.and_then(|said| match greeting::read(&said) {
                Ok(Some(greeting)) => Ok(greeting),
                _ => Err(Refusal::UpstreamInvalid.into()),
            });
            (member, read)
        });
        let greeted = self.all_of(join_all(asking).await, "server/discover");
        if let (Some(no), []) = (greeted.first, &greeted.said[..]) {
            return no.answer(true);
        }
        let all = merged(&greeted.said);
        let ttl_ms = if greeted.missing.is_empty() { all.ttl_ms } else { 0 };
        let mut result = json!({
            "resultType": "complete",
            "supportedVersions": VERSIONS,
            "ttlMs": ttl_ms,
            "cacheScope": if all.public { "public" } else { "private" },
            "_meta": { META_SERVER: implementation() },
        });
        said_by_all(&mut result, all, &greeted.missing);
        Ok(answer::json(StatusCode::OK, messages::answer(&id.raw, &result.to_string())))
    }

    fn all_of<'a>(
        &self,
        answered: Vec<(&'a Member, Result<Greeting, MemberError>)>,
        method: &str,
    ) -> Greeted<'a> {
        let mut greeted = Greeted { said: vec![], missing: vec![], first: None };
        for (member, answered) in answered {
            match answered {
                Ok(greeting) => greeted.said.push((&*member.name, greeting)),
                Err(no) => {
                    self.misses(member, method, &no);
                    greeted.missing.push(&*member.name);
                    greeted.first.get_or_insert(no);
                }
            }
        }
        greeted
    }

    /// Ends sessions that nobody used for long.
    fn sweep(self: &Arc<Self>) {
        self.end_all(self.kept.sessions.take_idle(self.settings.session_idle));
    }

    fn end_all(self: &Arc<Self>, ended: Vec<Arc<Session>>) {
        for session in ended {
            let all = self.clone();
            tokio::spawn(async move { all.end(&session).await });
        }
    }

    /// Ends a session at every server.
    pub(super) async fn end(&self, session: &Session) {
        session.end.cancel();
        let ending = self.members.iter().map(|member| async move {
            let part = session.part(&member.name);
            let Some(at) = part.lock().await.take() else { return };
            let mut inbound = session.hello.inbound.clone();
            at.put(&mut inbound.headers);
            if at.id.is_some() {
                drop(member.upstream.delete(&inbound).await); // Who does not end sessions lets them go idle.
            }
        });
        join_all(ending).await;
    }
}

/// A session that begins; dropped, what has begun of it ends.
struct NewSession {
    all: Arc<Aggregate>,
    session: Option<Arc<Session>>,
}

impl NewSession {
    fn stays(mut self) {
        self.session = None;
    }
}

impl Drop for NewSession {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let all = self.all.clone();
            tokio::spawn(async move { all.end(&session).await });
        }
    }
}

fn said_by_all(result: &mut Value, mut all: Greeting, missing: &[&str]) {
    for list in LISTS {
        if let Some(Value::Object(can)) = all.capabilities.get_mut(list) {
            can.insert("listChanged".to_owned(), true.into()); // When servers come and go.
        }
    }
    result["capabilities"] = Value::Object(all.capabilities);
    if let Some(instructions) = all.instructions {
        result["instructions"] = instructions.into();
    }
    if !missing.is_empty() {
        result["_meta"][MISSING] = json!(missing);
    }
}
