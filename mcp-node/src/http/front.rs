//! What stands at an address: one server, or several as one.

use std::sync::Arc;

use axum::response::Response;
use mcp_node_core::Refusal;

use crate::{
    aggregate::Aggregate,
    request::{Inbound, Post},
    server::Upstream,
};

/// One server, or several as one; both serve the same messages.
#[derive(Clone)]
pub enum Endpoint {
    One(Arc<Upstream>),
    All(Arc<Aggregate>),
}

impl From<Arc<Upstream>> for Endpoint {
    fn from(upstream: Arc<Upstream>) -> Self {
        Self::One(upstream)
    }
}

impl Endpoint {
    /// What a record calls it; `None` = there is no other, or the message will say which of several.
    #[must_use]
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::One(upstream) => upstream.name(),
            Self::All(_) => None,
        }
    }

    /// The largest answer, or event of a stream. Unit: bytes.
    #[must_use]
    pub fn max_answer_bytes(&self) -> usize {
        match self {
            Self::One(upstream) => upstream.max_answer_bytes(),
            Self::All(all) => all.max_answer_bytes(),
        }
    }

    /// The most sessions at a time.
    #[must_use]
    pub fn max_sessions(&self) -> usize {
        match self {
            Self::One(upstream) => upstream.max_sessions(),
            Self::All(all) => all.max_sessions(),
        }
    }

    /// Serves a posted message.
    ///
    /// # Errors
    /// As for [`Upstream::post`].
    pub async fn post(&self, post: Post) -> Result<Response, Refusal> {
        match self {
            Self::One(upstream) => upstream.post(post).await,
            Self::All(all) => all.post(post).await,
        }
    }

    /// Opens a session's own stream.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub async fn get(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        match self {
            Self::One(upstream) => upstream.get(inbound).await,
            Self::All(all) => all.get(inbound).await,
        }
    }

    /// Ends a session.
    ///
    /// # Errors
    /// There is no such session of this caller.
    pub async fn delete(&self, inbound: &Inbound) -> Result<Response, Refusal> {
        match self {
            Self::One(upstream) => upstream.delete(inbound).await,
            Self::All(all) => all.delete(inbound).await,
        }
    }
}
