//! Key states, from the bucket `keys` into memory.

use std::time::Duration;

use async_nats::{
    HeaderMap, Subscriber,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, pull},
    },
};
use futures::StreamExt;
use runtime::nats::Nats;
use schemas::{KeyState, subject};
use tokio_util::sync::CancellationToken;

use super::{AGAIN, WatchError, push};
use crate::meter::Meter;

/// How often the bucket is asked whether it is ahead of what was pushed.
const AUDIT: Duration = Duration::from_secs(30);
/// A load that makes no progress for this long has failed.
const STALL: Duration = Duration::from_secs(10);
/// How many states are fetched at once.
const FETCH: usize = 2_000;

/// Listens and loads, then goes on for ever on a task of its own.
///
/// # Errors
/// The first load failed.
pub async fn watch_keys(
    nats: &Nats,
    meter: &Meter,
    stop: &CancellationToken,
) -> Result<(), WatchError> {
    let pushed = nats.client.subscribe(format!("{}.>", push(subject::KEYS))).await;
    let pushed = pushed.map_err(WatchError::while_doing("listening for key states"))?;
    let mut watcher = Watcher { nats: nats.clone(), meter: meter.clone(), pushed, seen: 0 };
    watcher.load().await?;
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(watcher.run()).await });
    Ok(())
}

struct Watcher {
    nats: Nats,
    meter: Meter,
    pushed: Subscriber,
    /// Every state up to this sequence of the bucket was seen.
    seen: u64,
}

impl Watcher {
    async fn run(mut self) {
        let mut connections = self.nats.connections.clone();
        connections.mark_unchanged();
        let mut audits = tokio::time::interval_at(tokio::time::Instant::now() + AUDIT, AUDIT);
        loop {
            let complete = tokio::select! {
                Some(message) = self.pushed.next() => self.take(&message),
                _ = connections.changed() => false,
                _ = audits.tick() => self.is_current().await,
            };
            if !complete {
                self.load_until_done().await;
            }
        }
    }

    /// Takes in a pushed state; `false` = one before it was missed.
    fn take(&mut self, message: &async_nats::Message) -> bool {
        apply(&self.meter, &message.payload);
        let Some(seq) = sequence(message.headers.as_ref()) else { return true };
        let next = seq <= self.seen + 1;
        if next {
            self.seen = self.seen.max(seq);
        }
        next
    }

    async fn is_current(&self) -> bool {
        let bucket = self.nats.jetstream.get_stream(bucket()).await;
        bucket.map_or(true, |bucket| bucket.cached_info().state.last_sequence <= self.seen)
    }

    async fn load_until_done(&mut self) {
        while let Err(error) = self.load().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "Will load the keys again");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Reads the last state of every key.
    async fn load(&mut self) -> Result<(), WatchError> {
        let bucket = self.nats.jetstream.get_stream(bucket()).await;
        let bucket = bucket.map_err(WatchError::while_doing("finding the bucket of keys"))?;
        let last = bucket.cached_info().state.last_sequence;
        let consumer = bucket
            .create_consumer(pull::Config {
                deliver_policy: DeliverPolicy::LastPerSubject,
                ack_policy: AckPolicy::None,
                filter_subject: format!("$KV.{}.>", subject::KEYS),
                memory_storage: true,
                num_replicas: 1,
                inactive_threshold: Duration::from_secs(60),
                ..pull::Config::default()
            })
            .await
            .map_err(WatchError::while_doing("reading the bucket of keys"))?;
        let expected = consumer.cached_info().num_pending;
        let mut count = 0;
        while count < expected {
            let fetched = tokio::time::timeout(STALL, self.fetch(&consumer)).await;
            match fetched.map_err(WatchError::while_doing("reading the bucket of keys"))?? {
                0 => {
                    return Err(WatchError::while_doing("reading the bucket of keys")(
                        "it ends too soon",
                    ));
                }
                some => count += some,
            }
        }
        self.seen = self.seen.max(last);
        tracing::info!(keys = self.meter.shared().keys.len(), states = count, "Loaded the keys");
        Ok(())
    }

    async fn fetch(&self, consumer: &jetstream::consumer::PullConsumer) -> Result<u64, WatchError> {
        let messages = consumer.fetch().max_messages(FETCH).messages().await;
        let mut messages = messages.map_err(WatchError::while_doing("fetching keys"))?;
        let mut count = 0;
        while let Some(message) = messages.next().await {
            let message = message.map_err(WatchError::while_doing("fetching keys"))?;
            apply(&self.meter, &message.payload);
            count += 1;
        }
        Ok(count)
    }
}

fn bucket() -> String {
    format!("KV_{}", subject::KEYS)
}

fn sequence(headers: Option<&HeaderMap>) -> Option<u64> {
    headers?.get(async_nats::header::NATS_SEQUENCE)?.as_str().parse().ok()
}

fn apply(meter: &Meter, payload: &[u8]) {
    if payload.is_empty() {
        return; // A deletion: a key that is gone was revoked before.
    }
    let shared = meter.shared();
    match serde_json::from_slice::<KeyState>(payload) {
        Ok(state) => {
            if let Some((known, actions)) = shared.keys.apply(state) {
                shared.perform(&known, actions);
            }
        }
        Err(error) => {
            metrics::counter!("mcp_key_states_unreadable_total").increment(1);
            tracing::error!(%error, "A key's state cannot be read: the key keeps the state it had");
        }
    }
}
