//! One posted message: its body, what it says, and leave to forward it.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header::CONTENT_LENGTH},
    response::Response,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use mcp_node_core::{
    Message, Refusal,
    message::{IdKey, read, readable_id_of},
};

use super::{Endpoint, GatewayState, Inbound, answer, as_result, changes, era};
use crate::{
    access::Access,
    call::{TaskPoll, Tasks},
    clock,
    keys::KeyEntry,
    meter::{Call, Meter, Origin, Permit},
    traces::Traced,
};

/// A request's id: as it was written, and by its value.
#[derive(Clone, Debug)]
pub struct RequestId {
    pub raw: String,
    pub key: IdKey,
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
    pub traced: Traced,
    /// Size of the body that came. Unit: bytes.
    bytes_in: u64,
    server: Option<Arc<str>>,
    meter: Meter,
    access: Arc<Access>,
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
        Self { traced: Traced::default(), ..self.clone() }
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

/// Serves a POST.
pub(super) async fn serve(
    door: &GatewayState,
    front: &Endpoint,
    inbound: Inbound,
    body: Body,
) -> Response {
    let body = match whole(body, &inbound.headers, door).await {
        Ok(body) => body,
        Err(refusal) => return answer::refuse(&refusal, None),
    };
    serve_message(door, front, inbound, body).await
}

/// Serves one message, whole, whatever it came over.
pub(super) async fn serve_message(
    door: &GatewayState,
    front: &Endpoint,
    inbound: Inbound,
    body: Bytes,
) -> Response {
    let message = match read(&body) {
        Ok(message) => message,
        Err(refusal) => {
            return answer::refuse(&refusal, readable_id_of(&body).map(|id| id.raw));
        }
    };
    let kind = kind(&message);
    let id = match &kind {
        Kind::Request { id, .. } => Some(id.raw.clone()),
        Kind::Notification { .. } | Kind::Answer => None,
    };
    if let Err(refusal) = era::check(&message, &inbound.headers) {
        return answer::refuse(&refusal, id.as_deref());
    }
    let lists = matches!(&kind, Kind::Request { method, .. } if method == "tools/list");
    let listens = matches!(&kind, Kind::Request { method, .. } if method == "subscriptions/listen");
    let listens = listens.then(|| inbound.caller.clone());
    let shown = lists.then(|| door.access.shown(&inbound.grant(), inbound.is_modern())).flatten();
    let (meter, access) = (door.meter.clone(), door.access.clone());
    let traced = door.traces.begin(&message, &inbound.headers, &inbound.caller.state());
    let (server, bytes_in) = (front.name().cloned(), body.len() as u64);
    let post = Post { inbound, body, kind, traced, bytes_in, server, meter, access };
    let (said, modern) = (RefusalLog::of(&post), post.inbound.is_modern());
    match front.post(post).await {
        Ok(response) => match (shown, listens) {
            (Some(shown), _) => shown.of(response, id, front.max_answer_bytes()).await,
            (None, Some(caller)) => {
                changes::told(response, &caller, id.as_deref(), front.max_answer_bytes())
            }
            (None, None) => response,
        },
        Err(refusal) => {
            said.log(door, &refusal);
            said.traced.refused(&refusal);
            let as_result = door.meter.refuses_by_results() && as_result::is_for_models(&refusal);
            match &said.request {
                Some(id) if as_result && said.tool.is_some() => {
                    as_result::result(&refusal, id, modern)
                }
                id => answer::refuse(&refusal, id.as_deref()),
            }
        }
    }
}

/// What the log line of a refused request says.
struct RefusalLog {
    caller: Arc<KeyEntry>,
    connection: u64,
    client: Option<IpAddr>,
    method: Option<String>,
    tool: Option<String>,
    request: Option<String>,
    traced: Traced,
    began: Instant,
}

impl RefusalLog {
    fn of(post: &Post) -> Self {
        let (request, method, tool) = match &post.kind {
            Kind::Request { id, method, tool, .. } => {
                (Some(id.raw.clone()), Some(method.clone()), tool.clone())
            }
            Kind::Notification { .. } | Kind::Answer => (None, None, None),
        };
        let Inbound { caller, connection, client, .. } = &post.inbound;
        let (caller, connection, client) = (caller.clone(), *connection, *client);
        let traced = post.traced.clone();
        Self { caller, connection, client, method, tool, request, traced, began: Instant::now() }
    }

    fn log(&self, door: &GatewayState, refusal: &Refusal) {
        let state = self.caller.state();
        let what = if self.tool.is_some() { "tools/call" } else { "Request" };
        tracing::info!(
            tenant = %state.tenant,
            project = %state.project,
            key = %state.key,
            organization = door.meter.labels().organization.as_deref(),
            client = self.client.map(tracing::field::display),
            connectionId = self.connection,
            method = self.method.as_deref(),
            tool = self.tool.as_deref(),
            requestId = self.request.as_deref(),
            duration = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            status = refusal.reason(),
            detail = %refusal.message(clock::wall()),
            "{what} refused"
        );
    }
}

/// How much of the body of a request that is refused unread is looked at for its id. Unit: bytes.
const MAX_ID_BODY: usize = 64 * 1024;
/// For how long.
const ID_TIMEOUT: Duration = Duration::from_secs(1);

/// The id of a request that is refused unread, where its body is small and comes soon: the refusal names it then.
pub(super) async fn id_in(body: Body) -> Option<String> {
    let whole = Limited::new(body, MAX_ID_BODY).collect();
    let whole = tokio::time::timeout(ID_TIMEOUT, whole).await.ok()?.ok()?.to_bytes();
    readable_id_of(&whole).map(|id| id.raw.to_owned())
}

/// How many times the largest body is read at most of one that is too large.
const THROWN_AWAY: usize = 4;

/// The whole body, within its limits of size and time.
///
/// What is too large is read on and thrown away, within bounds: a client that still writes would see its connection
/// break instead of the answer.
pub(super) async fn whole(
    mut body: Body,
    headers: &HeaderMap,
    door: &GatewayState,
) -> Result<Bytes, Refusal> {
    let (most, patience) = (door.settings.max_request_bytes, door.settings.body_patience);
    match tokio::time::timeout(patience, within(&mut body, headers, most)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => {
            // Whether it ends in time or not, it was too large.
            let thrown_away = throw_away(body, most.saturating_mul(THROWN_AWAY));
            drop(tokio::time::timeout(patience, thrown_away).await);
            Err(Refusal::RequestTooLarge(most))
        }
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::InvalidRequest("The body did not come in time.")),
    }
}

/// The body if it has at most so many bytes; `None` = it says or shows that it has more.
async fn within(
    body: &mut Body,
    headers: &HeaderMap,
    most: usize,
) -> Result<Option<Bytes>, Refusal> {
    let said =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|said| said > most) {
        return Ok(None);
    }
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(Some(body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok(None),
        Err(_) => Err(Refusal::InvalidRequest("The body broke off.")),
    }
}

async fn throw_away(mut body: Body, mut left: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// What the message is.
fn kind(message: &Message<'_>) -> Kind {
    match message {
        Message::Request { id, method, tool, about } => Kind::Request {
            id: RequestId { raw: id.raw.to_owned(), key: id.key() },
            method: method.to_string(),
            tool: tool.as_deref().map(str::to_owned),
            target: about.target.as_deref().map(str::to_owned),
        },
        Message::Notification { cancels, .. } => {
            Kind::Notification { cancels: cancels.as_ref().map(mcp_node_core::message::Id::key) }
        }
        Message::Answer { .. } => Kind::Answer,
    }
}
