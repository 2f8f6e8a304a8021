//! One conversation with the server, which one request at a time may use.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use mcp_node_core::{Refusal, message};
use schemas::Outcome;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use super::{Era, messages};
use crate::{
    access::Grant,
    traces::RequestTrace,
    upstream::{AnswerPiece, Server, duplex, http::HttpLink},
    wire::{FIRST_MODERN, RequestId, era},
};

/// How long a server may take to say what it speaks: one of the old era may say nothing at all.
const PROBE: Duration = Duration::from_secs(10);

/// The way to the server.
#[derive(Clone)]
pub enum Link {
    Http(HttpLink),
    Duplex(Arc<duplex::Session>),
}

/// A conversation that has begun.
pub struct Conversation {
    pub link: Link,
    pub era: Era,
    /// The answer to `initialize` or `server/discover`.
    pub hello: Bytes,
}

impl Link {
    /// Asks; `target` = what `Mcp-Name` repeats, where the server speaks the new era.
    pub async fn ask(
        &self,
        id: &RequestId,
        body: Bytes,
        new: Option<(&str, Option<&str>)>,
        deadline: Instant,
    ) -> Result<mpsc::Receiver<AnswerPiece>, Refusal> {
        match self {
            Self::Http(link) => Ok(link.ask(id.key.clone(), body, &mirrors(new))),
            Self::Duplex(session) => {
                session.request(id, &body, true, deadline).await.map(|asked| asked.pieces)
            }
        }
    }

    /// Sends what has no answer.
    pub async fn tell(&self, body: impl Into<Bytes>) -> Result<(), Refusal> {
        match self {
            Self::Http(link) => link.tell(body.into()).await,
            Self::Duplex(session) => session.write(&body.into()).await,
        }
    }

    /// The same way, used for a caller from now on; a channel serves one key only.
    pub fn speaking_for(&self, grant: &Grant) -> Self {
        match self {
            Self::Http(link) => Self::Http(link.speaking_for(grant)),
            Self::Duplex(session) => Self::Duplex(session.clone()),
        }
    }

    /// The same way, used for one request of a client. Over a channel the server hears of its trace in the message alone.
    pub fn within(&self, traced: &RequestTrace) -> Self {
        match self {
            Self::Http(link) => Self::Http(link.within(traced)),
            Self::Duplex(session) => Self::Duplex(session.clone()),
        }
    }

    /// What the server says of its own.
    pub fn stream(&self) -> (Vec<Bytes>, mpsc::Receiver<Bytes>) {
        match self {
            Self::Http(link) => (vec![], link.stream()),
            Self::Duplex(session) => session.open_stream(),
        }
    }

    /// Whether it can be used again.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Http(_) => true,
            Self::Duplex(session) => !session.end.is_cancelled(),
        }
    }

    /// Ends it.
    pub async fn close(&self) {
        match self {
            Self::Http(link) => link.close().await,
            Self::Duplex(session) => session.end.cancel(),
        }
    }

    /// Asks, and waits for the answer alone.
    pub async fn answer(
        &self,
        body: Bytes,
        id: &RequestId,
        new: Option<(&str, Option<&str>)>,
        timeout: Duration,
    ) -> Result<(Bytes, bool), Refusal> {
        let mut pieces = self.ask(id, body, new, Instant::now() + timeout).await?;
        let answer = async {
            loop {
                match pieces.recv().await {
                    Some(AnswerPiece::Answer(line, outcome)) => {
                        return Ok((line, outcome == Outcome::ProtocolError));
                    }
                    Some(AnswerPiece::Refused(refusal)) => return Err(refusal),
                    Some(AnswerPiece::Message(_)) => {}
                    None => return Err(Refusal::UpstreamUnreachable),
                }
            }
        };
        time::timeout(timeout, answer).await.map_err(|_| Refusal::UpstreamTimeout)?
    }
}

impl Conversation {
    /// What the server speaks.
    pub async fn probe(server: &Server) -> Result<Era, Refusal> {
        match server {
            Server::Http(http) => {
                let link = Link::Http(HttpLink::new(http, FIRST_MODERN, None));
                Ok(link.discovered("{}").await?.map_or(Era::Old, |_| Era::New))
            }
            Server::Duplex(_) => {
                let opened = Self::begin(server, None, "{}", None).await?;
                opened.link.close().await;
                Ok(opened.era)
            }
        }
    }

    /// Begins a conversation for a caller (`None` = the node itself) whose client can do so and so (JSON); `era` = what is known of the server.
    pub async fn begin(
        server: &Server,
        grant: Option<&Grant>,
        capabilities: &str,
        era: Option<Era>,
    ) -> Result<Self, Refusal> {
        match server {
            Server::Http(http) if era == Some(Era::New) => {
                let link = Link::Http(HttpLink::new(http, FIRST_MODERN, grant));
                let hello = link.discovered(capabilities).await?.ok_or(Refusal::UpstreamInvalid)?;
                Ok(Self { link, era: Era::New, hello })
            }
            Server::Http(http) => {
                let hello = messages::initialize(capabilities).into();
                let (mut link, hello) = HttpLink::begin(http, hello, grant).await?;
                link.speaks(&messages::agreed(&hello).ok_or(Refusal::UpstreamInvalid)?);
                let link = Link::Http(link);
                link.tell(messages::INITIALIZED).await?;
                Ok(Self { link, era: Era::Old, hello })
            }
            Server::Duplex(server) => {
                let link = Link::Duplex(server.begin(grant).await?);
                let begun = link.begin_channel(capabilities, era).await;
                if begun.is_err() {
                    link.close().await;
                }
                let (era, hello) = begun?;
                Ok(Self { link, era, hello })
            }
        }
    }
}

impl Link {
    /// The answer to `server/discover`, if it is one of the new era.
    async fn discovered(&self, capabilities: &str) -> Result<Option<Bytes>, Refusal> {
        let mut again = true;
        loop {
            let ask = messages::discover(capabilities).into();
            let new = Some(("server/discover", None));
            return match self.answer(ask, &messages::first(), new, PROBE).await {
                Ok((answer, false)) if messages::speaks_new(&answer) => Ok(Some(answer)),
                // It refuses the revision and names it: it speaks it, so it is worth a second try.
                Ok((answer, true)) if again && messages::wants_new(&answer) => {
                    again = false;
                    continue;
                }
                Ok(_)
                | Err(
                    Refusal::UpstreamTimeout | Refusal::UpstreamInvalid | Refusal::SessionNotFound,
                ) => Ok(None),
                Err(refusal) => Err(refusal),
            };
        }
    }

    /// The first words over a channel: those of the new era if it may speak it, else those of the old.
    async fn begin_channel(
        &self,
        capabilities: &str,
        era: Option<Era>,
    ) -> Result<(Era, Bytes), Refusal> {
        if era != Some(Era::Old)
            && let Some(hello) = self.discovered(capabilities).await?
        {
            return Ok((Era::New, hello));
        }
        let ask = messages::initialize(capabilities).into();
        let (hello, error) = self.answer(ask, &messages::second(), None, PROBE).await?;
        if error || messages::agreed(&hello).is_none() {
            return Err(Refusal::UpstreamInvalid);
        }
        self.tell(messages::INITIALIZED).await?;
        Ok((Era::Old, hello))
    }
}

/// The headers that repeat the body.
fn mirrors(new: Option<(&str, Option<&str>)>) -> Vec<(HeaderName, HeaderValue)> {
    let Some((method, target)) = new else { return vec![] };
    let value = era::mirroring;
    let named = target.map(|target| (HeaderName::from_static("mcp-name"), value(target)));
    [(HeaderName::from_static("mcp-method"), value(method))].into_iter().chain(named).collect()
}

/// An id of ours.
pub fn wire_id(number: u64) -> RequestId {
    let raw = format!("\"tb-{number}\"");
    RequestId { key: message::Id { raw: &raw }.key(), raw }
}
