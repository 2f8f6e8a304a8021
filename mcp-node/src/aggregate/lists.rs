//! Lists of all servers, asked at once and told as one.
//!
//! A server that fails is left out, with a warning; one that has nothing of the kind is no failure. Where one name can
//! be for two servers, all pages are read at once: whose a name is must be known before it is told.

use std::sync::{Arc, atomic::Ordering};

use axum::{http::StatusCode, response::Response};
use bytes::Bytes;
use futures::future::join_all;
use mcp_node_core::{
    Refusal,
    aggregate::{
        cursor,
        list::{List, PROMPTS, Page, Part, TOOLS, merged, page},
        names,
    },
    splice,
};

use super::{Aggregate, Member, TWICE, ask::MemberError, owners::ItemKind, sessions::Session};
use crate::{
    bridge::{messages, wire_id},
    request::{Kind, Post},
    wire::answer,
};

/// Pages of one server that are read at once; a list without an end must not be read for ever.
const MAX_PAGES: usize = 100;
/// Names of which it was said that two servers have them.
const MAX_TOLD: usize = 1_024;

const BAD_CURSOR: Refusal = Refusal::InvalidParams("`params.cursor` is none of this server's.");

/// What the servers have answered.
struct Answers<'a> {
    said: Vec<(&'a Member, Vec<Bytes>)>,
    missing: Vec<&'a Member>,
    /// Why the first has no part in it.
    first: Option<MemberError>,
}

impl Aggregate {
    /// Answers a list.
    ///
    /// # Errors
    /// Its cursor is none of ours, or no server answers.
    pub(super) async fn list(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
        list: &'static List,
    ) -> Result<Response, Refusal> {
        let Kind::Request { id, .. } = &post.kind else { return Err(Refusal::MethodNotFound) };
        let places = match names::cursor(&post.body) {
            None => None,
            Some(text) => Some(text.and_then(|text| cursor::read(&text)).ok_or(BAD_CURSOR)?),
        };
        let whole = list.is_prefixed && self.may_clash;
        if whole && places.is_some() {
            return Err(BAD_CURSOR);
        }
        let asked = self.members.iter().filter_map(|member| match &places {
            None => Some((member, None)),
            Some(places) => Some((member, Some(places.get(&*member.name)?.clone()))),
        });
        let answers = self.answers(session, post, list, asked.collect(), whole).await;
        if let (Some(no), []) = (answers.first, &answers.said[..]) {
            return no.answer(post.inbound.is_modern());
        }
        let result = self.merge(post, list, &answers.said, &answers.missing);
        Ok(answer::json(StatusCode::OK, messages::answer(&id.raw, &result)))
    }

    /// Learns whose names are, for a call whose name can be for several servers.
    pub(super) async fn learn(
        &self,
        session: Option<&Arc<Session>>,
        call: &Post,
        list: &'static List,
        of: &[usize],
    ) {
        let Some(post) = self.asking(call, list) else { return };
        let asked = of.iter().map(|at| (&self.members[*at], None));
        let mut asked: Vec<(&Member, Option<String>)> = asked.collect();
        asked.sort_by_key(|(member, _)| {
            self.members.iter().position(|known| known.name == member.name)
        });
        let answers = self.answers(session, &post, list, asked, true).await;
        self.merge(&post, list, &answers.said, &answers.missing);
    }

    /// A request for a list, by who calls.
    fn asking(&self, call: &Post, list: &List) -> Option<Post> {
        let id = wire_id(self.kept.asked.fetch_add(1, Ordering::Relaxed));
        let params = messages::params(&call.body).unwrap_or_default();
        let meta = params.get("_meta").map_or("{}", |raw| raw.get());
        let (raw, method) = (&id.raw, list.method);
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{raw},"method":"{method}","params":{{"_meta":{meta}}}}}"#
        );
        let mut post = call.clone();
        post.inbound.headers.remove("mcp-name");
        if post.inbound.headers.contains_key("mcp-method") {
            post.inbound.headers.insert("mcp-method", method.parse().ok()?);
        }
        post.body = body.into();
        post.kind = Kind::Request { id, method: method.to_owned(), tool: None, target: None };
        Some(post)
    }

    async fn answers<'a>(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
        list: &'static List,
        asked: Vec<(&'a Member, Option<String>)>,
        whole: bool,
    ) -> Answers<'a> {
        let asking = asked.into_iter().map(|(member, place)| async move {
            (member, self.pages(session, post, member, place, list, whole).await)
        });
        let mut answers = Answers { said: vec![], missing: vec![], first: None };
        for (member, answered) in join_all(asking).await {
            match answered {
                Ok(pages) => answers.said.push((member, pages)),
                Err(no) if no.is_none_here() => {
                    answers.first.get_or_insert(no);
                }
                Err(no) => {
                    self.misses(member, list.method, &no);
                    answers.missing.push(member);
                    if answers.first.as_ref().is_none_or(MemberError::is_none_here) {
                        answers.first = Some(no);
                    }
                }
            }
        }
        answers
    }

    /// The pages of one server from a place on: one, or all.
    async fn pages(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
        member: &Member,
        mut place: Option<String>,
        list: &List,
        whole: bool,
    ) -> Result<Vec<Bytes>, MemberError> {
        let (mut pages, mut held) = (vec![], 0);
        loop {
            let mut asked = post.clone();
            if let Some(place) = &place {
                asked.body = names::with_cursor(&post.body, place).ok_or(TWICE)?.into();
            }
            let answer = self.answered(session, member, &asked).await?;
            held += answer.len();
            let page = page(&answer, list).ok().flatten().ok_or(Refusal::UpstreamInvalid)?;
            place = page.next;
            pages.push(answer);
            if place.is_none() || !whole {
                return Ok(pages);
            }
            if pages.len() == MAX_PAGES || held > self.settings.max_answer_bytes {
                tracing::warn!(server = &*member.name, "A list has no end: the rest is left out");
                return Ok(pages);
            }
        }
    }

    /// One list of all answers, whose names are known from then on.
    fn merge(
        &self,
        post: &Post,
        list: &'static List,
        said: &[(&Member, Vec<Bytes>)],
        missing: &[&Member],
    ) -> String {
        let read = |body| page(body, list).ok().flatten();
        let parts = said.iter().map(|(member, bodies)| {
            let mut pages: Vec<Page<'_>> = bodies.iter().filter_map(|body| read(body)).collect();
            if list.is_prefixed && self.may_clash {
                pages.iter_mut().for_each(|page| page.next = None); // All that is told was read.
            }
            Part { server: &member.name, prefix: &member.prefix, pages }
        });
        let parts: Vec<Part<'_>> = parts.collect();
        let missing: Vec<&str> = missing.iter().map(|member| &*member.name).collect();
        let merged = merged(list, &parts, &missing);
        let (key, what) = (post.inbound.caller.state().key, ItemKind::of(list));
        if !list.is_prefixed || self.may_clash {
            for (name, at) in merged.offers {
                self.kept.owners.learn(key, what, name, &said[at].0.name);
            }
        }
        for (name, at) in &merged.clashes {
            self.tell_once(name, &said[*at].0.name);
        }
        merged.result
    }

    fn tell_once(&self, name: &str, server: &str) {
        let mut told = self.kept.told.lock();
        if told.len() < MAX_TOLD && told.insert(format!("{server} {name}")) {
            tracing::warn!(
                server,
                name,
                "A server has what one before it has: the first one's is shown"
            );
        }
    }

    /// Notes that a server should have answered and did not.
    pub(super) fn misses(&self, member: &Member, method: &str, no: &MemberError) {
        let server = member.name.to_string();
        metrics::counter!("mcp_aggregate_missing_total", "server" => server).increment(1);
        let (server, why) = (
            &*member.name,
            match no {
                MemberError::Refused(refusal) => refusal.reason().to_owned(),
                MemberError::Said(error) => {
                    format!("error {}", splice::code(error).unwrap_or_default())
                }
            },
        );
        tracing::warn!(server, method, why, "A server is left out of an answer");
    }

    /// The server that a name of a tool or prompt is for, and what that server calls it.
    pub(super) async fn whose<'n>(
        &self,
        session: Option<&Arc<Session>>,
        post: &Post,
        what: ItemKind,
        name: &'n str,
    ) -> Option<(&Member, &'n str)> {
        let prefixes = self.members.iter().map(|member| &*member.prefix);
        let fitting = names::candidates(prefixes, name);
        let mut at = *fitting.first()?;
        if fitting.len() > 1 {
            let list = if what == ItemKind::Tool { &TOOLS } else { &PROMPTS };
            let key = post.inbound.caller.state().key;
            let known = || {
                let owner = self.kept.owners.get(key, what, name)?;
                fitting.iter().copied().find(|at| self.members[*at].name == owner)
            };
            let mut owner = known();
            if owner.is_none() {
                self.learn(session, post, list, &fitting).await;
                owner = known();
            }
            at = owner.unwrap_or(at);
        }
        let member = &self.members[at];
        Some((member, &name[member.prefix.len()..]))
    }
}
