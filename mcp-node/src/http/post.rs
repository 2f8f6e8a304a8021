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
    Refusal,
    message::{read, readable_id_of},
};

use super::{Endpoint, GatewayState, as_result, changes};
use crate::{
    clock,
    keys::KeyEntry,
    request::{Inbound, Kind, Post},
    traces::RequestTrace,
    wire::{answer, era},
};

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
    let kind = Kind::of(&message);
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
    traced: RequestTrace,
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
    let (max, timeout) = (door.settings.max_request_bytes, door.settings.body_timeout);
    match tokio::time::timeout(timeout, within(&mut body, headers, max)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => {
            // Whether it ends in time or not, it was too large.
            let thrown_away = throw_away(body, max.saturating_mul(THROWN_AWAY));
            drop(tokio::time::timeout(timeout, thrown_away).await);
            Err(Refusal::RequestTooLarge(max))
        }
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::InvalidRequest("The body did not come in time.")),
    }
}

/// The body if it has at most so many bytes; `None` = it says or shows that it has more.
async fn within(
    body: &mut Body,
    headers: &HeaderMap,
    max: usize,
) -> Result<Option<Bytes>, Refusal> {
    let said =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|said| said > max) {
        return Ok(None);
    }
    match Limited::new(body, max).collect().await {
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
