//! Reads `CONTROL` for one shard: the decisions of its tenants, in order.

use runtime::nats::{Nats, ReadError, Reader};
use schemas::{Decision, Shard, subject};
use tokio::sync::mpsc;

/// The shard that takes in what nobody can read: it may have been meant for any.
const OF_THE_UNREADABLE: Shard = Shard(0);
/// How much of an unreadable message is shown. Unit: characters.
const EXCERPT: usize = 500;

/// A message of `CONTROL` for this shard, with its size. Unit: bytes.
pub(super) struct Taken {
    pub seq: u64,
    pub decision: Result<Decision, Unreadable>,
    pub size: usize,
}

/// A message of `CONTROL` that cannot be read.
pub(super) struct Unreadable {
    pub reason: String,
    pub excerpt: String,
}

/// Reads on from behind `after` until the receiver is gone or the stream is not what it was.
pub(super) async fn run(
    nats: Nats,
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
            let decision = read(&message.payload);
            let of = decision.as_ref().map_or(OF_THE_UNREADABLE, |read| read.shard(shards));
            if of == shard && to.send(Ok(Taken { seq: message.seq, decision, size })).await.is_err()
            {
                return;
            }
        }
    }
}

fn read(payload: &[u8]) -> Result<Decision, Unreadable> {
    let unreadable = |reason: String| Unreadable {
        reason,
        excerpt: String::from_utf8_lossy(payload).chars().take(EXCERPT).collect(),
    };
    match serde_json::from_slice::<Decision>(payload) {
        Ok(decision) if decision.v == schemas::fact::VERSION => Ok(decision),
        Ok(newer) => Err(unreadable(format!("version {} is not known here", newer.v))),
        Err(error) => Err(unreadable(error.to_string())),
    }
}
