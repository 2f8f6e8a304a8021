//! What a client sent: who it is, and one message that it posted.
//!
//! A [`Post`] has leave of nobody yet; it asks for it ([`Post::admit`]) where it is about to be forwarded. Absent on
//! purpose: reading it from a connection (`http` does), and the way to a server.

use std::{net::IpAddr, sync::Arc};

use axum::{body::Bytes, http::HeaderMap};
use mcp_node_core::{Message, Refusal, message::IdKey};

use crate::{
    access::{Access, Grant},
    call::{TaskPoll, Tasks},
    keys::KeyEntry,
    meter::{Call, Meter, Origin, Permit},
    traces::RequestTrace,
    wire::{RequestId, SESSION, era},
};

/// A request whose caller is known.
#[derive(Clone)]
pub struct Inbound {
    pub caller: Arc<KeyEntry>,
    /// The scopes of the token that it came with; `None` = it came with the key itself.
    pub scopes: Option<Arc<[String]>>,
    pub headers: HeaderMap,
    /// On which connection it came; 0 = nobody knows.
    pub connection: u64,
    /// The client's address; `None` = nobody knows, as within an embedding server.
    pub client: Option<IpAddr>,
}

impl Inbound {
    /// What it may do.
    #[must_use]
    pub fn grant(&self) -> Grant {
        Grant { caller: self.caller.clone(), scopes: self.scopes.clone() }
    }

    /// The session that it names, in the era that has sessions; one that is unreadable, or several, are the session
    /// ``, which nobody has.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        if self.is_modern() {
            return None;
        }
        let mut named = self.headers.get_all(SESSION).iter();
        let first = named.next()?;
        Some(if named.next().is_some() { "" } else { first.to_str().unwrap_or_default() })
    }

    /// Whether it speaks a revision without sessions.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        era::is_modern(&self.headers)
    }
}

/// What was posted.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `tool` is there for `tools/call` and nothing else.
    Request {
        id: RequestId,
        method: String,
        tool: Option<String>,
        /// What `Mcp-Name` repeats: see [`mcp_node_core::message::About`].
        target: Option<String>,
    },
    Notification {
        cancels: Option<IdKey>,
    },
    /// The client's answer to a request of the server.
    Answer,
}

/// One posted message, ready to go on.
#[derive(Clone)]
pub struct Post {
    pub inbound: Inbound,
    /// The bytes as they came: what was checked is what is forwarded.
    pub body: Bytes,
    pub kind: Kind,
    pub traced: RequestTrace,
    /// Size of the body that came. Unit: bytes.
    pub(crate) bytes_in: u64,
    pub(crate) server: Option<Arc<str>>,
    pub(crate) meter: Meter,
    pub(crate) access: Arc<Access>,
}

impl Post {
    /// The same for one of several servers, with these headers. What is called, who calls and what counts stay as they
    /// are, whatever that server reads.
    #[must_use]
    pub(crate) fn at(&self, server: &Arc<str>, headers: HeaderMap) -> Self {
        let inbound = Inbound { headers, ..self.inbound.clone() };
        Self { inbound, server: Some(server.clone()), ..self.clone() }
    }

    /// The same, to be sent again later: its span ends without it.
    #[must_use]
    pub(crate) fn untraced(&self) -> Self {
        Self { traced: RequestTrace::default(), ..self.clone() }
    }

    /// Takes leave for this message: `None` = it needs none, since it calls no tool.
    ///
    /// # Errors
    /// See [`Access::check`] and [`Meter::admit`].
    pub async fn admit(&self) -> Result<Option<Permit>, Refusal> {
        let Kind::Request { id, tool: Some(tool), .. } = &self.kind else { return Ok(None) };
        if let Err(refusal) = self.access.check(&self.inbound.grant(), tool) {
            self.meter.refused(&self.inbound.caller, tool, &refusal);
            return Err(refusal);
        }
        let origin = Origin {
            connection: self.inbound.connection,
            client: self.inbound.client,
            request: &id.raw,
            server: self.server.as_deref(),
            traced: Some(&self.traced),
        };
        let call = Call { method: "tools/call", tool, bytes_in: self.bytes_in, origin };
        self.meter.admit(&self.inbound.caller, call).await.map(Some)
    }

    /// Whether it calls a tool.
    #[must_use]
    pub fn calls(&self) -> bool {
        matches!(self.kind, Kind::Request { tool: Some(_), .. })
    }

    /// Notes that this message goes nowhere.
    pub fn refused(&self, refusal: &Refusal) {
        if let Kind::Request { tool: Some(tool), .. } = &self.kind {
            self.meter.refused(&self.inbound.caller, tool, refusal);
        }
    }

    /// What may have to be counted of the answers to this request; `None` = nothing, beyond a call of a tool.
    #[must_use]
    pub fn asks_for_task(&self, tasks: &Arc<Tasks>) -> Option<TaskPoll> {
        let Kind::Request { id, method, target, .. } = &self.kind else { return None };
        let (connection, request) = (self.inbound.connection, id.raw.clone());
        let method = ["tasks/get", "tasks/result", "subscriptions/listen"]
            .into_iter()
            .find(|known| known == method)?;
        let (meter, caller) = (self.meter.clone(), self.inbound.caller.clone());
        let (id, bytes_in) = (target.clone(), self.bytes_in);
        Some(TaskPoll {
            tasks: tasks.clone(),
            meter,
            caller,
            method,
            id,
            bytes_in,
            connection,
            request,
            server: self.server.clone(),
            client: self.inbound.client,
            traced: self.traced.clone(),
        })
    }
}

impl Kind {
    /// What a message is.
    pub fn of(message: &Message<'_>) -> Self {
        match message {
            Message::Request { id, method, tool, about } => Self::Request {
                id: id.into(),
                method: method.to_string(),
                tool: tool.as_deref().map(str::to_owned),
                target: about.target.as_deref().map(str::to_owned),
            },
            Message::Notification { cancels, .. } => Self::Notification {
                cancels: cancels.as_ref().map(mcp_node_core::message::Id::key),
            },
            Message::Answer { .. } => Self::Answer,
        }
    }
}
