//! Asks the ledger for leases: one queue a shard, many keys a question, the same question until it is answered.
//!
//! Invariant: every ask that is taken in gets exactly one answer, or the process ends. A lost answer costs a second
//! and nothing else, since the ledger knows a lease by the id that we minted. Absent on purpose: deciding what to
//! ask for (see `LeaseBook`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, Request};
use futures::{StreamExt, stream::FuturesUnordered};
use schemas::{Epoch, LeaseAnswer, LeaseAsk, LeaseReply, LeaseRequest, NodeId, Shard, subject};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::keys::KeyEntry;

/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The most keys in one question.
const MAX_ASKS: usize = 256;
/// The most questions of one shard on their way at once.
const MAX_FLYING: usize = 4;

/// Who is told what the ledger answers.
pub trait LeaseAnswerHandler: Send + Sync + 'static {
    /// A key's lease came, or was refused.
    fn answered(self: &Arc<Self>, key: &Arc<KeyEntry>, answer: LeaseAnswer);

    /// Whether a question of this shard was answered at all.
    fn reached(&self, shard: Shard, is_answered: bool);
}

/// One key's wish for a lease.
pub struct QueuedLeaseAsk {
    pub ask: LeaseAsk,
    pub known: Arc<KeyEntry>,
}

/// The doors to the queues.
pub struct Askers {
    shards: Vec<mpsc::UnboundedSender<QueuedLeaseAsk>>,
    asked: Vec<AtomicBool>,
}

/// The other ends of the queues, to be run once there is someone to answer to.
pub struct AskQueues(Vec<mpsc::UnboundedReceiver<QueuedLeaseAsk>>);

impl Askers {
    /// Queues for so many shards. They are bounded by the keys: each has one question open at most.
    #[must_use]
    pub fn new(shards: u16) -> (Self, AskQueues) {
        let (senders, receivers) = (0..shards).map(|_| mpsc::unbounded_channel()).unzip();
        let asked = (0..shards).map(|_| AtomicBool::new(false)).collect();
        (Self { shards: senders, asked }, AskQueues(receivers))
    }

    pub(crate) fn ask(&self, shard: Shard, asked: QueuedLeaseAsk) {
        let place = usize::from(shard.0);
        match self.shards.get(place).map(|queue| queue.send(asked)) {
            Some(Ok(())) => self.asked[place].store(true, Ordering::Relaxed),
            Some(Err(_)) => {} // The process ends: nobody waits any more.
            None => {
                tracing::error!(
                    shard = shard.0,
                    "A key lies in a shard that the log does not have"
                );
            }
        }
    }

    /// The shards in which a lease was ever asked for.
    #[must_use]
    pub fn asked(&self) -> Vec<Shard> {
        let asked = (0u16..).zip(&self.asked).filter(|(_, asked)| asked.load(Ordering::Relaxed));
        asked.map(|(shard, _)| Shard(shard)).collect()
    }
}

/// Who asks.
#[derive(Clone)]
pub struct LeaseClient {
    pub client: Client,
    pub node: NodeId,
    pub epoch: Epoch,
}

impl AskQueues {
    /// Starts a task for each shard; they end with `stop`.
    pub(crate) fn start(
        self,
        who: &LeaseClient,
        told: &Arc<impl LeaseAnswerHandler>,
        stop: &CancellationToken,
    ) {
        for (shard, queue) in (0u16..).zip(self.0) {
            let run = run(Shard(shard), queue, who.clone(), told.clone());
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(run).await });
        }
    }
}

/// One shard's questions, for ever.
async fn run(
    shard: Shard,
    mut queue: mpsc::UnboundedReceiver<QueuedLeaseAsk>,
    who: LeaseClient,
    told: Arc<impl LeaseAnswerHandler>,
) {
    let (mut waiting, mut flying) = (Vec::new(), FuturesUnordered::new());
    let (mut not_before, mut failures) = (Instant::now(), 0u32);
    loop {
        while !waiting.is_empty() && flying.len() < MAX_FLYING && Instant::now() >= not_before {
            let batch: Vec<QueuedLeaseAsk> = waiting.drain(..waiting.len().min(MAX_ASKS)).collect();
            flying.push(question(shard, batch, &who));
        }
        let blocked = !waiting.is_empty() && flying.len() < MAX_FLYING;
        tokio::select! {
            Some(asked) = queue.recv() => {
                waiting.push(asked);
                while let Ok(asked) = queue.try_recv() {
                    waiting.push(asked);
                }
            }
            Some((batch, answers)) = flying.next(), if !flying.is_empty() => match answers {
                Ok(answers) => {
                    failures = 0;
                    told.reached(shard, true);
                    let answered = batch.iter().zip(answers);
                    answered.for_each(|(asked, answer)| told.answered(&asked.known, answer));
                }
                Err(error) => {
                    failures += 1;
                    told.reached(shard, false);
                    not_before = Instant::now() + back_off(failures);
                    metrics::counter!("mcp_lease_questions_failed_total").increment(1);
                    tracing::debug!(shard = shard.0, failures, %error, "Lease request failed: it is repeated");
                    waiting.extend(batch); // The same leases, whatever else is asked with them.
                }
            },
            () = tokio::time::sleep_until(not_before), if blocked => {}
        }
    }
}

/// Asks once. The asks come back with the answers, or with the reason why there are none.
async fn question(
    shard: Shard,
    batch: Vec<QueuedLeaseAsk>,
    who: &LeaseClient,
) -> (Vec<QueuedLeaseAsk>, Result<Vec<LeaseAnswer>, AskError>) {
    let asks = batch.iter().map(|asked| asked.ask.clone()).collect();
    let request = LeaseRequest { node: who.node.clone(), epoch: who.epoch, asks };
    let answers = send(&who.client, subject::lease_ask(shard), &request).await;
    let answers = answers.and_then(|answers| {
        let fit = answers.len() == batch.len()
            && answers.iter().zip(&request.asks).all(|(answer, ask)| is_for(answer, ask, &request));
        if fit { Ok(answers) } else { Err(AskError("the answer is for another question".into())) }
    });
    (batch, answers)
}

/// The ledger gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct AskError(String);

async fn send(
    client: &Client,
    subject: String,
    request: &LeaseRequest,
) -> Result<Vec<LeaseAnswer>, AskError> {
    let payload = serde_json::to_vec(request).map_err(|e| AskError(e.to_string()))?;
    let request = Request::new().payload(payload.into()).timeout(Some(TIMEOUT));
    // The client's own timer starts late when its channel is full: this one does not.
    let answer = tokio::time::timeout(2 * TIMEOUT, client.send_request(subject, request)).await;
    let answer =
        answer.map_err(|_| AskError("no answer".into()))?.map_err(|e| AskError(e.to_string()))?;
    let reply: LeaseReply =
        serde_json::from_slice(&answer.payload).map_err(|e| AskError(e.to_string()))?;
    Ok(reply.answers)
}

fn is_for(answer: &LeaseAnswer, ask: &LeaseAsk, request: &LeaseRequest) -> bool {
    match answer {
        LeaseAnswer::Granted(lease) => {
            (lease.lease, lease.key) == (ask.lease, ask.key)
                && lease.node == request.node
                && lease.epoch == request.epoch
        }
        LeaseAnswer::Refused { lease, .. } => *lease == ask.lease,
    }
}

/// 25 ms doubling to 1.6 s, less up to a half at random.
fn back_off(failures: u32) -> Duration {
    let whole = 25u64 << failures.clamp(1, 7).saturating_sub(1);
    let jitter = getrandom::u64().map_or(0, |random| random % (whole / 2 + 1));
    Duration::from_millis(whole - jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_repeated_soon_and_never_in_a_hot_loop() {
        for failures in 1..100 {
            let wait = back_off(failures);
            assert!(
                (Duration::from_millis(12)..=Duration::from_millis(1_600)).contains(&wait),
                "{wait:?}"
            );
        }
    }
}
