//! `subscriptions/listen` of a client of 2026-07-28 in front of a server of the old era: what the server says of its
//! own goes to the client, tagged, as far as the client asked for it.

use std::{convert::Infallible, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use mcp_node_core::{
    Refusal,
    message::{Message, read},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Era, messages, pool::Pooled, to_old::LegacyServerAdapter};
use crate::{
    request::Post,
    wire::{RequestId, answer},
};

/// How long the server may take to note one subscription.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often a quiet stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a client wants to be told of.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct WantedNotices {
    #[serde(skip_serializing_if = "Option::is_none")]
    tools_list_changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts_list_changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources_list_changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_subscriptions: Option<Vec<String>>,
}

impl WantedNotices {
    fn wants(&self, method: &str) -> bool {
        match method {
            "notifications/tools/list_changed" => self.tools_list_changed == Some(true),
            "notifications/prompts/list_changed" => self.prompts_list_changed == Some(true),
            "notifications/resources/list_changed" => self.resources_list_changed == Some(true),
            "notifications/resources/updated" => self.resource_subscriptions.is_some(),
            _ => false,
        }
    }
}

/// A stream that is open; its conversation ends with it.
struct Open {
    conversation: Pooled,
    messages: mpsc::Receiver<Bytes>,
    wanted: WantedNotices,
    id: String,
    stopping: CancellationToken,
    /// What is said before anything else.
    first: Option<Bytes>,
}

/// Opens a stream.
///
/// # Errors
/// The server begins no conversation.
pub async fn listen(
    bridge: &LegacyServerAdapter,
    post: &Post,
    id: &RequestId,
    era: Era,
) -> Result<Response, Refusal> {
    let params = messages::params(&post.body).unwrap_or_default();
    let wanted =
        params.get("notifications").map(|raw| serde_json::from_str::<WantedNotices>(raw.get()));
    let mut wanted = wanted
        .transpose()
        .map_err(|_| Refusal::InvalidParams("`notifications` says what the client wants to hear."))?
        .unwrap_or_default();
    let conversation = bridge.pool.conversation(post, era).await?;
    if let Some(uris) = wanted.resource_subscriptions.take() {
        wanted.resource_subscriptions = Some(subscribe(&conversation, uris).await?);
    }
    let accepted = serde_json::to_string(&wanted).map_err(|_| Refusal::UpstreamInvalid)?;
    let (waited, messages) = conversation.link().stream();
    drop(waited); // It was said before this client listened.
    let first = Some(messages::acknowledged(&id.raw, &accepted));
    let (id, stopping) = (id.raw.clone(), bridge.stopping.clone());
    let open = Open { conversation, messages, wanted, id, stopping, first };
    let frames = stream::unfold(Some(open), async |open| open?.next().await);
    Ok(answer::events(Body::from_stream(frames.map(Ok::<_, Infallible>))))
}

/// Subscribes to resources; those that the server takes.
async fn subscribe(conversation: &Pooled, uris: Vec<String>) -> Result<Vec<String>, Refusal> {
    let mut taken = vec![];
    for uri in uris {
        let id = conversation.next_id();
        let params = serde_json::json!({ "uri": uri });
        let ask = format!(
            r#"{{"jsonrpc":"2.0","id":{},"method":"resources/subscribe","params":{params}}}"#,
            id.raw
        );
        let (_, error) = conversation.link().answer(ask.into(), &id, None, TIMEOUT).await?;
        if !error {
            taken.push(uri);
        }
    }
    Ok(taken)
}

impl Open {
    /// The next frame, and what is left to say after it.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        if let Some(first) = self.first.take() {
            return Some((frame(&first), Some(self)));
        }
        let until = Instant::now() + KEEP_ALIVE;
        loop {
            let message = tokio::select! {
                message = self.messages.recv() => message,
                () = tokio::time::sleep_until(until) => {
                    return Some((Bytes::from_static(b": \n\n"), Some(self)));
                }
                () = self.stopping.cancelled() => None,
            };
            let Some(message) = message else {
                if self.stopping.is_cancelled() || !self.conversation.link().is_alive() {
                    return Some((frame(&messages::unsubscribed(&self.id)), None));
                }
                self.wait_quietly().await;
                continue;
            };
            match read(&message) {
                Ok(Message::Notification { method, .. }) if self.wanted.wants(&method) => {
                    let tagged = messages::subscribed(&message, &self.id)?;
                    return Some((frame(&tagged), Some(self)));
                }
                Ok(Message::Request { id, method, .. }) => {
                    let said = match &*method {
                        "ping" => messages::answer(id.raw, "{}"),
                        _ => messages::no_such_method(id.raw).into(),
                    };
                    drop(self.conversation.link().tell(said).await); // If it is gone, so is the stream.
                }
                _ => {}
            }
        }
    }

    /// The server has no stream of its own, or has ended it: a new one is asked for after a while.
    async fn wait_quietly(&mut self) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (_, messages) = self.conversation.link().stream();
        self.messages = messages;
    }
}

fn frame(message: &[u8]) -> Bytes {
    answer::event(message).into()
}
