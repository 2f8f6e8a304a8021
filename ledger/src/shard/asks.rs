//! The door for lease questions: NATS requests on `lease.ask.<shard>`.

use async_nats::{Client, Subject, Subscriber};
use futures::StreamExt;
use schemas::{LeaseAnswer, LeaseReply, LeaseRequest, Shard, subject};
use tokio::sync::mpsc;

use super::ShardError;

/// How many asks one request may hold.
const MAX_ASKS: usize = 1_000;

/// A question and where its answer goes.
pub(super) struct Question {
    pub request: LeaseRequest,
    pub reply: Subject,
}

/// Begins to hear questions. Nothing is answered before the shard has folded all it must.
pub(super) async fn open(client: &Client, shard: Shard) -> Result<Subscriber, ShardError> {
    client
        .subscribe(subject::lease_ask(shard))
        .await
        .map_err(|error| ShardError::Nats(Box::new(error)))
}

/// Hands questions on until the receiver is gone. One that cannot be read gets no answer: its sender is broken.
pub(super) async fn run(mut subscriber: Subscriber, to: mpsc::Sender<Question>) {
    while let Some(message) = subscriber.next().await {
        let Some(reply) = message.reply else { continue };
        match serde_json::from_slice::<LeaseRequest>(&message.payload) {
            Ok(request) if request.asks.len() <= MAX_ASKS => {
                if to.send(Question { request, reply }).await.is_err() {
                    return;
                }
            }
            Ok(request) => {
                tracing::warn!(node = %request.node, asks = request.asks.len(), "Too many asks at once");
            }
            Err(error) => tracing::warn!(%error, "A lease question cannot be read"),
        }
    }
}

/// Answers. A lost answer is asked for again.
pub(super) async fn answer(client: &Client, reply: Subject, answers: Vec<LeaseAnswer>) {
    match serde_json::to_vec(&LeaseReply { answers }) {
        Ok(payload) => {
            if let Err(error) = client.publish(reply, payload.into()).await {
                tracing::debug!(%error, "A lease answer was not sent");
            }
        }
        Err(error) => tracing::error!(%error, "A lease answer cannot be written"),
    }
}
