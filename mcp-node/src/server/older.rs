//! A server whose address may speak HTTP+SSE of 2024-11-05 instead of Streamable HTTP: found out as the specification
//! tells clients to, by a GET where a POST of `initialize` is refused.
//!
//! What was found out holds as long as the upstream does. Absent on purpose: finding out the other way round.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use axum::{http::StatusCode, response::Response};
use futures::{FutureExt, future::BoxFuture};
use mcp_node_core::Refusal;

use super::Upstream;
use crate::{
    request::{Inbound, Post},
    upstream::Server,
};

/// How long a stream may take to say that it is one of 2024-11-05.
const PROBE: Duration = Duration::from_secs(5);

/// The server as it would be reached.
pub struct LegacyTransport {
    upstream: Box<Upstream>,
    is_found: AtomicBool,
}

impl LegacyTransport {
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }
}

/// Whether the answer to an `initialize` says that the address may be one of 2024-11-05.
pub fn is_asked(answered: &Result<Response, Refusal>) -> bool {
    let refusing = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
    answered.as_ref().is_ok_and(|response| refusing.contains(&response.status()))
}

impl Upstream {
    /// The same server; if its address turns out to speak HTTP+SSE of 2024-11-05, it is reached as `older`.
    #[must_use]
    pub fn or_older(self, older: Self) -> Self {
        let older = LegacyTransport { upstream: Box::new(older), is_found: AtomicBool::new(false) };
        Self { older: Some(older), ..self }
    }

    /// The server as it is reached, if that was found out.
    pub(super) fn is_older(&self) -> Option<&Self> {
        let older = self.older.as_ref()?;
        older.is_found.load(Ordering::Relaxed).then_some(&*older.upstream)
    }

    /// Finds it out, for the sender of a message.
    pub(super) async fn find_older(&self, post: &Post) -> Option<&Self> {
        let older = self.older.as_ref()?;
        let Server::Duplex(duplex) = &*older.upstream.server else { return None };
        let grant = post.inbound.grant();
        let speaks = duplex.speaks(&grant);
        if !tokio::time::timeout(PROBE, speaks).await.unwrap_or_default() {
            return None;
        }
        if !older.is_found.swap(true, Ordering::Relaxed) {
            tracing::info!("The server speaks HTTP+SSE of 2024-11-05");
        }
        Some(&older.upstream)
    }

    pub(super) fn post_boxed(&self, post: Post) -> BoxFuture<'_, Result<Response, Refusal>> {
        self.post(post).boxed()
    }

    pub(super) fn get_boxed<'a>(
        &'a self,
        inbound: &'a Inbound,
    ) -> BoxFuture<'a, Result<Response, Refusal>> {
        self.get(inbound).boxed()
    }

    pub(super) fn delete_boxed<'a>(
        &'a self,
        inbound: &'a Inbound,
    ) -> BoxFuture<'a, Result<Response, Refusal>> {
        self.delete(inbound).boxed()
    }

    pub(super) fn stop_boxed(&self) -> BoxFuture<'_, ()> {
        self.stop().boxed()
    }
}
