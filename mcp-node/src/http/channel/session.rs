//! The session of the front that is behind a channel.

use axum::http::{HeaderMap, HeaderValue};

use crate::{
    bridge::messages,
    request::Inbound,
    wire::{FIRST_MODERN, SESSION, VERSION},
};

/// How far it is.
#[derive(Default)]
enum Stage {
    #[default]
    None,
    /// An `initialize` is on its way.
    Greeting,
    Begun,
}

/// What is said with every message, once the session has begun.
#[derive(Default)]
pub struct Session {
    stage: Stage,
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// Who used it last: by his leave it ends.
    last: Option<Inbound>,
}

impl Session {
    /// Whether a session may begin now.
    pub fn greet(&mut self) -> bool {
        let is_none = matches!(self.stage, Stage::None);
        if is_none {
            self.stage = Stage::Greeting;
        }
        is_none
    }

    /// The `initialize` was not answered by a result: another may follow.
    pub fn refused(&mut self) {
        self.stage = Stage::None;
    }

    /// The `initialize` was answered by a result, with these headers.
    pub fn begun(&mut self, by: &Inbound, headers: &HeaderMap, result: &[u8]) {
        self.stage = Stage::Begun;
        self.id = headers.get(SESSION).cloned();
        self.last = self.id.is_some().then(|| by.clone());
        let agreed = messages::agreed(result).filter(|version| &**version < FIRST_MODERN);
        self.version = agreed.and_then(|version| HeaderValue::try_from(version).ok());
    }

    /// Names the session in a message's headers.
    pub fn put(&mut self, inbound: &mut Inbound) {
        let named = [(SESSION, &self.id), (VERSION, &self.version)];
        for (name, value) in named {
            if let Some(value) = value {
                inbound.headers.insert(name, value.clone());
            }
        }
        if self.id.is_some() {
            self.last = Some(inbound.clone());
        }
    }

    /// Whether the front has a session for it.
    pub fn is_named(&self) -> bool {
        self.id.is_some()
    }

    /// Who can end it, if there is anything to end.
    pub fn take(&mut self) -> Option<Inbound> {
        let (id, mut last) = (self.id.take()?, self.last.take()?);
        last.headers.insert(SESSION, id);
        Some(last)
    }
}
