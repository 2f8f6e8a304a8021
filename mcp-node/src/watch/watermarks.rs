//! How far the ledger has counted, so that the spool may forget.

use std::time::Duration;

use async_nats::jetstream::kv;
use futures::StreamExt;
use runtime::nats::Nats;
use schemas::{Shard, Watermark, subject};
use tokio_util::sync::CancellationToken;

use super::{AGAIN, WatchError, push};
use crate::meter::Meter;

/// How often the bucket is read again whatever was pushed.
const AUDIT: Duration = Duration::from_secs(60);

/// Listens and loads, then goes on for ever on a task of its own.
///
/// # Errors
/// The first load failed.
pub async fn watch_watermarks(
    nats: &Nats,
    meter: &Meter,
    stop: &CancellationToken,
) -> Result<(), WatchError> {
    let listening = format!("{}.{}.*", push(subject::WATERMARKS), meter.shared().spool.node());
    let pushed = nats.client.subscribe(listening).await;
    let mut pushed = pushed.map_err(WatchError::while_doing("listening for watermarks"))?;
    load(nats, meter).await?;
    let (nats, meter, stop) = (nats.clone(), meter.clone(), stop.clone());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut connections = nats.connections.clone();
        connections.mark_unchanged();
        let mut audits = tokio::time::interval_at(tokio::time::Instant::now() + AUDIT, AUDIT);
        loop {
            tokio::select! {
                Some(message) = pushed.next() => {
                    let shard = message.subject.rsplit('.').next().and_then(|shard| shard.parse().ok());
                    if let Some(shard) = shard {
                        apply(&meter, Shard(shard), &message.payload);
                    }
                    continue;
                }
                _ = connections.changed() => {}
                _ = audits.tick() => {}
            }
            while let Err(error) = load(&nats, &meter).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "Will load the watermarks again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }));
    Ok(())
}

async fn load(nats: &Nats, meter: &Meter) -> Result<(), WatchError> {
    const DOING: &str = "reading the bucket of watermarks";
    let bucket: kv::Store = nats
        .jetstream
        .get_key_value(subject::WATERMARKS)
        .await
        .map_err(WatchError::while_doing(DOING))?;
    let spool = &meter.shared().spool;
    for shard in (0..spool.shards()).map(Shard) {
        let entry = subject::watermark_entry(spool.node(), shard);
        if let Some(value) = bucket.get(entry).await.map_err(WatchError::while_doing(DOING))? {
            apply(meter, shard, &value);
        }
    }
    Ok(())
}

fn apply(meter: &Meter, shard: Shard, payload: &[u8]) {
    match serde_json::from_slice::<Watermark>(payload) {
        Ok(watermark) => meter.shared().spool.release(shard, watermark),
        Err(error) => {
            tracing::error!(%error, "A watermark cannot be read: the spool keeps what it has");
        }
    }
}
