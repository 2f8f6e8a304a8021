//! Reads `CONTROL` for one shard: the decisions of its tenants, in order.

use runtime::nats::{Nats, ReadError, Reader};
use schemas::{Decision, Shard, subject};
use sqlx::PgPool;
use tokio::sync::mpsc;

use crate::store;

/// A decision of this shard's tenants, at its sequence on `CONTROL`, with its size. Unit: bytes.
pub(super) struct Taken {
    pub seq: u64,
    pub decision: Decision,
    pub size: usize,
}

/// Reads on from behind `after` until the receiver is gone or the stream is not what it was.
pub(super) async fn run(
    nats: Nats,
    pool: PgPool,
    (shard, shards): (Shard, u16),
    after: u64,
    to: mpsc::Sender<Result<Taken, ReadError>>,
) {
    let mut reader = match Reader::open(&nats, subject::CONTROL, &[], after).await {
        Ok(reader) => reader,
        Err(error) => return drop(to.send(Err(error)).await),
    };
    while !to.is_closed() {
        let messages = match reader.next(500, std::time::Duration::from_secs(5)).await {
            Ok(messages) => messages,
            Err(error) => return drop(to.send(Err(error)).await),
        };
        for message in messages {
            let size = message.payload.len();
            match serde_json::from_slice::<Decision>(&message.payload) {
                Ok(decision) if Shard::of(decision.tenant, shards) == shard => {
                    if to.send(Ok(Taken { seq: message.seq, decision, size })).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    let payload = String::from_utf8_lossy(&message.payload);
                    tracing::error!(stream.seq = message.seq, %error, "Quarantines a decision that cannot be read");
                    metrics::counter!("tollbook_ledger_quarantined_total").increment(1);
                    let kept =
                        store::quarantine_control(&pool, message.seq, &error.to_string(), &payload)
                            .await;
                    if let Err(error) = kept {
                        return drop(to.send(Err(ReadError::Nats(Box::new(error)))).await);
                    }
                }
            }
        }
    }
}
